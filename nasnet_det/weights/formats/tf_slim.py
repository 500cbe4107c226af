"""TF-slim checkpoints and graphs frozen from them (``nets/nasnet/nasnet.py``, ``nasnet_utils.py``).

A training checkpoint stores a moving average for each variable, ``NAME/ExponentialMovingAverage``, with which the
published accuracies were measured: it is read if it exists, ``NAME`` otherwise. Class 0 is the background: a network
with 1001 classes reads a classifier of 1001 classes whole, one with 1000 without row 0. The auxiliary head is read by
networks that have one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

from nasnet_det.models.operations import FactorizedReduction, SeparableConvNorm
from nasnet_det.weights.layout import Arrays, Format, Unit, is_imagenet_stem

AVERAGE = "/ExponentialMovingAverage"
#: Variables of training in a checkpoint: counters and the optimizers' slots.
_TRAINING = r"(^|/)global_step$|/(Momentum|RMSProp|RMSProp_1|Adam|Adam_1)$"
#: TensorFlow's names of batch norm's tensors.
NORM = {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean", "running_var": "moving_variance"}
#: The last parts of the names of a network's variables.
VARIABLES = frozenset({"weights", "depthwise_weights", "pointwise_weights", "biases", *NORM.values()})


def preferred(names: Iterable[str]) -> dict[str, str]:
    """Map each of a checkpoint's variables to the name to read: its moving average's, or its own without one.

    Training's counters and slots are left out."""
    stored = set(names)
    plain = (name.removesuffix(AVERAGE) for name in stored)
    wanted = {name for name in plain if not re.search(_TRAINING, name)}
    return {name: name + AVERAGE if name + AVERAGE in stored else name for name in sorted(wanted)}


def _averages(arrays: Arrays) -> Arrays:
    return {name: arrays[stored] for name, stored in preferred(arrays).items()}


def _layer(unit: Unit, leaf: str) -> str | None:
    if unit.role == "stem":
        return (_IMAGENET_STEM if is_imagenet_stem(unit.module) else _CIFAR_STEM)[leaf]
    if unit.role == "classifier":
        return "final_layer/FC"
    if unit.role == "auxiliary":
        return f"aux_{unit.number}/aux_logits/{_AUXILIARY[leaf]}"
    inner = _inside_cell(unit, leaf)
    return f"{unit.cell.name}/{inner}" if unit.cell and inner else None


_IMAGENET_STEM = {"conv": "conv0", "bn": "conv0_bn"}
_CIFAR_STEM = {"conv": "l1_stem_3x3", "bn": "l1_stem_bn"}
_AUXILIARY = {"project": "proj", "bn0": "aux_bn0", "whole": "Conv", "bn1": "aux_bn1", "fc": "FC"}


def _inside_cell(unit: Unit, leaf: str) -> str | None:
    factorized = {"path1": "path1_conv", "path2": "path2_conv", "bn": "final_path_bn"}
    if unit.role == "current":
        return {"conv": "1x1", "bn": "beginning_bn"}[leaf]
    if unit.role == "previous":
        whole = isinstance(unit.module, FactorizedReduction)
        return (factorized if whole else {"conv": "prev_1x1", "bn": "prev_bn"})[leaf]
    if unit.role == "concat":
        whole = isinstance(unit.module, FactorizedReduction)
        name = (factorized if whole else {"conv": "path_conv", "bn": "path_bn"})[leaf]
        return f"cell_output/reduction_{unit.number}/{name}"
    if unit.role != "block":
        return None
    scope = f"comb_iter_{unit.number}/{unit.side}"
    if isinstance(unit.module, SeparableConvNorm):
        kernel = unit.module.depthwise.kernel_size[0]
        prefix = "bn_sep" if leaf == "bn" else "separable"
        return f"{scope}/{prefix}_{kernel}x{kernel}_{unit.step + 1}"
    if unit.step:
        return None
    return f"{scope}/1x1" if leaf == "conv" else f"{scope}/bn_1"


def tensor_names(weight: str, bias: str) -> Callable[[str, str, str], str]:
    """Return the naming rule of a layer's tensors in TensorFlow, given the names of its weight and its bias."""

    def tensor(kind: str, layer: str, parameter: str) -> str:
        if kind == "norm":
            return f"{layer}/{NORM[parameter]}"
        if parameter == "bias":
            return f"{layer}/{bias}"
        return f"{layer}/{kind}_{weight}" if kind in ("depthwise", "pointwise") else f"{layer}/{weight}"

    return tensor


FORMAT = Format(
    title="TF-slim checkpoint",
    marks=("conv0/weights", "l1_stem_3x3/weights"),
    layer=_layer,
    tensor=tensor_names("weights", "biases"),
    channels_last=True,
    has_background=True,
    of_cell=lambda plan, index: f"^{plan.name}/",
    ignored=_TRAINING,
    auxiliary=r"^aux_\d+/",
    prepare=_averages,
)
