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
from nasnet_det.models.network import NASNet
from nasnet_det.weights import WeightsError
from nasnet_det.weights.formats.tf_slim import FORMAT
from nasnet_det.weights.layout import published_units

CLASSES, FILTERS = 5, 4


def arrays() -> dict[str, np.ndarray]:
    """A thin detector's variables under TF's names, numbered by a random generator."""
    random = np.random.default_rng(0)
    found: dict[str, np.ndarray] = {"global_step": np.int64(7)}
    model = NASNet(num_cells=1, num_filters=FILTERS, stem_channels=8, skip_reduction_layer_input=True, num_classes=0)
    for unit in published_units(model):
        upper = unit.cell is not None and unit.cell.name in ("reduction_cell_1", "cell_2")
        scope = "SecondStageFeatureExtractor" if upper else "FirstStageFeatureExtractor"
        for leaf, module in unit.module.named_modules():
            for parameter, value in module.named_parameters(recurse=False):
                kind = leaf if leaf in ("depthwise", "pointwise") else "conv" if value.ndim == 4 else "norm"
                shape = list(value.shape)
                if kind == "depthwise":
                    shape = [shape[2], shape[3], shape[0], shape[1]]
                elif kind != "norm":
                    shape = [shape[2], shape[3], shape[1], shape[0]]
                name = FORMAT.tensor(kind, FORMAT.layer(unit, leaf) or "", parameter)
                found[f"{scope}/{name}"] = random.normal(size=shape).astype(np.float32)
            for parameter, value in module.named_buffers(recurse=False):
                if parameter.startswith("running"):
                    name = FORMAT.tensor("norm", FORMAT.layer(unit, leaf) or "", parameter)
                    found[f"{scope}/{name}"] = random.uniform(1, 2, value.shape).astype(np.float32)
    channels, features = (4 + 6) * 2 * FILTERS, 6 * 4 * FILTERS  # of reduction_cell_0 and cell_1; of cell_2
    layers = {
        "Conv": [3, 3, channels, 512],
        "FirstStageBoxPredictor/ClassPredictor": [1, 1, 512, 24],
        "FirstStageBoxPredictor/BoxEncodingPredictor": [1, 1, 512, 48],
        "SecondStageBoxPredictor/ClassPredictor": [features, CLASSES + 1],
        "SecondStageBoxPredictor/BoxEncodingPredictor": [features, 4 * CLASSES],
    }
    for name, shape in layers.items():
        found[f"{name}/weights"] = random.normal(size=shape).astype(np.float32)
        found[f"{name}/biases"] = random.normal(size=shape[-1:]).astype(np.float32)
    return found


@pytest.fixture
def checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, np.ndarray]:
    """Variables that every path holds, so that no TensorFlow is needed."""
    variables = arrays()
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
    with pytest.raises(WeightsError, match="5 classes, but the pipeline config beside it says 90"):
        read_detector(tmp_path, base_config())
    (tmp_path / "pipeline.config").write_text("faster_rcnn {")
    with pytest.raises(PipelineConfigError, match=r"pipeline\.config: the file ends"):
        read_detector(tmp_path, base_config())
