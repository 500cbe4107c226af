"""The check of a config for keys of detectron2 that a detector would ignore, before anything long begins."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from detectron2.config import CfgNode
from detectron2.utils import comm

from nasnet_det.detection.config import ConfigError, defaults
from nasnet_det.safe_io.values import format_value, one_line

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
#: The environment variables by which torchrun tells a process of the others.
TORCHRUN = ("WORLD_SIZE", "RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")

Bound = tuple[Callable[[list[Any]], bool], str]


def _each(test: Callable[[Any], bool], expected: str) -> Bound:
    return lambda values: all(map(test, values)), expected


_ANY = _each(lambda value: True, "a finite number")
_NOT_NEGATIVE = _each(lambda value: value >= 0, "a finite number, 0 or more")
_POSITIVE = _each(lambda value: value > 0, "a finite number above 0")
_SIDE = _each(lambda value: value >= 1, "a side in pixels")
_OVERLAP = _each(lambda value: 0 < value <= 1, "an IoU, above 0 and at most 1")
_SHARE = _each(lambda value: 0 < value <= 1, "a share, above 0 and at most 1")
_BELOW_1 = _each(lambda value: 0 <= value < 1, "a number from 0 to below 1")
_SCORE = _each(lambda value: value < 1, "a score below 1")
#: What numbers may be, by the end of their key: with others nothing is detected or learnt, or what is wrong. Those
#: without an entry are not negative.
_BOUNDS = {
    **dict.fromkeys(("PIXEL_MEAN", "FREEZE_AT", "BOUNDARY_THRESH", "ANGLES", "SAMPLING_RATIO"), _ANY),
    **dict.fromkeys((".EVAL_PERIOD", "VIS_PERIOD", "GLOBAL.HACK"), _ANY),
    "SEED": _each(lambda value: value < 2**32, "a number below 2**32, or a negative one for another at each start"),
    **dict.fromkeys(("PIXEL_STD", "BBOX_REG_WEIGHTS", "BATCH_SIZE_PER_IMAGE", "DETECTIONS_PER_CLASS"), _POSITIVE),
    **dict.fromkeys(("NMS_TOPK_TRAIN", "NMS_TOPK_TEST", "TOPK_CANDIDATES_TEST", "PRECISE_BN.NUM_ITER"), _POSITIVE),
    **dict.fromkeys(("INPUT.MAX_SIZE_TRAIN", "INPUT.MAX_SIZE_TEST", "AUG.MIN_SIZES", "AUG.MAX_SIZE"), _SIDE),
    **dict.fromkeys(("IOU_THRESHOLDS", "CASCADE_HEAD.IOUS"), _OVERLAP),
    **dict.fromkeys(("SCORE_THRESH_TEST", "RPN_SCORE_THRESH"), _SCORE),
    **dict.fromkeys(("BASE_LR", "MAX_ITER", "CHECKPOINT_PERIOD", "IMS_PER_BATCH", "NORM_TYPE"), _POSITIVE),
    **dict.fromkeys(("train.max_iter", "train.log_period", "train.checkpointer.period"), _POSITIVE),
    **dict.fromkeys(("SOLVER.MOMENTUM", "DROP_PATH_RATE"), _BELOW_1),
    "POSITIVE_FRACTION": _SHARE,
    "IMAGE_SIZE": (
        lambda values: [*map(type, values)] == [int, int] and (min(values) > 0 or values == [0, 0]),
        "height and width, above 0, or 0",
    ),
    **dict.fromkeys(("REPEAT_THRESHOLD", "BN_MOMENTUM"), _each(lambda value: 0 <= value <= 1, "a number from 0 to 1")),
    "CONV_DIMS": _each(lambda value: value > 0 or value == -1, "channels, or -1 for those of the map"),
    "IOU_LABELS": (lambda values: values[-1:] == [1] and 0 in values, "0 for background, -1 for neither, and 1 last"),
    "FOCAL_LOSS_ALPHA": _each(lambda value: value == -1 or 0 <= value <= 1, "a number from 0 to 1, or -1 for none"),
    "DETECTIONS_PER_IMAGE": _each(lambda value: value != 0, "a number, or -1 for all"),
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
    if model.KEYPOINT_ON:
        raise ConfigError("MODEL.KEYPOINT_ON is True, but keypoints are not supported: set MODEL.KEYPOINT_ON False")
    if model.LOAD_PROPOSALS:
        raise ConfigError(
            "MODEL.LOAD_PROPOSALS is True, but stored proposals are not supported: set MODEL.LOAD_PROPOSALS False"
        )
    if model.NASNET.LABEL_IDS and model.ROI_HEADS.NAME != "NASNetROIHeads":
        raise ConfigError("MODEL.NASNET.LABEL_IDS is for the paper's detector only: set it to []")
    if architecture in ("RetinaNet", "FCOS") and cfg.TEST.DETECTIONS_PER_IMAGE < 0:
        raise ConfigError(
            f"TEST.DETECTIONS_PER_IMAGE is {cfg.TEST.DETECTIONS_PER_IMAGE}, by which {architecture} drops "
            "its last detections: set it to how many to keep"
        )
    if cfg.TEST.AUG.ENABLED and architecture != "GeneralizedRCNN":
        raise ConfigError(
            f"TEST.AUG.ENABLED is True, but {architecture} has no test-time augmentation (the paper's detector resizes "
            "every image to one size): set TEST.AUG.ENABLED False, or take a Faster, Mask or Cascade R-CNN FPN config"
        )


def _check_numbers(cfg: CfgNode, usual: CfgNode, above: str = "") -> None:
    """Check the keys whose defaults are numbers, or lists of numbers: yacs takes NaN, and anything in a list."""
    for name, default in usual.items():
        key, given, known = f"{above}{name}", cfg.get(name), [*_leaves(default)]
        if isinstance(default, CfgNode):
            if key != "TEST.AUG" or given.ENABLED:
                _check_numbers(given or CfgNode(), default, f"{key}.")
        elif given is not None and known and all(value is None or _is_number(value, key) for value in known):
            check_numbers(key, given)
            if default and (_depth(given) > _depth(default) or (_depth(given) and not given and key != "SOLVER.STEPS")):
                raise ConfigError(f"{key} is {format_value(given)}: expected numbers such as {format_value(default)}")


def check_numbers(key: str, value: Any, name: str = "") -> None:
    """Check a number, or nested lists of numbers, by the bounds of a key of the config.

    Args:
        key: the key, as ``MODEL.RPN.NMS_THRESH``.
        value: the numbers.
        name: of an argument that the value was given as.

    Raises:
        ConfigError: naming both, the value and what was expected.
    """
    is_sound, expected = next((bound for end, bound in _BOUNDS.items() if key.endswith(end)), _NOT_NEGATIVE)
    numbers = [*_leaves(value)]
    if not all(_is_number(number, key) for number in numbers) or not is_sound(numbers):
        each = " for each" if _depth(value) else ""
        named = f"{key} ({name})" if name else key
        raise ConfigError(f"{named} is {format_value(value)}: expected {expected}{each}")


def check_processes() -> None:
    """Raise ConfigError for one of several processes that have not joined, which would write the same files."""
    alone = comm.get_world_size() == 1 and os.environ.get("WORLD_SIZE", "1") != "1"
    if alone and "RANK" in os.environ:
        raise ConfigError(
            f"WORLD_SIZE is {os.environ['WORLD_SIZE']}, but this process is alone, and all would write to one folder: "
            f"start nasnet-det train-net by torchrun, which sets {', '.join(TORCHRUN)}, give detectron2's own scripts "
            "--num-gpus, or unset RANK and WORLD_SIZE"
        )


def tried_schedule(build: Callable[[], Any], steps: int, name: str, advice: str) -> Any:
    """Build a schedule, try it up to the step after the last, for which it is asked, too, and return it.

    Args:
        build: returns fvcore's schedule of the factor of the rate, or detectron2's scheduler that follows one.
        steps: of the training.
        name: what it is called in an error.
        advice: what to correct.

    Raises:
        ConfigError: if it gives no learning rate, as some do in their last steps only, or 0 in all steps.
    """
    step = 0
    try:
        schedule, factors = build(), []
        factor_at = getattr(schedule, "_multiplier", schedule)
        for step in (*range(0, steps, math.ceil(steps / 1000)), steps):
            factors.append(factor_at(step / steps))
            if not 0 <= factors[-1] < math.inf:
                raise ValueError(f"the rate times {factors[-1]}")
        if not any(factors):
            raise ValueError("the rate is 0 from the first step to the last")
    except (AssertionError, ArithmeticError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise ConfigError(
            f"{name} has no learning rate for step {step} of {steps} ({type(error).__name__}: {one_line(error)}): "
            f"correct {advice}"
        ) from error
    return schedule


def _is_number(value: Any, key: str) -> bool:
    limit = math.inf if key in _UNBOUNDED else sys.float_info.max
    return isinstance(value, (int, float)) and type(value) is not bool and abs(value) <= limit


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)


def _leaves(value: Any) -> Iterator[Any]:
    """Yield the values in nested lists, or the value itself if it is not a list."""
    if _is_list(value):
        for inner in value:
            yield from _leaves(inner)
    else:
        yield value


def _depth(value: Any) -> int:
    return 1 + max(map(_depth, value), default=0) if _is_list(value) else 0
