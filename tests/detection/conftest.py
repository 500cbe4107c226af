"""A small data set in COCO's form and small configs for the tests of detection."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

CONFIGS = Path(__file__).resolve().parents[2] / "configs"

#: What makes any config's detector small: thin cells, few proposals, on the CPU, from random weights that can learn.
SMALL = {
    "MODEL.DEVICE": "cpu",
    "MODEL.NASNET.NUM_CELLS": 1,
    "MODEL.NASNET.NUM_FILTERS": 8,
    "MODEL.NASNET.PRETRAINED": "",
    "MODEL.NASNET.NORM": "BN",
    "MODEL.NASNET.BN_MOMENTUM": 0.1,
    "MODEL.NASNET.IMAGE_SIZE": [128, 128],
    "MODEL.FPN.OUT_CHANNELS": 32,
    "MODEL.ROI_BOX_HEAD.FC_DIM": 32,
    "MODEL.RPN.POST_NMS_TOPK_TRAIN": 30,
    "MODEL.RPN.POST_NMS_TOPK_TEST": 12,
    "DATALOADER.NUM_WORKERS": 0,
    "SOLVER.IMS_PER_BATCH": 2,
    "SOLVER.MAX_ITER": 2,
    "SOLVER.STEPS": [],
    "SEED": 3,
}


def options(**more: Any) -> list[Any]:
    """Return ``SMALL`` and ``more`` as ``KEY VALUE`` pairs; ``__`` in a name of ``more`` is a dot."""
    values = {**SMALL, **{key.replace("__", "."): value for key, value in more.items()}}
    return [part for pair in values.items() for part in pair]


@pytest.fixture
def small_config() -> Callable[..., Any]:
    """Reads a config of the set, made small: ``small_config("fpn_mobile.yaml", SEED=1)``."""
    pytest.importorskip("detectron2")
    from nasnet_det.detection.config import read_config

    return lambda name, **more: read_config(CONFIGS / name, options(**more))


@pytest.fixture
def tiny_coco(tmp_path: Path) -> Iterator[str]:
    """The name of a registered data set: seven images of noise, two classes, a box or two each."""
    pytest.importorskip("detectron2")
    from detectron2.data import DatasetCatalog, MetadataCatalog
    from detectron2.data.datasets import register_coco_instances

    random = np.random.default_rng(0)
    images, annotations = [], []
    for number in range(1, 8):
        width, height = (96, 64) if number % 3 else (64, 96)
        pixels = random.integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
        images.append({"id": number, "file_name": f"{number}.png", "width": width, "height": height})
        for label in range(1, 2 + number % 2):
            entry = {"id": len(annotations) + 1, "image_id": number, "category_id": label}
            annotations.append({**entry, "bbox": [4.0 * number, 5.0, 24.0, 30.0], "area": 720, "iscrowd": 0})
    categories = [{"id": 1, "name": "one"}, {"id": 2, "name": "two"}]
    file = tmp_path / "annotations.json"
    file.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    name = f"tiny_{tmp_path.name}"
    register_coco_instances(name, {}, str(file), str(tmp_path))
    yield name
    DatasetCatalog.remove(name)
    MetadataCatalog.remove(name)
