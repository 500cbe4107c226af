"""The check of a config for keys of detectron2 that a detector would ignore, before anything long begins."""

from __future__ import annotations

import functools
import math
import sys
from collections.abc import Iterator
from typing import Any

from detectron2.config import CfgNode

from nasnet_det.detection.config import ConfigError, defaults
from nasnet_det.safe_io.values import format_value

#: Meta-architectures without mask heads.
_BOXES_ONLY = ("NASNetRCNN", "RetinaNet", "FCOS")
#: detectron2's meta-architectures that give something else than detections.
_OTHER_TASKS = ("PanopticFPN", "SemanticSegmentor", "ProposalNetwork")
#: detectron2's parts for rotated boxes and stored proposals, by the key of their name below MODEL.
_OTHER_PARTS = {
    "PROPOSAL_GENERATOR": ("RRPN", "PrecomputedProposals"),
    "ANCHOR_GENERATOR": ("RotatedAnchorGenerator",),
    "ROI_HEADS": ("RROIHeads",),
}


def _are_sides(value: Any, least: int) -> bool:
    sides = value if isinstance(value, (list, tuple)) else [value]
    return bool(sides) and all(type(side) in (int, float) and side >= least for side in sides)


_SIDES = (lambda value: _are_sides(value, 1), "sides in pixels")
_OWN_SIDES = (lambda value: _are_sides(value, 0), "sides in pixels, or 0 for the images' own")
_NUMBER = (lambda value: value > 0, "a number above 0")
_SHARE = (lambda value: 0 < value <= 1, "a share, above 0 and at most 1")
_IOU = (lambda value: value >= 0, "an IoU, 0 or more")
_DECAY = (lambda value: value is None or value >= 0, "a number, 0 or more")
_SCORE = (lambda value: value < 1, "a score below 1")
#: Keys with the values that they may have: with others nothing is detected or learnt.
_SOUND = {
    "INPUT.MIN_SIZE_TRAIN": _OWN_SIDES,
    "INPUT.MAX_SIZE_TRAIN": _SIDES,
    "INPUT.MIN_SIZE_TEST": _OWN_SIDES,
    "INPUT.MAX_SIZE_TEST": _SIDES,
    "TEST.AUG.MIN_SIZES": _SIDES,
    "TEST.AUG.MAX_SIZE": _SIDES,
    "MODEL.ROI_HEADS.SCORE_THRESH_TEST": _SCORE,
    "MODEL.ROI_HEADS.NMS_THRESH_TEST": _IOU,
    "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE": _NUMBER,
    "MODEL.ROI_HEADS.POSITIVE_FRACTION": _SHARE,
    "MODEL.RETINANET.SCORE_THRESH_TEST": _SCORE,
    "MODEL.RETINANET.NMS_THRESH_TEST": _IOU,
    "MODEL.RETINANET.TOPK_CANDIDATES_TEST": _NUMBER,
    "MODEL.RPN.NMS_THRESH": _IOU,
    "MODEL.RPN.BATCH_SIZE_PER_IMAGE": _NUMBER,
    "MODEL.RPN.POSITIVE_FRACTION": _SHARE,
    "MODEL.RPN.PRE_NMS_TOPK_TRAIN": _NUMBER,
    "MODEL.RPN.PRE_NMS_TOPK_TEST": _NUMBER,
    "MODEL.RPN.POST_NMS_TOPK_TRAIN": _NUMBER,
    "MODEL.RPN.POST_NMS_TOPK_TEST": _NUMBER,
    "SOLVER.MOMENTUM": (lambda value: 0 <= value < 1, "a number from 0 to below 1"),
    "SOLVER.WEIGHT_DECAY": _DECAY,
    "SOLVER.WEIGHT_DECAY_NORM": _DECAY,
    "SOLVER.WEIGHT_DECAY_BIAS": _DECAY,
    "SOLVER.BIAS_LR_FACTOR": _DECAY,
    "TEST.DETECTIONS_PER_IMAGE": (lambda value: value != 0, "a number, or -1 for all"),
}
#: Keys whose number may be infinite.
_UNBOUNDED = ("SOLVER.CLIP_GRADIENTS.NORM_TYPE", "SOLVER.CLIP_GRADIENTS.CLIP_VALUE")


