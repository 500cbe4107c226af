"""Checkpoints of the TF Object Detection API: names, order of terms, and what is refused."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

pytest.importorskip("detectron2")

from detectron2.modeling import build_model

from nasnet_det.detection.config import read_config
from nasnet_det.detection.convert import tf_detector
from nasnet_det.detection.convert.protobuf_text import PipelineConfigError
from nasnet_det.detection.convert.tf_detector import base_config, changes, convert, read_detector, state_dict
from nasnet_det.weights import WeightsError
from tests.helpers import TF_CLASSES as CLASSES
from tests.helpers import TF_FILTERS as FILTERS
from tests.helpers import tf_detector_variables


@pytest.fixture
def checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, np.ndarray]:
    """Variables that every path holds, so that no TensorFlow is needed."""
    variables = tf_detector_variables()
    (tmp_path / "model.ckpt.index").touch()
    monkeypatch.setattr(tf_detector, "read_arrays", lambda path: variables)
    return variables


def test_a_detector_is_described_by_its_shapes(checkpoint: Any, tmp_path: Path) -> None:
    cfg = base_config()
    state = read_detector(tmp_path, cfg)
    node = cfg.MODEL.NASNET
    assert (node.NUM_CELLS, node.NUM_FILTERS, node.STEM_CHANNELS) == (1, FILTERS, 8)
    assert (cfg.MODEL.ROI_HEADS.NUM_CLASSES, list(node.LABEL_IDS)) == (CLASSES, [])
    cfg.MODEL.DEVICE = "cpu"
    build_model(cfg).load_state_dict(state)  # all names, all shapes


def test_terms_and_classes_are_reordered(checkpoint: dict[str, np.ndarray], tmp_path: Path) -> None:
    cfg = base_config()
    state = read_detector(tmp_path, cfg)
    first = checkpoint["FirstStageBoxPredictor/BoxEncodingPredictor/weights"][0, 0].T.reshape(12, 4, 512)
    found = state["proposal_generator.head.boxes.weight"].reshape(12, 4, 512).numpy()
    for ours, theirs in enumerate((1, 0, 3, 2)):  # dx dy dw dh from ty tx th tw
        assert np.array_equal(found[:, ours], first[:, theirs])
    second = checkpoint["SecondStageBoxPredictor/BoxEncodingPredictor/biases"].reshape(CLASSES, 4)
    assert np.array_equal(state["roi_heads.box_layer.bias"].reshape(CLASSES, 4).numpy(), second[:, [1, 0, 3, 2]])
    classes = checkpoint["SecondStageBoxPredictor/ClassPredictor/biases"]
    assert state["roi_heads.class_layer.bias"].tolist() == [*classes[1:], classes[0]]


def test_moving_averages_are_preferred(checkpoint: dict[str, np.ndarray], tmp_path: Path) -> None:
    value = checkpoint.pop("Conv/biases")
    checkpoint["Conv/biases/ExponentialMovingAverage"] = value + 1
    state = read_detector(tmp_path, base_config())
    assert np.array_equal(state["proposal_generator.head.conv.bias"].numpy(), value + 1)


def test_a_checkpoint_becomes_a_model_and_its_config(checkpoint: Any, tmp_path: Path) -> None:
    (tmp_path / "pipeline.config").write_text(
        f"""model {{ faster_rcnn {{ num_classes: {CLASSES} feature_extractor {{ type: "faster_rcnn_nas" }}
        image_resizer {{ fixed_shape_resizer {{ height: 96 width: 128 }} }} first_stage_max_proposals: 9
        first_stage_anchor_generator {{ grid_anchor_generator {{ scales: [.25, .5, 1, 2] aspect_ratios: [.5, 1, 2] }} }}
        initial_crop_size: 17 second_stage_post_processing {{ score_converter: SOFTMAX }} }} }}"""
    )
    weights, config = convert(tmp_path / "model.ckpt", tmp_path / "out", base_config())
    cfg = read_config(config)
    assert (str(weights), 9) == (cfg.MODEL.WEIGHTS, cfg.MODEL.RPN.POST_NMS_TOPK_TEST)
    assert list(cfg.MODEL.NASNET.IMAGE_SIZE) == [96, 128]
    cfg.MODEL.DEVICE = "cpu"
    model = build_model(cfg)
    model.load_state_dict(torch.load(weights, weights_only=True)["model"])
    assert changes(cfg)["MODEL"]["NASNET"]["NUM_FILTERS"] == FILTERS
    assert yaml.safe_load(config.read_text())["MODEL"]["META_ARCHITECTURE"] == "NASNetRCNN"


def test_without_a_pipeline_what_is_assumed_is_said(
    checkpoint: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    read_detector(tmp_path, base_config())
    assert "no pipeline.config" in caplog.text
    assert "[1200, 1200], 500 proposals" in caplog.text


@pytest.mark.parametrize(
    ("pattern", "says"),
    [
        ("^SecondStageFeatureExtractor", "SecondStageFeatureExtractor"),
        ("^Conv/weights", "Conv/weights"),
        ("cell_0/1x1/weights", "cell_0/1x1/weights"),
        ("cell_1/.*gamma", "gamma"),
    ],
)
def test_what_is_missing_is_named(checkpoint: dict[str, np.ndarray], tmp_path: Path, pattern: str, says: str) -> None:
    for name in [name for name in checkpoint if re.search(pattern, name)]:
        del checkpoint[name]
    with pytest.raises(WeightsError, match=says):
        read_detector(tmp_path, base_config())


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("Conv/weights", (3, 512)),
        ("SecondStageBoxPredictor/BoxEncodingPredictor/biases", (4 * CLASSES + 1,)),
        ("SecondStageBoxPredictor/ClassPredictor/biases", ()),
        ("FirstStageFeatureExtractor/cell_0/1x1/weights", (1, 1, 0, 10**6)),
        ("FirstStageFeatureExtractor/conv0/weights", (3,)),
    ],
)
def test_a_variable_of_another_shape_is_named(checkpoint: Any, tmp_path: Path, name: str, shape: tuple) -> None:
    checkpoint[name] = np.zeros(shape, np.float32)
    with pytest.raises(WeightsError, match=rf"(?s){re.escape(str(tmp_path))}.*{name.partition('/')[2]}.*shape"):
        read_detector(tmp_path, base_config())


def test_another_width_is_refused(checkpoint: Any, tmp_path: Path) -> None:
    cfg = base_config()
    read_detector(tmp_path, cfg)
    cfg.MODEL.NASNET.NUM_FILTERS = 8
    with pytest.raises(WeightsError, match="shape"):
        state_dict(checkpoint, cfg)


def test_a_pipeline_that_contradicts_the_checkpoint_is_refused(checkpoint: Any, tmp_path: Path) -> None:
    (tmp_path / "pipeline.config").write_text(
        """faster_rcnn { num_classes: 90 feature_extractor { type: "faster_rcnn_nas" } initial_crop_size: 17
        image_resizer { fixed_shape_resizer { height: 96 width: 96 } }
        second_stage_post_processing { score_converter: SOFTMAX } }"""
    )
    with pytest.raises(WeightsError, match=r"\b5\b.*\b90\b"):
        read_detector(tmp_path, base_config())
    (tmp_path / "pipeline.config").write_text("faster_rcnn {")
    with pytest.raises(PipelineConfigError, match=r"pipeline\.config"):
        read_detector(tmp_path, base_config())
