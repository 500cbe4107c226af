"""Normalization layers of detection networks, by the names that ``MODEL.NASNET.NORM`` takes."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from detectron2.layers import FrozenBatchNorm2d, get_norm
from torch import nn

from nasnet_det.detection.config import ConfigError
from nasnet_det.models.network import NASNet
from nasnet_det.safe_io.values import format_value

#: Batch statistics below a detector's cut and fixed ones above it, as the TF Object Detection API trains.
TFOD = "TFOD"


class FixedStatsBatchNorm2d(nn.BatchNorm2d):
    """Batch norm that always normalizes by its running statistics and never updates them; scale and shift are trained.

    ``FrozenBatchNorm2d`` of detectron2 and torchvision fixes scale and shift as well. Source: TF-slim's ``batch_norm``
    with ``is_training=False`` and ``trainable=True``.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.train(False)

    def train(self, mode: bool = True) -> FixedStatsBatchNorm2d:
        """Stay in evaluation mode, in which PyTorch's batch norm uses its running statistics."""
        del mode
        return super().train(False)

    @classmethod
    def convert(cls, module: nn.Module) -> nn.Module:
        """Replace every batch norm of ``module``, keeping parameters and statistics.

        Returns:
            the module, or its replacement if it is a batch norm itself.
        """
        if type(module) is nn.BatchNorm2d:
            fixed = cls(module.num_features, module.eps, module.momentum)
            fixed._parameters, fixed._buffers = module._parameters, module._buffers
            return fixed
        for name, child in module.named_children():
            setattr(module, name, cls.convert(child))
        return module


def norm_layer(norm: str, eps: float, momentum: float) -> Callable[[int], nn.Module]:
    """Return the constructor of normalization layers of one kind; batch norms get ``eps`` and ``momentum``.

    Raises:
        ConfigError: for an unknown name.
    """
    batch_norms: dict[str, Callable[..., nn.Module]] = {
        "FrozenBN": partial(FrozenBatchNorm2d, eps=eps),
        "FixedStatsBN": partial(FixedStatsBatchNorm2d, eps=eps, momentum=momentum),
        "BN": partial(nn.BatchNorm2d, eps=eps, momentum=momentum),
        "SyncBN": partial(nn.SyncBatchNorm, eps=eps, momentum=momentum),
    }
    batch_norms[TFOD] = batch_norms["BN"]
    if norm in batch_norms:
        return batch_norms[norm]
    try:
        known = get_norm(norm, 32) is not None
    except KeyError:
        known = False
    if not known:
        names = f"{', '.join(batch_norms)}, GN or LN"
        raise ConfigError(f"MODEL.NASNET.NORM: expected {names}, got {format_value(norm)}")
    return partial(get_norm, norm)


def fix_statistics_above_cut(network: NASNet) -> None:
    """Fix the statistics of the norms above a detector's cut (see ``split.py``); those below keep using the batch's."""
    for plan in network.plan[network.cut() :]:
        FixedStatsBatchNorm2d.convert(network.cells[plan.name])
