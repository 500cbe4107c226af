"""Faster training on a CPU: the same functions as PyTorch's convolution and batch norm, with other backward passes.

Several of PyTorch's CPU kernels are far from what memory allows (measured in ``docs/speed.md``): oneDNN has a fast
weight gradient only for depthwise kernels up to 3 columns wide; native batch norm in channels_last works through a few
channels at a time, and so does average pooling; pointwise convolutions are slower than matrix products. Depthwise
convolutions and batch norm in channels_last are those of :mod:`~nasnet_det.models.cpu_kernels` where it can be
compiled; :mod:`~nasnet_det.models.cpu_separable` joins the two and pointwise convolutions. The functions below are used
only where :func:`~nasnet_det.models.eager_training.is_training_on_cpu` allows, and have a second derivative as
PyTorch's have.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.nn import functional

from nasnet_det.models import cpu_kernels
from nasnet_det.models.cpu_fallback import FAST_COLUMNS, Rows, TiledDepthwise
from nasnet_det.models.cpu_kernels import Pair, Sides
from nasnet_det.models.eager_training import gradients_again, has_hooks, is_plain_backward, is_training_on_cpu

#: The fewest channels for which PyTorch's backward pass of batch norm in channels_last is the faster one.
_FAST_CHANNELS = 16


def is_slow_depthwise(conv: nn.Conv2d, x: Tensor) -> bool:
    """Return whether a convolution of ``x`` is depthwise, and :func:`depthwise_conv2d` is faster than PyTorch's."""
    return is_depthwise(conv) and (
        cpu_kernels.takes_depthwise(x, conv.weight) or (conv.kernel_size[1] > FAST_COLUMNS and conv.dilation == (1, 1))
    )


def is_depthwise(conv: nn.Conv2d) -> bool:
    """Return whether a convolution is depthwise, without bias, and of one dilation."""
    one_each = conv.groups == conv.in_channels == conv.out_channels
    return one_each and conv.bias is None and conv.dilation[0] == conv.dilation[1]


def is_pointwise(conv: nn.Conv2d) -> bool:
    """Return whether a convolution is one matrix product for all pixels."""
    return conv.kernel_size == conv.stride == (1, 1) and conv.groups == 1 and conv.bias is None


def pointwise_conv2d(x: Tensor, weight: Tensor) -> Tensor:
    """Return a pointwise convolution ``(N, out, H, W)`` of ``x`` ``(N, in, H, W)`` in channels_last.

    Args:
        weight: the kernels ``(out, in, 1, 1)``.
    """
    return functional.linear(x.permute(0, 2, 3, 1), weight.flatten(1)).permute(0, 3, 1, 2)


def depthwise_conv2d(x: Tensor, weight: Tensor, stride: Pair, padding: Sides, dilation: int = 1) -> Tensor:
    """Return a depthwise convolution, compiled or, if it is not dilated, with a weight gradient computed tile by tile.

    Args:
        x: the input ``(N, C, H, W)``.
        weight: the kernels ``(C, 1, kH, kW)``.
        stride: the strides ``(sH, sW)``.
        padding: the zeros at ``(left, right, top, bottom)``, none negative.
        dilation: the steps between a kernel's weights.
    """
    if cpu_kernels.takes_depthwise(x, weight):
        return _CompiledDepthwise.apply(x, weight, stride, padding, dilation, None)
    return TiledDepthwise.apply(x, weight, stride, padding)


def average_pool2d(x: Tensor, kernel: int, stride: int, padding: Sides) -> Tensor | None:
    """Return means ``(N, C, H', W')`` over windows of a map that is padded, without its border; None if not compiled.

    Args:
        x: the input ``(N, C, H, W)``.
        kernel: the window's side.
        stride: the stride.
        padding: the border at ``(left, right, top, bottom)``, none negative.
    """
    one = x.new_ones((1, 1, kernel, kernel))
    weight = one.expand(x.shape[1], 1, kernel, kernel)
    if not cpu_kernels.takes_depthwise(x, weight):
        return None
    members = functional.conv2d(functional.pad(torch.ones_like(x[:1, :1]), padding), one, None, stride)
    return _CompiledDepthwise.apply(x, weight, (stride, stride), padding, 1, members[0, 0].reciprocal())


