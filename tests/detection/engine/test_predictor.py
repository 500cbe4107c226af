"""A detector on images of any kind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("detectron2")

from nasnet_det.detection.engine.checkpointer import Checkpointer
from nasnet_det.detection.engine.predictor import Predictor
from nasnet_det.detection.modeling.rcnn import build_detector
from nasnet_det.safe_io.images import as_rgb


def test_an_image_of_16_bits_is_taken_in_8(small_config: Any, tmp_path: Path) -> None:
    torch.manual_seed(0)
    options = {"INPUT__MIN_SIZE_TEST": 64, "MODEL__ROI_HEADS__NUM_CLASSES": 2}
    cfg = small_config("fpn_mobile.yaml", MODEL__WEIGHTS=str(tmp_path / "model.pth"), **options)
    Checkpointer(build_detector(cfg), str(tmp_path)).save("model")
    deep = Image.fromarray(np.random.default_rng(0).integers(0, 4096, (64, 80), dtype=np.uint16))
    predictor = Predictor(cfg)
    found, expected = predictor(deep), predictor(as_rgb(deep))
    assert len(found) and torch.equal(found.pred_boxes.tensor, expected.pred_boxes.tensor)
