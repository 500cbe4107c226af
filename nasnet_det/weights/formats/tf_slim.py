"""TF-slim checkpoints: the networks' original home (``nets/nasnet/nasnet.py``, ``nasnet_utils.py``).

A training checkpoint keeps a moving average beside each variable, ``NAME/ExponentialMovingAverage``, which is what the
published accuracies were measured with: it is read where it exists, ``NAME`` otherwise. Class 0 is the background: a
checkpoint of 1001 classes is read whole by a network of 1001, and without its row 0 by one of 1000. The auxiliary head
is read by a network that has one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from nasnet_det.models.operations import FactorizedReduction, SeparableConvNorm
from nasnet_det.weights.layout import Arrays, Format, Unit, is_imagenet_stem

AVERAGE = "/ExponentialMovingAverage"
#: What training leaves in a checkpoint beside the network: counters and the optimizers' slots.
_TRAINING = r"(^|/)global_step$|/(Momentum|RMSProp|RMSProp_1|Adam|Adam_1)$"
#: What TensorFlow calls batch norm's tensors.
NORM = {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean", "running_var": "moving_variance"}


def preferred(names: Iterable[str]) -> dict[str, str]:
    """What to read of a checkpoint: each variable's name and the name of its moving average, or its own without one;
    without training's counters and slots."""
    stored = set(names)
    plain = (name.removesuffix(AVERAGE) for name in stored)
    wanted = {name for name in plain if not re.search(_TRAINING, name)}
    return {name: name + AVERAGE if name + AVERAGE in stored else name for name in sorted(wanted)}


def _averages(arrays: Arrays) -> Arrays:
    return {name: arrays[stored] for name, stored in preferred(arrays).items()}


def _layer(unit: Unit, leaf: str) -> str | None:
    if unit.place == "stem":
        return (_IMAGENET_STEM if is_imagenet_stem(unit.module) else _CIFAR_STEM)[leaf]
    if unit.place == "classifier":
        return "final_layer/FC"
    if unit.place == "auxiliary":
        return f"aux_{unit.number}/aux_logits/{_AUXILIARY[leaf]}"
    inner = _inside_cell(unit, leaf)
    return f"{unit.cell.name}/{inner}" if unit.cell and inner else None


_IMAGENET_STEM = {"conv": "conv0", "bn": "conv0_bn"}
_CIFAR_STEM = {"conv": "l1_stem_3x3", "bn": "l1_stem_bn"}
_AUXILIARY = {"project": "proj", "bn0": "aux_bn0", "whole": "Conv", "bn1": "aux_bn1", "fc": "FC"}


def _inside_cell(unit: Unit, leaf: str) -> str | None:
    factorized = {"path1": "path1_conv", "path2": "path2_conv", "bn": "final_path_bn"}
    if unit.place == "current":
        return {"conv": "1x1", "bn": "beginning_bn"}[leaf]
    if unit.place == "previous":
        whole = isinstance(unit.module, FactorizedReduction)
        return (factorized if whole else {"conv": "prev_1x1", "bn": "prev_bn"})[leaf]
    if unit.place == "join":
        whole = isinstance(unit.module, FactorizedReduction)
        name = (factorized if whole else {"conv": "path_conv", "bn": "path_bn"})[leaf]
        return f"cell_output/reduction_{unit.number}/{name}"
    if unit.place != "block":
        return None
    scope = f"comb_iter_{unit.number}/{unit.side}"
    if isinstance(unit.module, SeparableConvNorm):
        kernel = unit.module.depthwise.kernel_size[0]
        prefix = "bn_sep" if leaf == "bn" else "separable"
        return f"{scope}/{prefix}_{kernel}x{kernel}_{unit.step + 1}"
    if unit.step:
        return None
    return f"{scope}/1x1" if leaf == "conv" else f"{scope}/bn_1"


def _tensor(kind: str, layer: str, parameter: str) -> str:
    if kind == "norm":
        return f"{layer}/{NORM[parameter]}"
    if parameter == "bias":
        return f"{layer}/biases"
    return f"{layer}/{kind}_weights" if kind in ("depthwise", "pointwise") else f"{layer}/weights"


FORMAT = Format(
    title="TF-slim checkpoint",
    marks=("conv0/weights", "l1_stem_3x3/weights"),
    layer=_layer,
    tensor=_tensor,
    channels_last=True,
    has_background=True,
    of_cell=lambda plan, index: f"^{plan.name}/",
    ignored=_TRAINING,
    auxiliary=r"^aux_\d+/",
    prepare=_averages,
)