class _CompiledDepthwise(Function):
    """A convolution of ``x`` by ``weight`` with the options of :func:`nasnet_det.models.cpu_kernels.depthwise`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, *options: Any) -> Tensor:
        ctx.options = options
        ctx.save_for_backward(x, weight)
        return cpu_kernels.depthwise(x, weight, *options)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (x, weight), wanted, nothing = ctx.saved_tensors, ctx.needs_input_grad[:2], [None] * len(ctx.options)
        if is_plain_backward(gradients[0]):
            return *cpu_kernels.depthwise_gradients(gradients[0], wanted, x, weight, *ctx.options), *nothing
        stride, padding, dilation, scale = ctx.options

        def output(x: Tensor, weight: Tensor) -> Tensor:
            y = functional.conv2d(functional.pad(x, padding), weight, None, stride, 0, dilation, groups=x.shape[1])
            return y if scale is None else y * scale

        return *gradients_again(output, (x, weight), wanted, gradients), *nothing


def normalize(x: Tensor, norm: nn.Module) -> Tensor:
    """Return ``norm(x)`` for ``x`` ``(N, C, H, W)``, the faster way where it applies."""
    if is_training_on_cpu(x) and is_plain_batch_norm(norm, x, x.shape):
        return _batch_norm(x, norm)  # type: ignore[arg-type]
    return norm(x)


def is_plain_batch_norm(norm: nn.Module, x: Tensor, size: Sequence[int]) -> bool:
    """Return whether a layer is PyTorch's batch norm, for a map of this size, of the type and device of ``x``.

    Its tensors tell, as to PyTorch's function: they may have been replaced by others, as pruning does."""
    return (
        type(norm) is nn.BatchNorm2d
        and norm.training
        and norm.num_batches_tracked is not None
        and all(
            value is not None and value.shape == (size[1],) and value.dtype == x.dtype and value.device == x.device
            for value in (norm.weight, norm.bias, norm.running_mean, norm.running_var)
        )
        and math.prod(size) > size[1]  # PyTorch's own raises for a single value per channel
        and not has_hooks(norm)
    )


def _batch_norm(x: Tensor, norm: nn.BatchNorm2d) -> Tensor:
    normalized, mean, variance = _BatchNorm2d.apply(x, norm.weight, norm.bias, norm.eps)
    track(norm, mean, unbiased(variance, x))
    return normalized


def unbiased(variance: Tensor, x: Tensor) -> Tensor:
    """Return the unbiased variance of each channel ``(C,)`` of a map ``(N, C, H, W)``, from the biased one."""
    count = x.numel() // x.shape[1]
    return variance * (count / (count - 1))


def track(norm: nn.BatchNorm2d, mean: Tensor, variance: Tensor) -> None:
    """Update the running statistics by the mean and the unbiased variance of a batch, both ``(C,)``."""
    momentum, tracked = norm.momentum, norm.num_batches_tracked
    running_mean, running_var = norm.running_mean, norm.running_var
    assert running_mean is not None and running_var is not None and tracked is not None
    tracked.add_(1)
    factor = 1.0 / float(tracked) if momentum is None else momentum
    with torch.no_grad():
        running_mean.lerp_(mean, factor)
        running_var.lerp_(variance, factor)


class _BatchNorm2d(Function):
    """Batch norm that also returns the mean and the biased variance of the batch, both without a gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
        if cpu_kernels.takes(x, len(weight), weight):
            normalized, mean, variance, inverse = cpu_kernels.batch_norm(x, weight, bias, eps)
        else:
            rows = Rows(x)
            mean, variance = rows.statistics()
            inverse = (variance + eps).rsqrt()
            scale = weight * inverse
            normalized = rows.restore(rows.scale_and_shift(rows.data, *rows.spread(scale, bias - mean * scale)))
        ctx.save_for_backward(x, weight, mean, inverse)
        ctx.eps = eps
        ctx.mark_non_differentiable(mean, variance)
        return normalized, mean, variance

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        gradient = gradients[0]
        x, weight, mean, inverse = ctx.saved_tensors
        is_plain, rows = is_plain_backward(gradient), Rows(x)
        if is_plain and cpu_kernels.takes(x, len(weight), weight):
            return *cpu_kernels.batch_norm_gradients(gradient, x, weight, mean, inverse), None
        if not is_plain or (rows.is_last and x.shape[1] >= _FAST_CHANNELS):
            statistics = (None, None, mean, inverse, True, ctx.eps, (True, True, True))
            if is_plain:
                gradient = gradient.contiguous(memory_format=torch.channels_last)
            return *torch.ops.aten.native_batch_norm_backward(gradient, x, weight, *statistics), None
        gradient = rows.arrange(gradient)
        weight_gradient, bias_gradient = rows.parameter_gradients(gradient, mean, inverse)
        # dx = scale * (g - mean(g) - normalized x * mean(g * normalized x)), as a sum of multiples of g and x
        scale = weight * inverse
        slope = -scale * inverse * weight_gradient / rows.count
        shift = -scale * bias_gradient / rows.count - slope * mean
        spread_scale, spread_shift, spread_slope = rows.spread(scale, shift, slope)
        work = rows.scale_and_shift(gradient, spread_scale, spread_shift).addcmul_(rows.data, spread_slope)
        return rows.restore(work), weight_gradient, bias_gradient, None
