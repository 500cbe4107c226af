"""The detector against what the TF Object Detection API computed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("detectron2")

from nasnet_det.golden import detector as module
from nasnet_det.golden.comparison import GoldenError
from nasnet_det.golden.detector import compare_detector


@pytest.fixture
def folder(golden: Path) -> Path:
    pytest.importorskip("tensorflow")
    return golden / "tfod_faster_rcnn_nas_400"


def copy_of(folder: Path, target: Path, **outputs: np.ndarray) -> Path:
    """The folder with other outputs."""
    for file in folder.iterdir():
        (target / file.name).symlink_to(file)
    (target / "outputs.npz").unlink()
    np.savez(target / "outputs.npz", **{**np.load(folder / "outputs.npz"), **outputs})
    return target


def test_every_tensor_and_every_detection_is_met(folder: Path) -> None:
    found = {result.name: result for result in compare_detector(folder, json.loads((folder / "meta.json").read_text()))}
    assert set(found) == {
        *module._TENSORS,
        "det.num_detections",
        "det.detection_classes",
        "det.detection_boxes",
        "det.detection_scores",
    }
    assert all(result.passed for result in found.values()), [r for r in found.values() if not r.passed]
    # Far closer than asked: nothing but rounding is left.
    assert max(found[name].error for name in module._TENSORS) < 5e-6


def test_other_outputs_are_noticed(folder: Path, tmp_path: Path) -> None:
    stored = np.load(folder / "outputs.npz")
    classes, boxes = stored["det.detection_classes"].copy(), stored["det.detection_boxes"].copy()
    scores, features = stored["det.detection_scores"].copy(), stored["rpn_features"] * 1.001
    classes[0, 3] = 1
    boxes[0, 5, 2] += 1e-3
    scores[0, 7] += 1e-4
    other = {
        "det.detection_classes": classes,
        "det.detection_boxes": boxes,
        "det.detection_scores": scores,
        "rpn_features": features,
    }
    found = {result.name: result for result in compare_detector(copy_of(folder, tmp_path, **other), {})}
    failed = {name for name, result in found.items() if not result.passed}
    assert failed == {"rpn_features", "det.detection_classes", "det.detection_boxes"}
    assert found["det.detection_classes"].error == 2  # the one of another class, and the one of another score


def test_a_folder_that_contradicts_itself_is_refused(folder: Path) -> None:
    with pytest.raises(GoldenError, match="12 filters"):
        list(compare_detector(folder, {"num_conv_filters": 12}))
