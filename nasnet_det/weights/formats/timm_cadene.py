"""PyTorch files of the earlier ports: timm's ``nasnetalarge`` and Cadene's ``nasnetalarge`` and ``nasnetamobile``.

timm's model is derived from Cadene's (``pretrainedmodels/models/nasnet.py``) and kept its names. Cadene's large file
has 1001 classes, the background first: a network with 1000 reads it without row 0. Both number normal cells as in the
large network, six to a stage: the second stage of Cadene's mobile network (``nasnet_mobile.py``), whose stages have
four cells, starts at ``cell_6``.
"""

from __future__ import annotations

from nasnet_det.genotypes.published import PUBLISHED
from nasnet_det.models.operations import FactorizedReduction, SeparableConvNorm
from nasnet_det.models.plan import CellPlan
from nasnet_det.weights.layout import Format, Unit

_CELLS_OF_A_STAGE = 6


def _layer(unit: Unit, leaf: str) -> str | None:
    if unit.role == "stem":
        return f"conv0.{leaf}"
    if unit.role == "classifier":
        return "last_linear"
    if unit.cell is None or unit.index >= _CELLS_OF_A_STAGE:
        return None
    cell = _cell_name(unit.cell, unit.index)
    if unit.role == "current":
        return f"{cell}.conv_1x1.{leaf}"
    if unit.role == "previous" and isinstance(unit.module, FactorizedReduction):
        return f"{cell}." + {"path1": "path_1.conv", "path2": "path_2.conv", "bn": "final_path_bn"}[leaf]
    if unit.role == "previous":
        return f"{cell}.conv_prev_1x1.{leaf}"
    if unit.role == "block" and isinstance(unit.module, SeparableConvNorm):
        name = f"bn_sep_{unit.step + 1}" if leaf == "bn" else f"separable_{unit.step + 1}.{leaf}_conv2d"
        return f"{cell}.comb_iter_{unit.number}_{unit.side}.{name}"
    return None


def _cell_name(plan: CellPlan, index: int) -> str:
    return plan.name if plan.reduces else f"cell_{_CELLS_OF_A_STAGE * plan.stage + index}"


FORMAT = Format(
    title="timm or Cadene file",
    marks=("conv0.conv.weight",),
    layer=_layer,
    tensor=lambda kind, layer, parameter: f"{layer}.{parameter}",
    channels_last=False,
    has_background=True,
    of_cell=lambda plan, index: rf"^{_cell_name(plan, index)}\.",
    ignored=r"\.num_batches_tracked$",
    genotype=PUBLISHED["nasnet_a"],
)
