"""Faster training on a CPU: the same functions as PyTorch's convolution and batch norm, with other backward passes.

Several of PyTorch's CPU kernels are far from what memory allows (measured in ``docs/speed.md``): oneDNN has a fast
weight gradient only for depthwise kernels up to 3 columns wide; native batch norm in channels_last works through a few
channels at a time, and so does average pooling; pointwise convolutions are slower than matrix products. The functions
below are used only where :func:`~nasnet_det.models.eager_training.is_training_on_cpu` allows, and have a second
derivative as PyTorch's have.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.nn import functional

from nasnet_det.models.eager_training import has_hooks, is_training_on_cpu

Pair = tuple[int, int]
Sides = tuple[int, int, int, int]
#: The widest depthwise kernel that oneDNN computes a weight gradient for in its depthwise implementation.
_FAST_COLUMNS = 3
#: The fewest channels for which PyTorch's backward pass of batch norm in channels_last is the faster one.
_FAST_CHANNELS = 16


def is_slow_depthwise(conv: nn.Conv2d) -> bool:
    """Return whether oneDNN has no fast weight gradient for a depthwise convolution, but has one for its tiles."""
    return (
        conv.groups == conv.in_channels == conv.out_channels
        and conv.kernel_size[1] > _FAST_COLUMNS
        and conv.dilation == (1, 1)
        and conv.bias is None
    )


def is_pointwise(conv: nn.Conv2d) -> bool:
    """Return whether a convolution is one matrix product for all pixels."""
    return conv.kernel_size == conv.stride == (1, 1) and conv.groups == 1 and conv.bias is None


def pointwise_conv2d(x: Tensor, weight: Tensor) -> Tensor:
    """Return a pointwise convolution ``(N, out, H, W)`` of ``x`` ``(N, in, H, W)`` in channels_last.

    Args:
        weight: the kernels ``(out, in, 1, 1)``.
    """
    return functional.linear(x.permute(0, 2, 3, 1), weight.flatten(1)).permute(0, 3, 1, 2)


def depthwise_conv2d(x: Tensor, weight: Tensor, stride: Pair, padding: Sides) -> Tensor:
    """Return a depthwise convolution whose weight gradient is computed tile by tile.

    Args:
        x: the input ``(N, C, H, W)``.
        weight: the kernels ``(C, 1, kH, kW)``.
        stride: the strides ``(sH, sW)``.
        padding: the zeros at ``(left, right, top, bottom)``, none negative.
    """
    return _DepthwiseConv2d.apply(x, weight, stride, padding)


class _DepthwiseConv2d(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: Pair, padding: Sides) -> Tensor:
        ctx.geometry, ctx.columns = (stride, padding), None
        ctx.save_for_backward(x, weight)
        left, right, top, bottom = padding
        if left == right and top == bottom:
            return functional.conv2d(x, weight, None, stride, (top, left), groups=x.shape[1])
        ctx.columns = _PaddedColumns(x, padding, weight.shape[3])
        return functional.conv2d(ctx.columns.view(0), weight, None, stride, groups=x.shape[1])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        (gradient,), (stride, padding), columns = gradients, ctx.geometry, ctx.columns
        if torch.is_grad_enabled():  # a gradient of the gradient is asked for
            output = functional.conv2d(functional.pad(x, padding), weight, None, stride, groups=x.shape[1])
            found = torch.autograd.grad(output, (x, weight), gradient, create_graph=True)
            return *found, None, None
        x_gradient = weight_gradient = None
        if ctx.needs_input_grad[0]:
            left, top = padding[0], padding[2]
            padded, border = (x, (top, left)) if columns is None else (columns.view(0), (0, 0))
            x_gradient = _convolution_backward(gradient, padded, weight, stride, border, (True, False, False))[0]
            if columns is not None:
                x_gradient = x_gradient[:, :, top : top + x.shape[2], left : left + x.shape[3]]
        if ctx.needs_input_grad[1]:
            columns = columns or _PaddedColumns(x, padding, weight.shape[3])
            weight_gradient = columns.weight_gradient(gradient, weight, stride)
        return x_gradient, weight_gradient, None, None


def _convolution_backward(
    gradient: Tensor, x: Tensor, weight: Tensor, stride: Pair, padding: Pair, wanted: tuple[bool, bool, bool]
) -> Any:
    geometry = (stride, padding, (1, 1), False, (0, 0), x.shape[1])
    return torch.ops.aten.convolution_backward(gradient, x, weight, None, *geometry, wanted)


class _PaddedColumns:
    """A padded copy of an input ``(N, C, H, W)``, of which views can begin at any column of a kernel.

    The copy is in channels_last. A view that begins at a later column has the same size and strides, so its rows wrap
    around at their ends, where the gradient of the output is padded with zeros.
    """

    def __init__(self, x: Tensor, padding: Sides, kernel_columns: int) -> None:
        left, right, top, bottom = padding
        count, channels, height, width = x.shape
        rows, columns = height + top + bottom, width + left + right
        self.size = (count, channels, rows, columns)
        self.strides = (rows * columns * channels, 1, columns * channels, channels)
        self.buffer = x.new_zeros((count * rows * columns + kernel_columns) * channels)
        self.view(0)[:, :, top : top + height, left : left + width] = x

    def view(self, column: int) -> Tensor:
        """Return the copy from a column on."""
        return self.buffer.as_strided(self.size, self.strides, column * self.size[1])

    def weight_gradient(self, gradient: Tensor, weight: Tensor, stride: Pair) -> Tensor:
        """Return the weight gradient ``(C, 1, kH, kW)``, computed in tiles of at most three columns."""
        rows, columns = weight.shape[2:]
        tile = weight.new_empty((len(weight), 1, rows, min(columns, _FAST_COLUMNS)))
        beyond = (self.size[3] - tile.shape[3]) // stride[1] + 1 - gradient.shape[3]
        gradient = functional.pad(gradient.contiguous(memory_format=torch.channels_last), (0, beyond))
        tiles = [
            _convolution_backward(gradient, self.view(start), tile, stride, (0, 0), (False, True, False))[1]
            for start in range(0, columns, tile.shape[3])
        ]
        return torch.cat(tiles, dim=3)[..., :columns]


def normalize(x: Tensor, norm: nn.Module) -> Tensor:
    """Return ``norm(x)`` for ``x`` ``(N, C, H, W)``, the faster way where it applies."""
    if is_training_on_cpu(x) and _is_plain_batch_norm(norm, x):
        return _batch_norm(x, norm)  # type: ignore[arg-type]
    return norm(x)


def _is_plain_batch_norm(norm: nn.Module, x: Tensor) -> bool:
    return (
        type(norm) is nn.BatchNorm2d
        and norm.training
        and norm.affine
        and norm.track_running_stats
        and norm.weight.dtype == norm.running_mean.dtype == x.dtype  # type: ignore[union-attr]
        and x.numel() > x.shape[1]  # PyTorch's own raises for a single value per channel
        and not has_hooks(norm)
    )


def _batch_norm(x: Tensor, norm: nn.BatchNorm2d) -> Tensor:
    momentum, tracked = norm.momentum, norm.num_batches_tracked
    running_mean, running_var = norm.running_mean, norm.running_var
    assert running_mean is not None and running_var is not None and tracked is not None
    tracked.add_(1)
    normalized, mean, variance = _BatchNorm2d.apply(x, norm.weight, norm.bias, norm.eps)
    factor = 1.0 / float(tracked) if momentum is None else momentum
    count = x.numel() // x.shape[1]
    with torch.no_grad():
        running_mean.lerp_(mean, factor)
        running_var.lerp_(variance * (count / (count - 1)), factor)
    return normalized


class _Rows:
    """A tensor ``(N, C, H, W)`` as memory lays it out: rows in which a vector of C values repeats or is constant.

    PyTorch's element-wise kernels are fast on long rows; for channels_last these are ``(N * H, W * C)``, for contiguous
    tensors ``(N, C, H * W)``.
    """

    def __init__(self, x: Tensor) -> None:
        self.shape, self.count = x.shape, x.numel() // x.shape[1]
        self.is_last = not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last)
        self.data = self.arrange(x)

    def arrange(self, x: Tensor) -> Tensor:
        """Return the rows of a tensor of the same shape, copying it only if it has another layout."""
        count, channels, height, width = self.shape
        if self.is_last:
            return x.permute(0, 2, 3, 1).reshape(count * height, width * channels)
        return x.reshape(count, channels, height * width)

    def restore(self, rows: Tensor) -> Tensor:
        """Return rows as ``(N, C, H, W)``."""
        count, channels, height, width = self.shape
        return rows.view(count, height, width, channels).permute(0, 3, 1, 2) if self.is_last else rows.view(self.shape)

    def statistics(self) -> tuple[Tensor, Tensor]:
        """Return the mean and the biased variance of each channel, both ``(C,)``.

        In channels_last PyTorch's kernel sums rows one after another in the precision of ``x``: few channels are slow,
        and many rows inexact. Each column of the image is therefore a channel of its own to it.
        """
        if self.is_last:
            means, variances = torch.batch_norm_update_stats(_as_channels(self.data), None, None, 0.0)
            means, variances = means.view(-1, self.shape[1]), variances.view(-1, self.shape[1])
            mean = means.mean(0)
            return mean, variances.add_((means - mean).square_()).mean(0)
        mean = self.data.sum((0, 2)) / self.count
        return mean, (self.data - mean[:, None]).square_().sum((0, 2)) / self.count

    def parameter_gradients(self, gradient: Tensor, mean: Tensor, inverse: Tensor) -> tuple[Tensor, Tensor]:
        """Return the gradients ``(C,)`` of the weight and bias, from rows of the output's gradient."""
        if self.is_last:
            statistics = (None, None, *self.spread(mean, inverse), True, 0.0, (False, True, True))
            data, outer = _as_channels(self.data), _as_channels(gradient)
            sums = torch.ops.aten.native_batch_norm_backward(outer, data, None, *statistics)[1:]
            weight, bias = (value.view(-1, self.shape[1]).sum(0) for value in sums)
            return weight, bias
        bias = gradient.sum((0, 2))
        return ((gradient * self.data).sum((0, 2)) - mean * bias) * inverse, bias

    def spread(self, *vectors: Tensor) -> Tensor:
        """Return vectors ``(C,)`` as a stack of tensors that broadcast with the rows."""
        stack = torch.stack(vectors)
        return stack.repeat(1, self.shape[3]) if self.is_last else stack[:, :, None]

    def scale_and_shift(self, rows: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        """Return ``rows * scale + shift``, for what :meth:`spread` returns."""
        return torch.addcmul(shift, rows, scale) if self.is_last else torch.mul(rows, scale).add_(shift)


def _as_channels(rows: Tensor) -> Tensor:
    """Return rows ``(R, C)`` as an image ``(1, C, R, 1)`` in channels_last."""
    return rows.t()[None, :, :, None]


class _BatchNorm2d(Function):
    """Batch norm that also returns the mean and the biased variance of the batch, both without a gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
        rows = _Rows(x)
        mean, variance = rows.statistics()
        inverse = (variance + eps).rsqrt()
        scale = weight * inverse
        normalized = rows.scale_and_shift(rows.data, *rows.spread(scale, bias - mean * scale))
        ctx.save_for_backward(x, weight, mean, inverse)
        ctx.eps = eps
        ctx.mark_non_differentiable(mean, variance)
        return rows.restore(normalized), mean, variance

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        gradient = gradients[0]
        x, weight, mean, inverse = ctx.saved_tensors
        rows = _Rows(x)
        native_is_faster = rows.is_last and x.shape[1] >= _FAST_CHANNELS
        if native_is_faster or torch.is_grad_enabled():  # or a gradient of the gradient is asked for
            statistics = (None, None, mean, inverse, True, ctx.eps, (True, True, True))
            if rows.is_last:
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
