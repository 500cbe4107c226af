"""A training step on a made image: what detectron2's parts refuse is told before the data are looked at."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("detectron2")

from nasnet_det.detection.config import ConfigError, read_config
from nasnet_det.detection.engine.trainer import DetectorTrainer, ShortTrainer
from tests.detection.conftest import CONFIGS, SMALL

#: A setting that does not work, and what its error names.
BROKEN = [
    ("fpn_mobile.yaml", "MODEL__ANCHOR_GENERATOR__SIZES", [[0], [64], [128], [256], [512]], "SIZES"),
    ("fpn_mobile.yaml", "MODEL__ANCHOR_GENERATOR__SIZES", [[], [64], [128], [256], [512]], "anchor"),
    ("fpn_mobile.yaml", "MODEL__RPN__BBOX_REG_LOSS_TYPE", "l3", "l3"),
    ("fpn_mobile.yaml", "MODEL__ROI_BOX_HEAD__BBOX_REG_LOSS_TYPE", "l3", "l3"),
    ("fpn_mobile.yaml", "MODEL__RPN__IOU_THRESHOLDS", [0.7, 0.3], "low <= high"),
    ("fpn_mobile.yaml", "MODEL__RPN__IOU_LABELS", [0, 1], "labels"),
    ("fpn_mobile.yaml", "MODEL__ROI_HEADS__IOU_LABELS", [0, -1, 1], "labels"),
    ("fpn_mobile.yaml", "MODEL__ROI_HEADS__NAME", "NoHeads", "NoHeads"),
    ("fpn_mobile.yaml", "MODEL__ROI_BOX_HEAD__POOLER_TYPE", "NoAlign", "NoAlign"),
    ("fpn_mobile.yaml", "SOLVER__LR_SCHEDULER_NAME", "NoLR", "NoLR"),
    ("fpn_mobile.yaml", "SOLVER__CLIP_GRADIENTS__CLIP_TYPE", "none", "SOLVER"),
    ("fpn_mobile.yaml", "INPUT__MIN_SIZE_TRAIN_SAMPLING", "one", "INPUT"),
    ("nasnet_frcnn_mobile_600.yaml", "MODEL__RPN__IOU_THRESHOLDS", [0.7, 0.3], "IOU_THRESHOLDS"),
    ("nasnet_frcnn_mobile_600.yaml", "MODEL__RPN__IOU_THRESHOLDS", [0.5], "IOU_THRESHOLDS"),
    ("nasnet_frcnn_mobile_600.yaml", "MODEL__RPN__IOU_LABELS", [0, 1, 1], "IOU_LABELS"),
    ("nasnet_frcnn_mobile_600.yaml", "MODEL__ANCHOR_GENERATOR__SIZES", [[64, 0]], "SIZES"),
    ("retinanet_fpn_large.yaml", "MODEL__RETINANET__BBOX_REG_LOSS_TYPE", "l3", "l3"),
]


@pytest.mark.parametrize(("name", "key", "value", "named"), BROKEN)
def test_a_config_that_does_not_work_is_told_before_the_data_are_read(
    small_config: Callable[..., Any], name: str, key: str, value: Any, named: str
) -> None:
    cfg = small_config(name, DATASETS__TRAIN=["not registered"], **{key: value})
    with pytest.raises(ConfigError, match=named):
        DetectorTrainer(cfg)


@pytest.mark.parametrize("name", [path.name for path in sorted(CONFIGS.glob("*.yaml")) if "base" not in path.name])
def test_every_config_works_and_all_that_it_sets_is_read(
    small_config: Callable[..., Any], name: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "nasnet_det"):
        DetectorTrainer.rehearse(small_config(name, MODEL__NASNET__GENOTYPE=""))
    told = [record.getMessage() for record in caplog.records if "no effect" in record.getMessage()]
    assert {word.strip(",:") for text in told for word in text.split() if "." in word} <= {*SMALL}


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        ("nasnet_frcnn_mobile_600.yaml", "MODEL.RPN.BBOX_REG_LOSS_TYPE", "giou"),
        ("nasnet_frcnn_mobile_600.yaml", "MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION", 9),
        ("fpn_mobile.yaml", "MODEL.NASNET.CROP_SIZE", 9),
        ("fpn_mobile.yaml", "MODEL.RETINANET.SCORE_THRESH_TEST", 0.3),
        ("fpn_mobile.yaml", "SOLVER.MOMENTUM", 0.5),  # AdamW has none
        ("retinanet_fpn_large.yaml", "MODEL.ROI_HEADS.SCORE_THRESH_TEST", 0.3),
    ],
)
def test_settings_that_the_detector_does_not_read_are_told_once(
    small_config: Callable[..., Any], name: str, key: str, value: Any, caplog: pytest.LogCaptureFixture
) -> None:
    cfg = small_config(name, **{key.replace(".", "__"): value, "SEED": 17})
    with caplog.at_level(logging.WARNING, "nasnet_det"):
        for _ in range(2):
            ShortTrainer.rehearse(cfg)
    (told,) = (record.getMessage() for record in caplog.records if "no effect" in record.getMessage())
    assert key in told


def test_a_saved_config_sets_nothing_else(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "config.yaml").write_text(read_config(CONFIGS / "retinanet_fpn_large.yaml").dump())
    with caplog.at_level(logging.WARNING, "nasnet_det"):
        DetectorTrainer.rehearse(read_config(tmp_path / "config.yaml", ["MODEL.DEVICE", "cpu"]))
    assert "no effect" not in caplog.text


def test_a_rehearsal_draws_no_random_numbers(small_config: Callable[..., Any], tmp_path: Path) -> None:
    def drawn() -> list[float]:
        return [random.random(), float(np.random.rand()), float(torch.rand(1))]

    def seed() -> None:
        random.seed(1)
        np.random.seed(1)
        torch.manual_seed(1)

    seed()
    before = drawn()
    seed()
    DetectorTrainer.rehearse(small_config("fpn_mobile.yaml", OUTPUT_DIR=str(tmp_path)))
    assert drawn() == before
