"""Detections on the validation images of a folder."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

pytest.importorskip("detectron2")

from nasnet_det.detection.data.folders import open_dataset
from nasnet_det.detection.data.look import DatasetError
from nasnet_det.detection.engine.run_folder import image_digest, mark_run
from nasnet_det.detection.engine.scoring import detect_on_data, open_to_score
from tests.detection.engine.test_prediction import Finder


def write_coco(file: Path, sizes: dict[int, tuple[int, int]], box: list[int], *names: str) -> None:
    """Write images of these sizes by their ids, an object of the first category in each."""
    content = {
        "images": [{"id": i, "file_name": f"{i}.png", "width": w, "height": h} for i, (w, h) in sizes.items()],
        "annotations": [{"id": i, "image_id": i, "category_id": 1, "bbox": box} for i in sizes],
        "categories": [{"id": number, "name": name} for number, name in enumerate(names, start=1)],
    }
    file.write_text(json.dumps(content))


def test_unusable_images_are_named_once_and_not_all(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A narrow image, which the detector cannot take, and one that is incomplete."""
    sizes = {1: (40, 30), 2: (1, 30), 3: (40, 30)}
    write_coco(tmp_path / "val.json", sizes, [0, 0, 1, 9], "hen", "fox")
    for number, size in sizes.items():
        Image.effect_noise(size, 50).save(tmp_path / f"{number}.png")
    whole = (tmp_path / "3.png").read_bytes()
    (tmp_path / "3.png").write_bytes(whole[: len(whole) // 2])
    with caplog.at_level(logging.WARNING):
        file = detect_on_data(Finder(), *open_dataset(tmp_path, val_share=0)[1:], tmp_path / "out")
    assert [result["image_id"] for result in json.loads(file.read_text())] == [1]
    (line,) = [record.message for record in caplog.records if "without detections" in record.message]
    assert "2 of 3" in line and "2.png" in line and "3.png" in line
    (tmp_path / "1.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DatasetError, match=r"3 of 3 .*1\.png"):
        detect_on_data(Finder(), *open_dataset(tmp_path, val_share=0)[1:], tmp_path / "out")


def test_a_run_is_scored_on_what_it_was_not_trained_on(tmp_path: Path) -> None:
    """Data without a split are divided as the run divided them, also after a label was corrected; others are whole."""
    data, run = tmp_path / "data", tmp_path / "run"
    for root, number in ((data, 10), (tmp_path / "other", 4)):
        root.mkdir()
        write_coco(root / "annotations.json", dict.fromkeys(range(number), (40, 30)), [0, 0, 9, 9], "hen")
    train, held_out, _ = open_dataset(data, val_share=0.3, seed=5)
    digest = image_digest(data, train, held_out)
    mark_run(run, "finetune", {"options": {"val_share": 0.3, "seed": 5}, "images": digest})

    def scored(root: Path, detector: Path = run, **more: Any) -> list[int]:
        return [image["id"] for image in open_to_score(str(detector), root, **more)[0].content["images"]]

    expected = [image["id"] for image in held_out.content["images"]]
    file = data / "annotations.json"
    file.write_text(file.read_text().replace("[0, 0, 9, 9]", "[1, 0, 9, 9]"))
    assert scored(data) == scored(data, run / "model.safetensors") == expected and len(expected) == 3
    assert scored(tmp_path / "other") == [0, 1, 2, 3] and len(scored(tmp_path / "other", val_share=0.5)) == 2
    assert len(scored(data, tmp_path / "detector.onnx")) == 2
    mark_run(run, "demo", {})
    assert len(scored(data)) == 2
    file.rename(data / "val.json")
    assert len(scored(data)) == len(scored(data, tmp_path / "detector.onnx")) == 10
    assert len(scored(data, val_share=0.5)) == 5
