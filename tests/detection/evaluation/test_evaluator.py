"""detectron2's evaluator: instances in, COCO's numbers or the server's files out."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("detectron2")
pytest.importorskip("pycocotools")
from detectron2.data import MetadataCatalog
from detectron2.structures import Boxes, Instances

from nasnet_det.detection.data.look import DatasetError
from nasnet_det.detection.evaluation.evaluator import CocoEvaluator
from nasnet_det.safe_io.files import OverwriteError

BOXES = {1: [5.0, 5.0, 20.0, 25.0], 2: [0.0, 0.0, 30.0, 30.0]}
CATEGORY = {1: 3, 2: 9}


@pytest.fixture
def dataset(tmp_path: Path) -> Iterator[Path]:
    """A registered set of two images, an object each, of two categories with ids 3 and 9."""
    annotations = []
    for i, (x0, y0, x1, y1) in BOXES.items():
        annotations.append({"id": i, "image_id": i, "category_id": CATEGORY[i], "bbox": [x0, y0, x1 - x0, y1 - y0]})
    data = {
        "images": [{"id": i, "width": 40, "height": 40, "file_name": f"{i}.jpg"} for i in BOXES],
        "categories": [{"id": 9, "name": "car"}, {"id": 3, "name": "person"}],
        "annotations": annotations,
    }
    (tmp_path / "set.json").write_text(json.dumps(data))
    MetadataCatalog.get("evaluated").set(json_file=str(tmp_path / "set.json"))
    yield tmp_path
    MetadataCatalog.remove("evaluated")


def found(image: int, classes: list[int]) -> dict[str, Any]:
    boxes = torch.tensor([BOXES[image]] * len(classes))
    scores, predicted = torch.linspace(0.9, 0.5, len(classes)), torch.tensor(classes)
    return {"instances": Instances((40, 40), pred_boxes=Boxes(boxes), scores=scores, pred_classes=predicted)}


def record(image: int, **more: Any) -> dict[str, Any]:
    return {"image_id": image, "file_name": f"{image}.jpg", **more}


def test_perfect_detections_score_100(dataset: Path) -> None:
    evaluator = CocoEvaluator("evaluated", dataset / "out")
    evaluator.process([record(2)], [found(2, [1])])
    evaluator.process([record(1)], [found(1, [0])])
    scores = evaluator.evaluate()["bbox"]
    assert scores["AP"] == pytest.approx(100) and scores["AP-car"] == pytest.approx(100)
    assert math.isnan(scores["APl"])
    written = json.loads((dataset / "out" / "coco_instances_results.json").read_text())
    assert [(r["image_id"], r["category_id"], r["bbox"]) for r in written] == [
        (1, 3, [5.0, 5.0, 15.0, 20.0]),
        (2, 9, [0.0, 0.0, 30.0, 30.0]),
    ]
    evaluator.reset()
    assert evaluator.evaluate()["bbox"]["AP"] == 0.0


def test_unreadable_images_count_as_without_detections(dataset: Path, caplog: pytest.LogCaptureFixture) -> None:
    evaluator = CocoEvaluator("evaluated")
    evaluator.process([record(1), record(2, unreadable=True)], [found(1, [0]), found(2, [1])])
    scores = evaluator.evaluate()["bbox"]
    assert scores["AP-person"] == pytest.approx(100) and scores["AP-car"] == 0.0
    assert "1 of 2 images" in caplog.text and "2.jpg" in caplog.text
    evaluator.process([record(1, unreadable=True)], [found(1, [])])
    with pytest.raises(DatasetError, match=r"evaluated.*1\.jpg, 2\.jpg"):
        evaluator.evaluate()


def test_a_models_own_category_ids(dataset: Path) -> None:
    evaluator = CocoEvaluator("evaluated", category_ids=range(1, 91))
    evaluator.process([record(1), record(2)], [found(1, [2, 3]), found(2, [8])])
    assert evaluator.evaluate()["bbox"]["AP"] == pytest.approx(100)


def test_classes_are_matched_by_name(dataset: Path) -> None:
    evaluator = CocoEvaluator("evaluated", classes=["cow", "car", "person"])
    evaluator.process([record(1), record(2)], [found(1, [2, 0]), found(2, [1])])
    assert evaluator.evaluate()["bbox"]["AP"] == pytest.approx(100)
    with pytest.raises(DatasetError, match=r"evaluated.*person, car.*person, cow"):
        CocoEvaluator("evaluated", classes=["person", "cow"])


def test_a_report_is_written(dataset: Path) -> None:
    evaluator = CocoEvaluator("evaluated", dataset / "out", report=True)
    evaluator.process([record(1)], [found(1, [1])])
    evaluator.evaluate()
    assert json.loads((dataset / "out" / "report" / "errors.json").read_text())["counts"]["classification"] == 1


def test_a_class_beyond_the_data_sets_is_an_error(dataset: Path) -> None:
    with pytest.raises(DatasetError, match=r"number 2.*evaluated.* 2 classes"):
        CocoEvaluator("evaluated").process([record(1)], [found(1, [2])])


def test_what_could_not_be_scored_or_written_is_told_before(dataset: Path) -> None:
    with pytest.raises(ValueError, match="'bbox'"):
        CocoEvaluator("evaluated", iou_types="bbox")  # type: ignore[arg-type]
    with pytest.raises(NotADirectoryError, match=r"set\.json"):
        CocoEvaluator("evaluated", dataset / "set.json")
    (dataset / "out" / "coco_instances_results.json").mkdir(parents=True)
    with pytest.raises(IsADirectoryError, match="results"):
        CocoEvaluator("evaluated", dataset / "out")
    with pytest.raises(ValueError, match="segm"):
        CocoEvaluator("evaluated", iou_types=["segm"]).process([record(1)], [found(1, [0])])


def test_a_test_set_is_written_for_the_server(dataset: Path) -> None:
    data = json.loads((dataset / "set.json").read_text())
    del data["annotations"]
    (dataset / "set.json").write_text(json.dumps(data))
    evaluator = CocoEvaluator("evaluated", dataset / "out", algorithm="NASNet-A")
    evaluator.process([record(1)], [found(1, [0])])
    assert evaluator.evaluate() == {}
    assert (dataset / "out" / "detections_test-dev2017_NASNet-A_results.zip").is_file()


def test_a_set_without_annotation_file_is_an_error() -> None:
    with pytest.raises(ValueError, match="never_registered"):
        CocoEvaluator("never_registered")
    MetadataCatalog.remove("never_registered")


def test_a_results_file_of_another_kind_is_told_before_anything_is_detected(dataset: Path) -> None:
    own = dataset / "inference" / "coco_instances_results.json"
    own.parent.mkdir()
    for content in ("[]", '[{"image_id": 1, "category_id": 3, "bbox": [1, 1, 1, 1], "score": 0.5}]'):  # of earlier runs
        own.write_text(content)
        CocoEvaluator("evaluated", own.parent)
    own.write_text('{"mine": 1}')
    with pytest.raises(OverwriteError, match=own.name):
        CocoEvaluator("evaluated", own.parent)


def test_images_of_another_data_set_are_refused(tiny_coco: str, tmp_path: Path) -> None:
    evaluator, none = CocoEvaluator(tiny_coco), found(1, [])
    copy = shutil.copy(tmp_path / "2.png", tmp_path / "copy.png")
    evaluator.process(
        [{"image_id": 1, "file_name": f"{tmp_path}/1.png"}, {"image_id": 2, "file_name": copy}], [none] * 2
    )
    for image_id, file in ((1, "2.png"), (8, "1.png")):
        with pytest.raises(DatasetError, match=rf"image {image_id}\b.*{file}.*{tiny_coco}"):
            evaluator.process([{"image_id": image_id, "file_name": str(tmp_path / file)}], [none])
