"""Faster training on a CPU: the same functions as PyTorch's convolution and batch norm, with other backward passes.

Two of PyTorch's CPU kernels are far from what memory allows (measured in ``docs/speed.md``): oneDNN has a fast weight
gradient only for depthwise kernels up to 3 columns wide and without dilation, and native batch norm in channels_last
works through a few channels at a time. Both functions below are used only where :func:`is_training_on_cpu` allows.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.nn import functional
from torch.nn.modules import module as module_state

Pair = tuple[int, int]
#: The widest depthwise kernel that oneDNN computes a weight gradient for in its depthwise implementation.
_FAST_COLUMNS = 3


def is_training_on_cpu(x: object) -> bool:
    """Return whether ``x`` is a plain tensor on a CPU in an eager forward pass that records gradients."""
    return (
        type(x) is Tensor
        and x.device.type == "cpu"
        and x.dtype in (torch.float32, torch.float64)
        and x.numel() > 0
        and torch.is_grad_enabled()
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
        and torch._C._get_tracing_state() is None
        and not torch._C._are_functorch_transforms_active()
    )


def has_hooks(*modules: nn.Module) -> bool:
    """Return whether calling one of the modules would run a hook."""
    return bool(module_state._has_any_global_hook()) or any(
        module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks
        for module in modules
    )


def depthwise_conv2d(x: Tensor, weight: Tensor, stride: Pair, padding: Pair) -> Tensor:
    """Return the depthwise convolution of ``x`` ``(N, C, H, W)`` with ``weight`` ``(C, 1, kH, kW)``."""
    return _DepthwiseConv2d.apply(x, weight, stride, padding)


def is_slow_depthwise(conv: nn.Conv2d) -> bool:
    """Return whether oneDNN has no fast weight gradient for a depthwise convolution, but has one for its tiles."""
    return (
        conv.groups == conv.in_channels == conv.out_channels
        and conv.kernel_size[1] > _FAST_COLUMNS
        and conv.dilation == (1, 1)
        and conv.bias is None
    )


class _DepthwiseConv2d(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: Pair, padding: Pair) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.geometry = (stride, padding)
        return functional.conv2d(x, weight, None, stride, padding, groups=x.shape[1])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        stride, padding = ctx.geometry
        wanted = (ctx.needs_input_grad[0], ctx.needs_input_grad[1], False)
        in_tiles = wanted[1] and not torch.is_grad_enabled()  # enabled if a gradient of the gradient is asked for
        x_gradient, weight_gradient, _ = torch.ops.aten.convolution_backward(
            *(gradients[0], x, weight, None, stride, padding, (1, 1), False, (0, 0), x.shape[1]),
            (wanted[0], wanted[1] and not in_tiles, False),
        )
        if in_tiles:
            kernel = (weight.shape[2], weight.shape[3])
            weight_gradient = depthwise_weight_gradient(x, gradients[0], kernel, stride, padding)
        return x_gradient, weight_gradient, None, None


def depthwise_weight_gradient(x: Tensor, gradient: Tensor, kernel: Pair, stride: Pair, padding: Pair) -> Tensor:
    """Return the weight gradient ``(C, 1, *kernel)`` of a depthwise convolution.

    The kernel is cut into tiles of at most three columns. ``x`` is copied once into a padded channels_last buffer; each
    tile then reads a view of it that begins at the tile's first column. A view has the buffer's own size and strides,
    so its rows wrap around at their ends; the gradient is padded with zeros there.

    Args:
        x: the input ``(N, C, H, W)``.
        gradient: the gradient of the output ``(N, C, H', W')``.
    """
    count, channels, height, width = x.shape
    rows, columns = height + 2 * padding[0], width + 2 * padding[1]
    tile = (kernel[0], min(kernel[1], _FAST_COLUMNS))
    starts = range(0, kernel[1], tile[1])
    buffer = x.new_zeros((count * rows * columns + starts[-1]) * channels)
    size, strides = (count, channels, rows, columns), (rows * columns * channels, 1, columns * channels, channels)
    inside = buffer.as_strided(size, strides)
    inside[:, :, padding[0] : padding[0] + height, padding[1] : padding[1] + width] = x
    beyond = (columns - tile[1]) // stride[1] + 1 - gradient.shape[3]
    gradient = functional.pad(gradient.contiguous(memory_format=torch.channels_last), (0, beyond))
    weight = x.new_empty((channels, 1, *tile))
    tiles = [
        torch.ops.aten.convolution_backward(
            *(gradient, buffer.as_strided(size, strides, start * channels), weight, None),
            *(stride, (0, 0), (1, 1), False, (0, 0), channels, (False, True, False)),
        )[1]
        for start in starts
    ]
    return torch.cat(tiles, dim=3)[..., : kernel[1]]


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

    def sum(self, rows: Tensor) -> Tensor:
        """Return the sum of each channel ``(C,)``."""
        return rows.sum(0).view(-1, self.shape[1]).sum(0) if self.is_last else rows.sum((0, 2))

    def spread(self, vector: Tensor) -> Tensor:
        """Return a vector ``(C,)`` in a shape that broadcasts with the rows."""
        return vector.repeat(self.shape[3]) if self.is_last else vector[:, None]

    def scale_and_shift(self, rows: Tensor, scale: Tensor, shift: Tensor, out: Tensor) -> Tensor:
        """Write ``rows * scale + shift`` to ``out``, with vectors ``(C,)``."""
        if self.is_last:
            return torch.addcmul(self.spread(shift), rows, self.spread(scale), out=out)
        return torch.mul(rows, self.spread(scale), out=out).add_(self.spread(shift))


class _BatchNorm2d(Function):
    """Batch norm that also returns the mean and the biased variance of the batch, both without a gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
        rows = _Rows(x)
        mean = rows.sum(rows.data) / rows.count
        work = rows.data - rows.spread(mean)
        variance = rows.sum(work.mul_(work)) / rows.count
        inverse = (variance + eps).rsqrt()
        scale = weight * inverse
        rows.scale_and_shift(rows.data, scale, bias - mean * scale, out=work)
        ctx.save_for_backward(x, weight, mean, inverse)
        ctx.eps = eps
        ctx.mark_non_differentiable(mean, variance)
        return rows.restore(work), mean, variance

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        gradient = gradients[0]
        x, weight, mean, inverse = ctx.saved_tensors
        if torch.is_grad_enabled():  # a gradient of the gradient is asked for
            statistics = (None, None, mean, inverse, True, ctx.eps, (True, True, True))
            return *torch.ops.aten.native_batch_norm_backward(gradient, x, weight, *statistics), None
        rows = _Rows(x)
        gradient = rows.arrange(gradient)
        work = gradient * rows.data
        bias_gradient = rows.sum(gradient)
        weight_gradient = (rows.sum(work) - mean * bias_gradient) * inverse
        # dx = scale * (g - mean(g) - normalized x * mean(g * normalized x)), as a sum of multiples of g and x
        scale = weight * inverse
        slope = -scale * inverse * weight_gradient / rows.count
        shift = -scale * bias_gradient / rows.count - slope * mean
        rows.scale_and_shift(gradient, scale, shift, out=work)
        work.addcmul_(rows.data, rows.spread(slope))
        return rows.restore(work), weight_gradient, bias_gradient, None
