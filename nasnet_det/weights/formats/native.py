"""This package's own files: the network's state dict (``stem.conv.weight``, ...).

Weights are floating-point numbers or, in a quarter of float32's bytes, int8 with a scale for each output channel.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nasnet_det.models.old_names import current_name
from nasnet_det.weights.layout import Arrays, Format, Unit, WeightsError

#: The suffix of the scale of an integer tensor's values.
_SCALE = ".scale"
_LARGEST_INT8 = 127
_INT8 = ("int8", "torch.int8")


def to_int8(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a state dict with its weights in int8, each with a scale for every output channel, the rest in float16."""
    stored = {}
    for name, value in state.items():
        if value.is_floating_point() and value.ndim > 1:
            largest = value.abs().flatten(1).amax(1).view(-1, *[1] * (value.ndim - 1))
            # A channel of zeros needs a scale as well: the smallest normal number.
            scale = (largest.float() / _LARGEST_INT8).clamp_min(torch.finfo(torch.float32).tiny)
            stored[name + _SCALE] = scale
            value = (value / scale).round().to(torch.int8)
        stored[name] = value.half() if value.is_floating_point() else value
    return stored


def _read_names(arrays: Arrays) -> Arrays:
    """Return the arrays by the network's present names, those in int8 multiplied by their scales."""
    integers = [name for name, value in arrays.items() if str(getattr(value, "dtype", "")) in _INT8]
    scales = {name + _SCALE for name in integers} & arrays.keys()
    return {
        current_name(name): _multiply(name, value, arrays[name + _SCALE]) if name + _SCALE in scales else value
        for name, value in arrays.items()
        if name not in scales
    }


def _multiply(name: str, value: Any, scale: Any) -> Tensor:
    expected = (*np.shape(value)[:1], *[1] * (np.ndim(value) - 1))
    if np.shape(scale) != expected:
        found = tuple(np.shape(scale))
        raise WeightsError(f"{name}{_SCALE} has the shape {found}, expected {expected}: the file is damaged")
    return torch.as_tensor(value) * torch.as_tensor(scale)


def _layer(unit: Unit, leaf: str) -> str:
    return leaf or unit.path


FORMAT = Format(
    title="nasnet_det file",
    marks=("stem.conv.weight",),
    layer=_layer,
    tensor=lambda kind, layer, parameter: f"{layer}.{parameter}",
    channels_last=False,
    has_background=False,
    of_cell=lambda plan, index: rf"^cells\.{plan.name}\.",
    ignored=r"\.num_batches_tracked$",
    auxiliary=r"^aux_head\.",
    prepare=_read_names,
    units=lambda model: iter([Unit("", model, "other")]),
)
