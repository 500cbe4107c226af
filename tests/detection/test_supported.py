"""What a config asks of a detector and the detector does not do is refused."""

from __future__ import annotations

import math
from typing import Any

import pytest

pytest.importorskip("detectron2")

from detectron2.modeling import build_model

from nasnet_det.detection.config import ConfigError
from nasnet_det.detection.modeling.rcnn import build_detector


@pytest.mark.parametrize(
    ("config", "options", "key"),
    [
        ("nasnet_frcnn.yaml", {"MODEL__MASK_ON": True}, r"MODEL\.MASK_ON"),
        ("retinanet_fpn_large.yaml", {"MODEL__MASK_ON": True}, r"MODEL\.MASK_ON"),
        ("fpn_mobile.yaml", {"MODEL__KEYPOINT_ON": True}, r"MODEL\.KEYPOINT_ON"),
        ("fpn_mobile.yaml", {"MODEL__META_ARCHITECTURE": "PanopticFPN"}, "PanopticFPN"),
        ("mask_fpn_mobile.yaml", {"INPUT__MASK_FORMAT": "rle"}, r"INPUT\.MASK_FORMAT"),
        ("fpn_mobile.yaml", {"DATASETS__TEST": [["coco_2017_val"]]}, r"DATASETS\.TEST"),
        ("nasnet_frcnn.yaml", {"INPUT__FORMAT": "L"}, r"INPUT\.FORMAT"),
        ("fpn_mobile.yaml", {"INPUT__MIN_SIZE_TRAIN": (64, -1)}, r"INPUT\.MIN_SIZE_TRAIN"),
        ("fpn_mobile.yaml", {"INPUT__MIN_SIZE_TRAIN": ("64",)}, r"INPUT\.MIN_SIZE_TRAIN"),
        ("fpn_mobile.yaml", {"INPUT__MIN_SIZE_TEST": -1}, r"INPUT\.MIN_SIZE_TEST"),
        ("fpn_mobile.yaml", {"INPUT__MAX_SIZE_TEST": 0}, r"INPUT\.MAX_SIZE_TEST"),
        ("fpn_mobile.yaml", {"MODEL__PROPOSAL_GENERATOR__NAME": "PrecomputedProposals"}, r"PROPOSAL_GENERATOR\.NAME"),
        ("fpn_mobile.yaml", {"MODEL__ANCHOR_GENERATOR__NAME": "RotatedAnchorGenerator"}, r"ANCHOR_GENERATOR\.NAME"),
        ("fpn_mobile.yaml", {"MODEL__PIXEL_STD": [0.0, 1.0, 1.0]}, r"MODEL\.PIXEL_STD"),
        ("fpn_mobile.yaml", {"MODEL__PIXEL_STD": ["a", "a", "a"]}, r"MODEL\.PIXEL_STD"),
        ("nasnet_frcnn.yaml", {"MODEL__PIXEL_MEAN": [math.nan] * 3}, r"MODEL\.PIXEL_MEAN"),
        ("fpn_mobile.yaml", {"SOLVER__BASE_LR": math.nan}, r"SOLVER\.BASE_LR"),
        ("nasnet_frcnn.yaml", {"MODEL__NASNET__IMAGE_SIZE": [0, 128]}, r"NASNET\.IMAGE_SIZE"),
        ("nasnet_frcnn.yaml", {"MODEL__NASNET__IMAGE_SIZE": [128, 128, 128]}, r"NASNET\.IMAGE_SIZE"),
        ("fpn_mobile.yaml", {"MODEL__NASNET__LABEL_IDS": [1]}, r"NASNET\.LABEL_IDS"),
        ("fpn_mobile.yaml", {"MODEL__NASNET__BN_MOMENTUM": 2.0}, r"NASNET\.BN_MOMENTUM"),
        ("fpn_mobile.yaml", {"SEED": 2**40}, "SEED"),
        ("fpn_mobile.yaml", {"SOLVER__BASE_LR": 0.0}, r"SOLVER\.BASE_LR"),
        ("fpn_mobile.yaml", {"DATALOADER__REPEAT_THRESHOLD": 2.0}, r"DATALOADER\.REPEAT_THRESHOLD"),
        ("retinanet_fpn_large.yaml", {"TEST__DETECTIONS_PER_IMAGE": -1}, r"TEST\.DETECTIONS_PER_IMAGE"),
        ("fpn_mobile.yaml", {"SOLVER__STEPS": [math.inf]}, r"SOLVER\.STEPS"),
        ("fpn_mobile.yaml", {"SOLVER__CLIP_GRADIENTS__NORM_TYPE": math.nan}, r"CLIP_GRADIENTS\.NORM_TYPE"),
        ("fpn_mobile.yaml", {"SOLVER__BIAS_LR_FACTOR": -1.0}, r"SOLVER\.BIAS_LR_FACTOR"),
        ("fpn_mobile.yaml", {"SOLVER__WEIGHT_DECAY_BIAS": -1.0}, r"SOLVER\.WEIGHT_DECAY_BIAS"),
        ("fpn_mobile.yaml", {"SOLVER__WEIGHT_DECAY_BIAS": "none"}, r"SOLVER\.WEIGHT_DECAY_BIAS"),
        ("fpn_mobile.yaml", {"TEST__AUG__ENABLED": True, "TEST__AUG__MIN_SIZES": []}, r"TEST\.AUG\.MIN_SIZES"),
        ("fpn_mobile.yaml", {"TEST__AUG__ENABLED": True, "TEST__AUG__MAX_SIZE": -1}, r"TEST\.AUG\.MAX_SIZE"),
        ("fpn_mobile.yaml", {"MODEL__FPN__FUSE_TYPE": "x"}, r"fuse_type in"),
        ("fpn_mobile.yaml", {"MODEL__LOAD_PROPOSALS": True}, r"MODEL\.LOAD_PROPOSALS"),
        ("nasnet_frcnn_mobile_600.yaml", {"TEST__AUG__ENABLED": True}, r"TEST\.AUG\.ENABLED"),
        ("retinanet_fpn_large.yaml", {"TEST__AUG__ENABLED": True}, r"TEST\.AUG\.ENABLED"),
        ("fpn_mobile.yaml", {"MODEL__FPN__IN_FEATURES": ["res2", "res3"]}, r"FPN\.IN_FEATURES.*res2.*c2"),
        ("fpn_mobile.yaml", {"MODEL__FPN__IN_FEATURES": []}, r"FPN\.IN_FEATURES.*c2"),
        ("fpn_mobile.yaml", {"MODEL__ROI_HEADS__SCORE_THRESH_TEST": 2.0}, r"ROI_HEADS\.SCORE_THRESH_TEST"),
        ("nasnet_frcnn.yaml", {"MODEL__ROI_HEADS__NMS_THRESH_TEST": -1.0}, r"ROI_HEADS\.NMS_THRESH_TEST"),
        ("nasnet_frcnn.yaml", {"MODEL__RPN__NMS_THRESH": -0.5}, r"RPN\.NMS_THRESH"),
        ("nasnet_frcnn.yaml", {"MODEL__NASNET__RPN_SCORE_THRESH": 1.0}, r"RPN_SCORE_THRESH"),
        ("fpn_mobile.yaml", {"MODEL__RPN__BATCH_SIZE_PER_IMAGE": 0}, r"RPN\.BATCH_SIZE_PER_IMAGE"),
        ("fpn_mobile.yaml", {"MODEL__ROI_HEADS__POSITIVE_FRACTION": 2.0}, r"ROI_HEADS\.POSITIVE_FRACTION"),
        ("fpn_mobile.yaml", {"MODEL__RPN__PRE_NMS_TOPK_TEST": 0}, r"RPN\.PRE_NMS_TOPK_TEST"),
        ("fpn_mobile.yaml", {"SOLVER__MOMENTUM": 2.0}, r"MOMENTUM"),
        ("retinanet_fpn_large.yaml", {"TEST__DETECTIONS_PER_IMAGE": 0}, r"TEST\.DETECTIONS_PER_IMAGE"),
        ("fpn_mobile.yaml", {"MODEL__PIXEL_STD": [1.0, 1.0, 1.0], "MODEL__NASNET__PRETRAINED": "x.pth"}, "PIXEL_STD"),
        ("fpn_mobile.yaml", {"MODEL__PIXEL_STD": [[127.5, 127.5, 127.5]]}, r"MODEL\.PIXEL_STD"),
        ("fpn_mobile.yaml", {"MODEL__RPN__CONV_DIMS": []}, r"RPN\.CONV_DIMS"),
        ("nasnet_frcnn.yaml", {"MODEL__RPN__CONV_DIMS": [512, 512]}, r"RPN\.CONV_DIMS"),
        ("nasnet_frcnn.yaml", {"MODEL__RPN__IOU_THRESHOLDS": [0, 0]}, r"RPN\.IOU_THRESHOLDS"),
        ("fpn_mobile.yaml", {"MODEL__RPN__LOSS_WEIGHT": -1.0}, r"RPN\.LOSS_WEIGHT"),
        ("fpn_mobile.yaml", {"MODEL__ROI_BOX_HEAD__BBOX_REG_WEIGHTS": [0.0] * 4}, r"ROI_BOX_HEAD\.BBOX_REG_WEIGHTS"),
        ("fpn_mobile.yaml", {"MODEL__ROI_HEADS__IOU_LABELS": [0, 0]}, r"ROI_HEADS\.IOU_LABELS"),
        ("fpn_mobile.yaml", {"MODEL__ROI_HEADS__IOU_THRESHOLDS": [2.0]}, r"ROI_HEADS\.IOU_THRESHOLDS"),
        ("retinanet_fpn_large.yaml", {"MODEL__RETINANET__FOCAL_LOSS_ALPHA": 2.0}, r"RETINANET\.FOCAL_LOSS_ALPHA"),
        ("nasnet_frcnn.yaml", {"MODEL__META_ARCHITECTURE": "GeneralizedRCNN"}, r"META_ARCHITECTURE.*NASNetRCNN"),
    ],
)
def test_what_a_detector_does_not_do_is_refused(
    config: str, options: dict[str, Any], key: str, small_config: Any
) -> None:
    with pytest.raises(ConfigError, match=key):
        build_detector(small_config(config, **options))


def test_detectron2s_own_script_is_refused_masks_too(small_config: Any) -> None:
    with pytest.raises(ConfigError, match=r"MODEL\.MASK_ON"):
        build_model(small_config("nasnet_frcnn.yaml", MODEL__MASK_ON=True))
