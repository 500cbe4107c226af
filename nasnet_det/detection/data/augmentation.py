"""Augmentation of training pictures by config: scale jitter and colour, beside detectron2's own crops, sizes and flips.

Large-scale jitter is that of detectron2's ``new_baselines`` (Ghiasi et al., arXiv:2012.07177): a random scale of the
picture that fits a fixed size, then a crop of that size, padded where the picture is smaller.
"""

from __future__ import annotations

from typing import Any

from detectron2.config import CfgNode
from detectron2.data import transforms
from detectron2.data.detection_utils import build_augmentation

from nasnet_det.detection.config import ConfigError

_COLOURS = {
    "BRIGHTNESS": transforms.RandomBrightness,
    "CONTRAST": transforms.RandomContrast,
    "SATURATION": transforms.RandomSaturation,
}


def training_augmentations(cfg: CfgNode) -> list[transforms.Augmentation]:
    """Return the augmentations of ``cfg.INPUT`` in order: crop, resize or scale jitter, flip, colour.

    Raises:
        ConfigError: for ranges that are not ranges, or both a crop and scale jitter.
    """
    found: list[Any] = build_augmentation(cfg, is_train=True)
    crop, jitter, colour = cfg.INPUT.CROP, cfg.INPUT.SCALE_JITTER, cfg.INPUT.COLOR
    if jitter.ENABLED:
        if crop.ENABLED:
            raise ConfigError("INPUT.CROP.ENABLED and INPUT.SCALE_JITTER.ENABLED: both crop; set one of them False")
        found = [*_scale_jitter(jitter), *found[1:]]
    elif crop.ENABLED:
        if max(_pair("INPUT.CROP.SIZE", crop.SIZE)) > 1 and crop.TYPE.startswith("relative"):
            raise ConfigError(f"INPUT.CROP.SIZE: expected shares of the picture, at most 1, got {list(crop.SIZE)}")
        if crop.TYPE.startswith("absolute") and any(side != int(side) for side in crop.SIZE):
            raise ConfigError(f"INPUT.CROP.SIZE: expected whole numbers of pixels, got {list(crop.SIZE)}")
        found.insert(0, transforms.RandomCrop(crop.TYPE, crop.SIZE))
    for name, kind in _COLOURS.items():
        if strength := _strength(name, colour[name]):
            found.append(kind(1 - strength, 1 + strength))
    return found


def _scale_jitter(jitter: CfgNode) -> list[transforms.Augmentation]:
    height, width = _pair("INPUT.SCALE_JITTER.SIZE", jitter.SIZE)
    low, high = _pair("INPUT.SCALE_JITTER.RANGE", jitter.RANGE)
    if low > high:
        raise ConfigError(f"INPUT.SCALE_JITTER.RANGE: expected the smaller scale first, got {list(jitter.RANGE)}")
    return [
        transforms.ResizeScale(low, high, int(height), int(width)),
        transforms.FixedSizeCrop((int(height), int(width))),
    ]


def _pair(key: str, value: Any) -> tuple[float, float]:
    if len(value) != 2 or not all(isinstance(number, (int, float)) and number > 0 for number in value):
        raise ConfigError(f"{key}: expected two numbers above 0, got {list(value)}")
    return value[0], value[1]


def _strength(name: str, value: float) -> float:
    if not 0 <= value < 1:
        raise ConfigError(f"INPUT.COLOR.{name}: expected a number from 0 (off) to below 1, got {value}")
    return value
