"""Keras ``.h5`` weights, as ``keras.applications`` publishes them (``keras/applications/nasnet.py``).

Layers are named by their position in a cell and the cell's number, which counts reductions too. Only NASNet-A has such
names. The published accuracies were measured with TF-slim's padding; ``keras.applications`` itself pads the inputs of
its stride-2 pools with zeros.
"""

from __future__ import annotations

from nasnet_det.genotypes.published import PUBLISHED
from nasnet_det.models.operations import FactorizedReduction, SeparableConvNorm
from nasnet_det.models.plan import IMAGENET_STEM_CELLS, CellPlan
from nasnet_det.weights.formats.tf_slim import tensor_names
from nasnet_det.weights.layout import Arrays, Format, Unit


def _layer_and_weight(arrays: Arrays) -> Arrays:
    """Rename tensors to ``LAYER/WEIGHT``.

    Keras 3 adds the cell's scope before it, earlier releases ``:0`` after it; the releases around May 2018, which wrote
    the published files, name the first ``reduction_right1`` just ``reduction_1``."""
    renamed = {}
    for name, value in arrays.items():
        layer_and_weight = "/".join(name.removesuffix(":0").split("/")[-2:])
        renamed[layer_and_weight.replace("_reduction_1_", "_reduction_right1_")] = value
    return renamed


def _layer(unit: Unit, leaf: str) -> str | None:
    if unit.role == "stem":
        return {"conv": "stem_conv1", "bn": "stem_bn1"}[leaf]
    if unit.role == "classifier":
        return "predictions"
    if unit.cell is None:
        return None
    kind, cell = "reduction" if unit.cell.reduces else "normal", _cell_id(unit.cell)
    if unit.role == "current":
        return f"{kind}_{leaf}_1_{cell}"
    if unit.role == "previous":
        whole = isinstance(unit.module, FactorizedReduction)
        names = {"path1": "conv_1", "path2": "conv_2", "bn": "bn"} if whole else {"conv": "conv_projection", "bn": "bn"}
        return f"adjust_{names[leaf]}_{cell}"
    if unit.role == "block" and isinstance(unit.module, SeparableConvNorm):
        # Keras gives the reduction's last block the number of the one before it.
        number = 4 if unit.cell.reduces and unit.number == 4 else unit.number + 1
        return f"separable_conv_{unit.step + 1}{'_bn' if leaf == 'bn' else ''}_{kind}_{unit.side}{number}_{cell}"
    return None


def _cell_id(plan: CellPlan) -> str:
    """Return Keras's number of a cell: stem cells from 1; a reduction has a number that normal cells then skip."""
    number = int(plan.name.rsplit("_", 1)[1])
    if plan.name.startswith("cell_stem"):
        return f"stem_{number + 1}"
    if not plan.reduces:
        return str(number + (plan.stage > 0))
    return f"reduce_{plan.current - IMAGENET_STEM_CELLS - number}"  # the normal cells below it


FORMAT = Format(
    title="Keras file",
    marks=("stem_conv1/kernel",),
    layer=_layer,
    tensor=tensor_names("kernel", "bias"),
    channels_last=True,
    has_background=False,
    of_cell=lambda plan, index: rf"(?<!_stem)(?<!_reduce)_{_cell_id(plan)}/",
    genotype=PUBLISHED["nasnet_a"],
    prepare=_layer_and_weight,
)
