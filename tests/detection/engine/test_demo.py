"""The demo's data: what is bundled, what is taken of a COCO folder, what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("detectron2")
from detectron2.config import get_cfg
from detectron2.structures import Boxes, Instances

from nasnet_det.detection.data.columns import CocoFormatError
from nasnet_det.detection.data.folders import read_training
from nasnet_det.detection.data.registered import look_at_names
from nasnet_det.detection.engine import demo
from nasnet_det.detection.engine.demo import DATASET, choose_images, prepare, sample_data


def content(boxes: dict[int, list[list[int]]], crowd: int | None = None) -> dict[str, Any]:
    images = [{"id": i, "file_name": f"{i}.jpg", "width": 120, "height": 60} for i in boxes]
    annotations = []
    for image, own in boxes.items():
        for box in own:
            entry = {"id": len(annotations) + 1, "image_id": image, "category_id": 1 + image % 2, "bbox": box}
            annotations.append(entry | {"iscrowd": int(image == crowd), "area": box[2] * box[3]})
    categories = [{"id": 2, "name": "dog"}, {"id": 1, "name": "cat"}, {"id": 3, "name": "cow"}]
    return {"images": images, "annotations": annotations, "categories": categories}


def test_the_bundled_photographs_are_whole_and_annotated_within_their_borders() -> None:
    data = sample_data()
    annotations = data.content
    licenses = {entry["id"] for entry in annotations["licenses"]}
    assert len(annotations["images"]) >= 8
    for image, path in zip(annotations["images"], data.find_images().paths, strict=True):
        with Image.open(path) as file:
            assert np.asarray(file.convert("RGB")).shape == (image["height"], image["width"], 3)
        assert image["license"] in licenses and image["source"]
        boxes = [entry["bbox"] for entry in annotations["annotations"] if entry["image_id"] == image["id"]]
        assert boxes
        for x, y, width, height in boxes:
            assert x >= 0 and y >= 0 and x + width <= image["width"] and y + height <= image["height"]


def test_easy_images_are_chosen_and_only_their_categories_kept() -> None:
    big, small, tiny = [5, 5, 40, 40], [5, 5, 12, 40], [5, 5, 4, 40]
    data = content({7: [big], 2: [big, big], 1: [big, small], 3: [tiny], 4: [], 5: [big] * 9, 6: [big]}, crowd=6)
    chosen = choose_images(data, 2)
    assert [image["id"] for image in chosen["images"]] == [2, 7]
    assert len(chosen["annotations"]) == 3
    assert [category["name"] for category in chosen["categories"]] == ["dog", "cat"]
    # Where large objects are too few, smaller ones do.
    assert [image["id"] for image in choose_images(data, 8)["images"]] == [1, 2, 7]
    with pytest.raises(CocoFormatError, match="image"):
        choose_images(content({3: [tiny]}), 8)


def test_what_was_chosen_is_registered_and_a_run_on_other_images_is_not_overwritten(tmp_path: Path) -> None:
    big = [5, 5, 40, 40]
    (tmp_path / "annotations.json").write_text(json.dumps(content({1: [big], 2: [big], 4: [big]})))
    for i in (1, 2, 4):
        Image.new("RGB", (120, 60)).save(tmp_path / f"{i}.jpg")
    data = read_training(tmp_path)
    for _ in range(2):
        assert [category["name"] for category in prepare(data, 2, tmp_path / "out").categories] == ["cat", "dog"]
        assert [record["image_id"] for record in look_at_names([DATASET]).train] == [1, 2]
    with pytest.raises(CocoFormatError, match=str(tmp_path / "out")):
        prepare(data, 3, tmp_path / "out")
    assert [record["image_id"] for record in look_at_names([DATASET]).train] == [1, 2]


def test_images_of_one_name_get_a_picture_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = content({1: [[5, 5, 40, 40]], 2: [[5, 5, 40, 40]]})
    for image, folder in zip(found["images"], ("a", "b"), strict=True):
        image["file_name"] = f"{folder}/1.jpg"
        (tmp_path / folder).mkdir()
        Image.new("RGB", (120, 60)).save(tmp_path / folder / "1.jpg")
    (tmp_path / "annotations.json").write_text(json.dumps(found))
    prepare(read_training(tmp_path), 2, tmp_path / "out")
    none = Instances((60, 120), pred_boxes=Boxes(torch.zeros(0, 4)), scores=torch.zeros(0))
    monkeypatch.setattr(demo, "Predictor", lambda cfg: lambda image: none)
    demo._draw_all(get_cfg(), tmp_path / "out", ["cat", "dog"])
    assert len([*(tmp_path / "out" / "pictures").iterdir()]) == 2


def test_coco_mini_has_enough_easy_images(shared: Path) -> None:
    data = read_training(shared / "data" / "coco_mini")
    assert len(choose_images(data.content, 8)["images"]) == 8
