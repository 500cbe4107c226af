"""Batch norm folded into the convolution before it.

With its statistics fixed a batch norm is ``scale * x + shift`` per channel, so ``norm(conv(x))`` is a convolution with
scaled kernels and a bias. Everything is computed in double precision and rounded once, to the weights' type.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


def scale_and_shift(norm: nn.Module) -> tuple[Tensor, Tensor] | None:
    """The ``(scale, shift)`` of each channel that ``norm`` applies in evaluation, in double precision; None if it is no
    batch norm with fixed statistics.

    Knows PyTorch's batch norms, synchronized or not, and ``FrozenBatchNorm2d`` as torchvision and detectron2 have it
    (by name: neither is needed to import this).
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
        return None  # without running statistics it normalizes by each batch's own
    scale = torch.rsqrt(variance.detach().double() + eps)
    if isinstance(weight := getattr(norm, "weight", None), Tensor):
        scale = scale * weight.detach().double()
    shift = -mean.detach().double() * scale
    if isinstance(bias := getattr(norm, "bias", None), Tensor):
        shift = shift + bias.detach().double()
    return scale, shift


def folded(conv: nn.Conv2d, norm: nn.Module) -> tuple[Tensor, Tensor | None] | None:
    """The weight and bias of the one convolution that computes ``norm(conv(x))``, in double precision (no bias
    if there is none); None if ``norm`` cannot be folded."""
    if type(norm) is nn.Identity:
        return conv.weight.detach().double(), None if conv.bias is None else conv.bias.detach().double()
    terms = scale_and_shift(norm)
    if terms is None:
        return None
    scale, shift = terms
    bias = shift if conv.bias is None else shift + scale * conv.bias.detach().double()
    return conv.weight.detach().double() * scale.reshape(-1, 1, 1, 1), bias
