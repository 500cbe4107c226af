"""Keras ``.h5`` weights, as ``keras.applications`` publishes them (``keras/applications/nasnet.py``).

Layers are named after their place in a cell and the cell's number, which counts the reductions in. Only NASNet-A has
such names. The accuracies were measured with the padding of TF-slim; ``keras.applications`` itself pads the border of
its stride-2 pools with zeros.
"""

from __future__ import annotations

import re

from torch import Tensor

from nasnet_det.network import IMAGENET_STEM_CELLS, CellPlan, NASNet
from nasnet_det.operations import FactorizedReduction, SeparableConvNorm
from nasnet_det.published_cells import PUBLISHED
from nasnet_det.weights.layout import Arrays, Format, Unit, to_state_dict


def keras_state_dict(model: NASNet, arrays: Arrays) -> dict[str, Tensor]:
    """The state dict of ``model`` from the weights of a ``keras.applications`` NASNet (``stem_conv1/kernel:0``, ...).

    Raises:
        WeightsError: see :func:`nasnet_det.weights.layout.to_state_dict`.
    """
    return to_state_dict(model, arrays, FORMAT)


def _layer(unit: Unit, leaf: str) -> str | None:
    if unit.place == "stem":
        return {"conv": "stem_conv1", "bn": "stem_bn1"}[leaf]
    if unit.place == "classifier":
        return "predictions"
    if unit.cell is None:
        return None
    kind, cell = "reduction" if unit.cell.reduces else "normal", _cell_id(unit.cell)
    if unit.place == "current":
        return f"{kind}_{leaf}_1_{cell}"
    if unit.place == "previous":
        whole = isinstance(unit.module, FactorizedReduction)
        names = {"path1": "conv_1", "path2": "conv_2", "bn": "bn"} if whole else {"conv": "conv_projection", "bn": "bn"}
        return f"adjust_{names[leaf]}_{cell}"
    if unit.place == "block" and isinstance(unit.module, SeparableConvNorm):
        # Keras calls the reduction's last block by the number of the one before it.
        number = 4 if unit.cell.reduces and unit.number == 4 else unit.number + 1
        return f"separable_conv_{unit.step + 1}{'_bn' if leaf == 'bn' else ''}_{kind}_{unit.side}{number}_{cell}"
    return None


def _cell_id(plan: CellPlan) -> str:
    """Keras's number of a cell: stem cells from 1; a reduction takes a number that normal cells then leave out."""
    number = int(plan.name.rsplit("_", 1)[1])
    if plan.name.startswith("cell_stem"):
        return f"stem_{number + 1}"
    if not plan.reduces:
        return str(number + (plan.stage > 0))
    return f"reduce_{plan.current - IMAGENET_STEM_CELLS - number}"  # the normal cells below it


def _of_cell(name: str, plan: CellPlan) -> bool:
    found = re.search(r"_((?:stem|reduce)_\d+|\d+)/", name)
    return found is not None and found[1] == _cell_id(plan)


_NORM = {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean", "running_var": "moving_variance"}

FORMAT = Format(
    title="Keras file",
    layer=_layer,
    tensors={
        ("conv", "weight"): "{}/kernel:0",
        ("depthwise", "weight"): "{}/depthwise_kernel:0",
        ("pointwise", "weight"): "{}/pointwise_kernel:0",
        ("linear", "weight"): "{}/kernel:0",
        ("linear", "bias"): "{}/bias:0",
        **{("norm", ours): "{}/" + theirs + ":0" for ours, theirs in _NORM.items()},
    },
    channels_last=True,
    has_background=False,
    ignored=re.compile(r"^$"),
    auxiliary=re.compile(r"^$"),
    of_cell=_of_cell,
    genotype=PUBLISHED["nasnet_a"],
)
