"""Faster training in channels_last on a GPU: the same functions as PyTorch's, with other backward passes.

Several of PyTorch's CUDA kernels are slow in this layout: average pooling, and the backward pass of batch norm for a
gradient that is a slice of a larger one, as the gradient of a concatenation is (measured in ``docs/speed.md``).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from nasnet_det.models.cpu_training import is_training_eagerly


def is_training_on_gpu(x: Tensor) -> bool:
    """Return whether ``x`` is a tensor in channels_last on a GPU in an eager forward pass that records gradients."""
    return is_training_eagerly(x) and x.is_cuda and x.is_contiguous(memory_format=torch.channels_last)


def concat_channels(*xs: Tensor) -> Tensor:
    """Concatenate ``(N, C_i, H, W)`` along the channels; each gets a gradient of its own memory, in channels_last."""
    return _ConcatChannels.apply(*xs)


class _ConcatChannels(Function):
    @staticmethod
    def forward(ctx: Any, *xs: Tensor) -> Tensor:
        ctx.widths = [x.shape[1] for x in xs]
        return torch.cat(xs, dim=1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, ...]:
        slices = gradients[0].split(ctx.widths, dim=1)
        return tuple(part.contiguous(memory_format=torch.channels_last) for part in slices)
