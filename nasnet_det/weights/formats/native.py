"""This package's own files: the network's state dict (``stem.conv.weight``, ...)."""

from __future__ import annotations

from nasnet_det.models.network import current_name
from nasnet_det.weights.layout import Format, Unit


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
    prepare=lambda arrays: {current_name(name): value for name, value in arrays.items()},
    units=lambda model: iter([Unit("", model, "other")]),
)
