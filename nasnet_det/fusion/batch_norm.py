"""Folding of batch norms into the convolution before them.

With fixed statistics a batch norm is ``scale * x + shift`` per channel, so ``norm(conv(x))`` equals one convolution
with scaled kernels and a bias. Everything is computed in double precision and rounded once, to the weights' dtype.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


def scale_and_shift(norm: nn.Module) -> tuple[Tensor, Tensor] | None:
    """Return the ``(scale, shift)`` per channel that ``norm`` applies in evaluation mode, in double precision, or None
    if ``norm`` is not a batch norm with fixed statistics.

    Handles PyTorch's batch norms, synchronized or not, and ``FrozenBatchNorm2d`` of torchvision and detectron2 (by
    name, so that neither has to be installed).
    """
    kind = type(norm)
    is_batch_norm = isinstance(norm, (nn.BatchNorm2d, nn.SyncBatchNorm)) and kind.forward in (
        nn.BatchNorm2d.forward,
        nn.SyncBatchNorm.forward,
    )
    if not is_batch_norm and kind.__name__ != "FrozenBatchNorm2d":
        return None
    mean, variance, eps = (getattr(norm, name, None) for name in ("running_mean", "running_var", "eps"))
    if not isinstance(mean, Tensor) or not isinstance(variance, Tensor) or not isinstance(eps, float):
        return None  # without running statistics it normalizes by those of each batch
    scale = torch.rsqrt(variance.detach().double() + eps)
    if isinstance(weight := getattr(norm, "weight", None), Tensor):
        scale = scale * weight.detach().double()
    shift = -mean.detach().double() * scale
    if isinstance(bias := getattr(norm, "bias", None), Tensor):
        shift = shift + bias.detach().double()
    return scale, shift


def fold(conv: nn.Conv2d, norm: nn.Module) -> tuple[Tensor, Tensor | None] | None:
    """Return the weight and bias (None for no bias) of the convolution that computes ``norm(conv(x))``, in double
    precision, or None for a norm that does not fold."""
    if type(norm) is nn.Identity:
        return conv.weight.detach().double(), None if conv.bias is None else conv.bias.detach().double()
    terms = scale_and_shift(norm)
    if terms is None:
        return None
    scale, shift = terms
    bias = shift if conv.bias is None else shift + scale * conv.bias.detach().double()
    return conv.weight.detach().double() * scale.reshape(-1, 1, 1, 1), bias
