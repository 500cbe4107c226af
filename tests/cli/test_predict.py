"""The command that draws detections, run as a user runs it on a small random detector."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("detectron2")
from detectron2.config import get_cfg
from detectron2.modeling import build_model

from nasnet_det.cli.predict import main
from nasnet_det.detection import add_nasnet_config
from nasnet_det.detection.config import read_config

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def detector(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The options that name a config and a checkpoint."""
    folder = tmp_path_factory.mktemp("detector")
    cfg = get_cfg()
    add_nasnet_config(cfg)
    cfg.merge_from_file(str(ROOT / "configs" / "demo.yaml"))
    cfg.merge_from_list(["MODEL.NASNET.NUM_FILTERS", 8, "MODEL.NASNET.NUM_CELLS", 1, "MODEL.DEVICE", "cpu"])
    cfg.merge_from_list(["INPUT.MIN_SIZE_TEST", 64, "MODEL.ROI_HEADS.SCORE_THRESH_TEST", 0.0, "DATASETS.TEST", ()])
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = 3
    (folder / "config.yaml").write_text(cfg.dump())
    torch.manual_seed(0)
    torch.save({"model": build_model(cfg).state_dict()}, folder / "model.pth")
    return ["--config-file", str(folder / "config.yaml"), "--weights", str(folder / "model.pth")]


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A folder of two images, one of them with an alpha channel, and a text file."""
    folder = tmp_path / "images"
    folder.mkdir()
    noise = np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)
    Image.fromarray(noise).save(folder / "a.jpg")
    Image.new("RGBA", (50, 40)).save(folder / "b.png")
    (folder / "notes.txt").write_text("no image")
    return folder


def test_a_folder_becomes_pictures_and_results(detector: list[str], images: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    assert main([*detector, "--output", str(output), "--threshold", "0", str(images)]) == 0
    with Image.open(output / "a.jpg") as picture:
        assert picture.size == (90, 60)
    content = json.loads((output / "images.json").read_text())
    assert [(Path(i["file_name"]).name, i["width"]) for i in content["images"]] == [("a.jpg", 90), ("b.png", 50)]
    results = json.loads((output / "results.json").read_text())
    assert {result["image_id"] for result in results} == {1, 2}
    assert all(set(result) == {"image_id", "category_id", "bbox", "score"} for result in results)
    assert {result["category_id"] for result in results} <= {1, 2, 3}


def test_ids_and_names_of_annotations(detector: list[str], images: Path, tmp_path: Path) -> None:
    content = {
        "images": [{"id": 77, "file_name": "a.jpg", "width": 90, "height": 60}],
        "categories": [{"id": i, "name": f"class {i}"} for i in (9, 5, 7)],
        "annotations": [],
    }
    (tmp_path / "annotations.json").write_text(json.dumps(content))
    extra = ["--annotations", str(tmp_path / "annotations.json"), "--output", str(tmp_path / "out")]
    assert main([*detector, *extra, str(images / "*.jpg")]) == 0
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert {result["image_id"] for result in results} == {77}
    assert {result["category_id"] for result in results} <= {5, 7, 9}


def test_two_detectors_stand_side_by_side(detector: list[str], images: Path, tmp_path: Path) -> None:
    extra = ["--compare-weights", detector[-1], "--titles", "one", "two", "--output", str(tmp_path / "out")]
    assert main([*detector, *extra, str(images / "a.jpg")]) == 0
    with Image.open(tmp_path / "out" / "a.jpg") as picture:
        assert picture.width > 2 * 90 and picture.height > 60
    found = [json.loads((tmp_path / "out" / name).read_text()) for name in ("results.json", "results_compared.json")]
    assert found[0] == found[1]


def test_a_second_detector_has_its_own_config(detector: list[str], images: Path, tmp_path: Path) -> None:
    cfg = Path(detector[1]).read_text().replace("NUM_CLASSES: 3", "NUM_CLASSES: 2")
    (tmp_path / "other.yaml").write_text(cfg)
    torch.manual_seed(0)
    state = build_model(read_config(tmp_path / "other.yaml")).state_dict()
    torch.save({"model": state, "config": cfg}, tmp_path / "other.pth")
    extra = ["--compare-weights", str(tmp_path / "other.pth"), "--output", str(tmp_path / "out")]
    assert main([*detector, *extra, str(images / "a.jpg")]) == 0
    results = json.loads((tmp_path / "out" / "results_compared.json").read_text())
    assert {result["category_id"] for result in results} == {1, 2}


def test_broken_images_are_skipped_counted_and_named(
    detector: list[str], images: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    data = (images / "a.jpg").read_bytes()
    (images / "half.jpg").write_bytes(data[: len(data) // 2])
    (images / "none.jpg").write_text("no picture")
    assert main([*detector, "--output", str(tmp_path / "out"), str(images)]) == 0
    error = capsys.readouterr().err
    assert "skipped 2 of 4 images" in error and "half.jpg" in error and "none.jpg" in error
    assert main([*detector, "--output", str(tmp_path / "out2"), str(images / "none.jpg")]) == 2
    assert not (tmp_path / "out2" / "results.json").exists()


def test_images_of_the_same_name_do_not_replace_each_other(detector: list[str], images: Path, tmp_path: Path) -> None:
    Image.new("RGB", (50, 40)).save(images / "a.png")
    assert main([*detector, "--output", str(tmp_path / "out"), str(images / "a.jpg"), str(images / "a.png")]) == 0
    assert (tmp_path / "out" / "a.jpg").is_file() and (tmp_path / "out" / "a-2.jpg").is_file()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (["nowhere/*.jpg"], "names no image"),
        (["--weights", "nowhere.pth", "{image}"], "nowhere.pth"),
        (["{image}", "--opts", "MODEL.NASNET.NUM_FILTRES", "8"], "NUM_FILTRES"),
    ],
)
def test_faults_of_the_user_are_a_line(
    detector: list[str], images: Path, tmp_path: Path, capsys: pytest.CaptureFixture, change: list[str], words: str
) -> None:
    arguments = [argument.format(image=images / "a.jpg") for argument in change]
    assert main([*detector, "--output", str(tmp_path / "out"), *arguments]) == 2
    error = capsys.readouterr().err
    assert "error: " in error and words in error and "Traceback" not in error


@pytest.mark.parametrize("threshold", ["50", "-1", "nan"])
def test_a_threshold_that_is_no_score_is_refused(capsys: pytest.CaptureFixture, threshold: str) -> None:
    with pytest.raises(SystemExit):
        main(["detector", "a.jpg", "--threshold", threshold])
    assert "--threshold" in capsys.readouterr().err
