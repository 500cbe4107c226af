"""Values of a pipeline config in detectron2's keys."""

from __future__ import annotations

import logging
from typing import Any

import pytest

pytest.importorskip("detectron2")

from nasnet_det.detection.convert.pipeline_config import follow
from nasnet_det.detection.convert.protobuf_text import PipelineConfigError, parse
from tests.helpers import PIPELINE


def followed(text: str, small_config: Any) -> Any:
    cfg = small_config("nasnet_frcnn.yaml")
    follow(parse(text), cfg)
    return cfg


def test_every_field_is_followed(small_config: Any) -> None:
    cfg = followed(PIPELINE, small_config)
    rpn, heads, node = cfg.MODEL.RPN, cfg.MODEL.ROI_HEADS, cfg.MODEL.NASNET
    assert heads.NUM_CLASSES == 37
    assert node.IMAGE_SIZE == [320, 640]
    assert cfg.MODEL.ANCHOR_GENERATOR.SIZES == [[128, 256]]
    assert cfg.MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS == [[2.0, 0.5]]
    assert (rpn.NMS_THRESH, node.RPN_SCORE_THRESH, rpn.BATCH_SIZE_PER_IMAGE) == (0.65, 0.01, 128)
    assert (rpn.POST_NMS_TOPK_TEST, rpn.POST_NMS_TOPK_TRAIN) == (50, 50)
    assert (rpn.LOSS_WEIGHT, rpn.LOSS_WEIGHT * rpn.BBOX_REG_LOSS_WEIGHT) == (0.5, 2.0)
    assert (node.CROP_SIZE, node.CROP_POOL_KERNEL, node.CROP_POOL_STRIDE) == (14, 2, 2)
    assert (heads.BATCH_SIZE_PER_IMAGE, heads.POSITIVE_FRACTION) == (32, 0.5)
    assert cfg.MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_WEIGHT == 3.0
    assert (heads.SCORE_THRESH_TEST, heads.NMS_THRESH_TEST) == (0.05, 0.55)
    assert (node.DETECTIONS_PER_CLASS, cfg.TEST.DETECTIONS_PER_IMAGE) == (70, 80)
    solver = cfg.SOLVER
    assert (solver.IMS_PER_BATCH, solver.BASE_LR, solver.MOMENTUM, solver.MAX_ITER) == (2, 0.0004, 0.8, 1200)
    assert (solver.STEPS, solver.GAMMA) == ([600, 900], 0.25)
    assert (solver.CLIP_GRADIENTS.CLIP_TYPE, solver.CLIP_GRADIENTS.CLIP_VALUE) == ("norm", 5.0)


def test_what_is_left_out_has_the_defaults_of_the_api(small_config: Any) -> None:
    short = """faster_rcnn {
      feature_extractor { type: 'faster_rcnn_nas' } image_resizer { fixed_shape_resizer { height: 64 width: 64 } }
      second_stage_post_processing { score_converter: SOFTMAX } initial_crop_size: 17 }"""
    cfg = followed(short, small_config)
    assert cfg.MODEL.RPN.POST_NMS_TOPK_TEST == 300
    assert cfg.MODEL.RPN.BBOX_REG_LOSS_WEIGHT == cfg.MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_WEIGHT == 1.0
    assert cfg.MODEL.ROI_HEADS.NMS_THRESH_TEST == 0.6
    assert cfg.SOLVER.MAX_ITER == small_config("nasnet_frcnn.yaml").SOLVER.MAX_ITER


@pytest.mark.parametrize(
    ("before", "after", "says"),
    [
        ("faster_rcnn_nas", "faster_rcnn_resnet101", "feature_extractor.type"),
        ("fixed_shape_resizer", "keep_aspect_ratio_resizer", "fixed_shape_resizer"),
        ("score_converter: SOFTMAX", "score_converter: SIGMOID", "score_converter"),
        ("score_converter: SOFTMAX", "", "score_converter"),
        ("height_stride: 16", "height_stride: 8", "height_stride"),
        ("initial_crop_size: 14", "first_stage_atrous_rate: 2", "first_stage_atrous_rate"),
        ("score_threshold: 0.05", "soft_nms_sigma: 0.5", "soft_nms_sigma"),
        ("use_dropout: false", "use_dropout: true", "use_dropout"),
        ("num_classes: 37", "num_classes: many", "num_classes.*'many'"),
        ("aspect_ratios: 2.0", "aspect_ratios: 0.0", r"aspect_ratios.*0\.0"),
        ("scales: [0.5, 1.0]", "scales: [0.5, large]", "scales.*'large'"),
        ("faster_rcnn {", "ssd {", "faster_rcnn.*ssd"),
    ],
)
def test_what_is_not_supported_is_refused(before: str, after: str, says: str, small_config: Any) -> None:
    with pytest.raises(PipelineConfigError, match=says):
        followed(PIPELINE.replace(before, after, 1), small_config)


def test_what_is_not_understood_is_named(small_config: Any, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        followed(PIPELINE.replace("num_classes: 37", "num_classes: 37 hard_example_miner { }"), small_config)
    assert "model.faster_rcnn.hard_example_miner" in caplog.text


@pytest.mark.parametrize(("step", "rate"), [("learning_rate: 0.000025", "0.00005"), ("learning_rate: 0.0001", "0.0")])
def test_a_schedule_that_cannot_be_said_stays(
    step: str, rate: str, small_config: Any, caplog: pytest.LogCaptureFixture
) -> None:
    assert step in PIPELINE
    with caplog.at_level(logging.WARNING):
        cfg = followed(PIPELINE.replace(step, f"learning_rate: {rate}"), small_config)
    assert cfg.SOLVER.BASE_LR == small_config("nasnet_frcnn.yaml").SOLVER.BASE_LR
    assert "do not fall by one factor" in caplog.text
