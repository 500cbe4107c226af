"""Augmentation by config: what each key does to pictures, boxes and masks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("detectron2")

from detectron2.data import transforms

from nasnet_det.detection.config import ConfigError, read_config
from nasnet_det.detection.data.augmentation import training_augmentations
from nasnet_det.detection.data.mapper import DetectionMapper


def augmented(image: np.ndarray, boxes: np.ndarray, *opts: Any) -> tuple[np.ndarray, np.ndarray]:
    given = transforms.AugInput(image, boxes=boxes)
    transforms.AugmentationList(training_augmentations(read_config("fpn_mobile", opts)))(given)
    return given.image, given.boxes


@pytest.fixture
def image() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)


def test_detectron2s_own_are_the_default() -> None:
    found = training_augmentations(read_config("fpn_mobile"))
    assert [type(one) for one in found] == [transforms.ResizeShortestEdge, transforms.RandomFlip]


@pytest.mark.parametrize("scale", [0.5, 2.0])
def test_scale_jitter_keeps_boxes_on_their_objects(scale: float, image: np.ndarray) -> None:
    image[:] = 0
    image[20:40, 30:60] = 255
    opts = [
        "INPUT.SCALE_JITTER.ENABLED",
        True,
        "INPUT.SCALE_JITTER.SIZE",
        [60, 90],
        "INPUT.SCALE_JITTER.RANGE",
        [scale] * 2,
    ]
    found, boxes = augmented(image, np.array([[30.0, 20.0, 60.0, 40.0]]), *opts)
    assert found.shape == image.shape
    x0, y0, x1, y1 = np.clip(boxes[0], 0, [90, 60, 90, 60]).round().astype(int)
    assert scale == 2.0 or (x1 - x0, y1 - y0) == (15, 10)
    inside = found[y0 + 1 : y1 - 1, x0 + 1 : x1 - 1]
    assert (inside > 200).all()


def test_crops(image: np.ndarray) -> None:
    opts = ["INPUT.CROP.ENABLED", True, "INPUT.CROP.TYPE", "absolute", "INPUT.CROP.SIZE", [30, 30]]
    found, _ = augmented(image, np.zeros((0, 4)), *opts, "INPUT.MIN_SIZE_TRAIN", [30])
    assert found.shape == (30, 30, 3)


@pytest.mark.parametrize("name", ["BRIGHTNESS", "CONTRAST", "SATURATION"])
def test_colour(name: str, image: np.ndarray) -> None:
    opts = [f"INPUT.COLOR.{name}", 0.5, "INPUT.MIN_SIZE_TRAIN", [60], "INPUT.RANDOM_FLIP", "none"]
    found, _ = augmented(image, np.zeros((0, 4)), *opts)
    assert found.shape == image.shape and found.dtype == np.uint8 and not np.array_equal(found, image)


@pytest.mark.parametrize(
    ("opts", "key"),
    [
        (["INPUT.CROP.ENABLED", True, "INPUT.SCALE_JITTER.ENABLED", True], r"INPUT\.CROP\.ENABLED"),
        (["INPUT.SCALE_JITTER.ENABLED", True, "INPUT.SCALE_JITTER.RANGE", [2.0, 0.1]], r"SCALE_JITTER\.RANGE"),
        (["INPUT.SCALE_JITTER.ENABLED", True, "INPUT.SCALE_JITTER.SIZE", [0, 64]], r"SCALE_JITTER\.SIZE"),
        (["INPUT.COLOR.CONTRAST", 1.5], r"COLOR\.CONTRAST"),
        (["INPUT.CROP.ENABLED", True, "INPUT.CROP.SIZE", [2.0, 2.0]], r"INPUT\.CROP\.SIZE"),
        (
            ["INPUT.CROP.ENABLED", True, "INPUT.CROP.TYPE", "absolute", "INPUT.CROP.SIZE", [0.5, 0.5]],
            r"INPUT\.CROP\.SIZE",
        ),
    ],
)
def test_what_is_refused(opts: list[Any], key: str) -> None:
    with pytest.raises(ConfigError, match=key):
        training_augmentations(read_config("fpn_mobile", opts))


@pytest.mark.parametrize("opts", [["RANDOM_FLIP", "both"], ["MIN_SIZE_TRAIN_SAMPLING", "random"]])
def test_what_detectron2_does_not_take_is_refused(opts: list[str]) -> None:
    with pytest.raises(ConfigError, match="INPUT"):
        DetectionMapper(read_config("fpn_mobile", [f"INPUT.{opts[0]}", opts[1]]), True)