def check_supported(cfg: CfgNode) -> None:
    """Refuse keys of detectron2 that the config's detector would ignore.

    Raises:
        ConfigError: naming the key and what to set.
    """
    _check_numbers(cfg, defaults())
    model, architecture = cfg.MODEL, cfg.MODEL.META_ARCHITECTURE
    if architecture in _OTHER_TASKS:
        raise ConfigError(
            f"MODEL.META_ARCHITECTURE is {architecture}, which does not detect objects: set it to GeneralizedRCNN, "
            "RetinaNet or NASNetRCNN"
        )
    if model.MASK_ON and architecture in _BOXES_ONLY:
        raise ConfigError(
            f"MODEL.MASK_ON is True, but {architecture} predicts boxes only: set MODEL.MASK_ON False, or take an FPN "
            "config such as mask_fpn_mobile"
        )
    if model.MASK_ON and cfg.INPUT.MASK_FORMAT not in ("polygon", "bitmask"):
        raise ConfigError(f"INPUT.MASK_FORMAT is {cfg.INPUT.MASK_FORMAT!r}: expected polygon, or bitmask for RLE too")
    for key in ("TRAIN", "TEST"):
        names = cfg.DATASETS[key]
        if not isinstance(names, (list, tuple)) or not all(isinstance(name, str) for name in names):
            raise ConfigError(f"DATASETS.{key} is {format_value(names)}: expected a list of names")
    starts_from_imagenet = "nasnet" in model.BACKBONE.NAME and model.NASNET.PRETRAINED and not model.WEIGHTS
    if starts_from_imagenet and min(model.PIXEL_STD) <= 1:
        raise ConfigError(
            f"MODEL.PIXEL_STD is {list(model.PIXEL_STD)}, but the weights of MODEL.NASNET.PRETRAINED expect RGB in "
            "[-1, 1]: set MODEL.PIXEL_MEAN and PIXEL_STD [127.5, 127.5, 127.5] and INPUT.FORMAT RGB, as base.yaml does"
        )
    if min(model.PIXEL_STD, default=0) <= 0:
        raise ConfigError(f"MODEL.PIXEL_STD is {list(model.PIXEL_STD)}: expected numbers above 0")
    if cfg.INPUT.FORMAT not in ("RGB", "BGR"):
        raise ConfigError(
            f"INPUT.FORMAT is {cfg.INPUT.FORMAT!r}: expected RGB or BGR, as all networks here take colours"
        )
    for key, names in _OTHER_PARTS.items():
        if model[key].NAME in names:
            raise ConfigError(
                f"MODEL.{key}.NAME is {model[key].NAME}, but rotated boxes and stored proposals are not supported: "
                "leave it out"
            )
    for key, (is_sound, expected) in _SOUND.items():
        value = functools.reduce(lambda node, part: node[part], key.split("."), cfg)
        if not is_sound(value) and (cfg.TEST.AUG.ENABLED or not key.startswith("TEST.AUG.")):
            raise ConfigError(
                f"{key} is {format_value(value)}, with which nothing is detected or learnt: expected {expected}"
            )
    if model.KEYPOINT_ON:
        raise ConfigError("MODEL.KEYPOINT_ON is True, but keypoints are not supported: set MODEL.KEYPOINT_ON False")
    if model.LOAD_PROPOSALS:
        raise ConfigError(
            "MODEL.LOAD_PROPOSALS is True, but stored proposals are not supported: set MODEL.LOAD_PROPOSALS False"
        )
    if cfg.TEST.AUG.ENABLED and architecture != "GeneralizedRCNN":
        raise ConfigError(
            f"TEST.AUG.ENABLED is True, but {architecture} has no test-time augmentation (the paper's detector resizes "
            "every image to one size): set TEST.AUG.ENABLED False, or take a Faster, Mask or Cascade R-CNN FPN config"
        )


def _check_numbers(cfg: CfgNode, usual: CfgNode, above: str = "") -> None:
    """Refuse what is no finite number where the defaults have numbers: yacs takes NaN, and anything in a list."""
    for name, default in usual.items():
        key, given, known = f"{above}{name}", cfg.get(name), [*_leaves(default)]
        if isinstance(default, CfgNode):
            _check_numbers(given or CfgNode(), default, f"{key}.")
        elif given is None or not known or not all(value is None or _is_number(value, key) for value in known):
            continue
        elif not all(_is_number(value, key) for value in _leaves(given)):
            what = f"finite numbers, such as {format_value(default)}" if known != [default] else "a finite number"
            raise ConfigError(f"{key} is {format_value(given)}: expected {what}")


def _is_number(value: Any, key: str) -> bool:
    limit = math.inf if key in _UNBOUNDED else sys.float_info.max
    return isinstance(value, (int, float)) and type(value) is not bool and abs(value) <= limit


def _leaves(value: Any) -> Iterator[Any]:
    """Yield the values in nested lists, or the one that is no list."""
    if isinstance(value, (list, tuple)):
        for inner in value:
            yield from _leaves(inner)
    else:
        yield value
