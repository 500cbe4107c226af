"""Depthwise convolutions and batch norm by PyTorch's own kernels, arranged so that they are fast on a CPU.

They replace :mod:`~nasnet_det.models.cpu_kernels` in other types and layouts, and without a compiler.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.nn import functional

from nasnet_det.models.cpu_kernels import Pair, Sides
from nasnet_det.models.eager_training import gradients_again, is_plain_backward

#: The widest depthwise kernel that oneDNN computes a weight gradient for in its depthwise implementation.
FAST_COLUMNS = 3


class TiledDepthwise(Function):
    """A depthwise convolution of ``x`` ``(N, C, H, W)`` whose weight gradient is computed tile by tile."""

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
        if not is_plain_backward(gradient):

            def output(x: Tensor, weight: Tensor) -> Tensor:
                return functional.conv2d(functional.pad(x, padding), weight, None, stride, groups=x.shape[1])

            return *gradients_again(output, (x, weight), ctx.needs_input_grad[:2], gradients), None, None
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
        tile = weight.new_empty((len(weight), 1, rows, min(columns, FAST_COLUMNS)))
        beyond = (self.size[3] - tile.shape[3]) // stride[1] + 1 - gradient.shape[3]
        gradient = functional.pad(gradient.contiguous(memory_format=torch.channels_last), (0, beyond))
        tiles = [
            _convolution_backward(gradient, self.view(start), tile, stride, (0, 0), (False, True, False))[1]
            for start in range(0, columns, tile.shape[3])
        ]
        return torch.cat(tiles, dim=3)[..., :columns]


class Rows:
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
