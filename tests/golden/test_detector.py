"""The detector against what the TF Object Detection API computed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("detectron2")

from nasnet_det.golden import detector as module
from nasnet_det.golden.comparison import GoldenError, read_meta
from nasnet_det.golden.detector import compare_detector
from tests.golden.test_training import copy_of


@pytest.fixture
def folder(golden: Path) -> Path:
    pytest.importorskip("tensorflow")
    return golden / "tfod_faster_rcnn_nas_400"


def test_every_tensor_and_every_detection_is_met(folder: Path) -> None:
    found = {result.name: result for result in compare_detector(folder, read_meta(folder))}
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
    other = {name: stored[name].copy() for name in stored if name.startswith("det.")}
    other["det.detection_classes"][0, 3] = 1
    other["det.detection_boxes"][0, 5, 2] += 1e-3
    other["det.detection_scores"][0, 7] += 1e-4
    other["rpn_features"] = stored["rpn_features"] * 1.001
    found = {result.name: result for result in compare_detector(copy_of(folder, tmp_path, **other), {})}
    failed = {name for name, result in found.items() if not result.passed}
    assert failed == {"rpn_features", "det.detection_classes", "det.detection_boxes"}
    assert found["det.detection_classes"].error == 2  # the one of another class, and the one of another score


def test_a_folder_that_contradicts_itself_is_refused(folder: Path) -> None:
    with pytest.raises(GoldenError, match="12 filters"):
        list(compare_detector(folder, {"num_conv_filters": 12}))
