"""TensorFlow's SAME convolution and pooling, exact at any input size.

SAME pads so that the output has size ``ceil(size / stride)``. At stride 2 the padding depends on the parity of the
size: for even sizes the top/left padding is one smaller than the bottom/right, for odd sizes both are equal. PyTorch's
symmetric ``padding`` covers only odd sizes, and zero padding before an average pool counts the border; both make the
ports in use approximate (``tensorflow/python/ops/nn_ops.py`` documents the rule).

Sizes are computed with plain ``+ - // %``, so the code also works with the symbolic sizes of ``torch.export``.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from nasnet_det.models.cpu_kernels import Pair, Sides
from nasnet_det.models.cpu_training import (
    average_pool2d,
    depthwise_conv2d,
    is_pointwise,
    is_slow_depthwise,
    pointwise_conv2d,
)
from nasnet_det.models.eager_training import is_training_on_cpu, is_training_on_device


def same_padding(size: int, kernel: int, stride: int, dilation: int = 1) -> tuple[int, int]:
    """Return the padding before and after an axis of length ``size``; negative values crop.

    The values are TensorFlow's, except that the axis is cropped after the last window if a window is smaller than its
    stride. Windows therefore always end at the end of the axis, and the output has size ``(size - 1) // stride + 1``
    without a remainder, on which PyTorch's pooling would branch for a symbolic size.
    """
    reach = (kernel - 1) * dilation + 1
    before = (reach - stride + -size % stride) // 2 if reach >= stride else 0
    return before, (size - 1) // stride * stride + reach - size - before


def pad_same(x: Tensor, kernel: Pair, stride: Pair, dilation: int = 1, value: float = 0.0) -> Tensor:
    """Pad ``(N, C, H, W)`` for a window of size ``kernel`` with ``value``, as SAME does."""
    return functional.pad(x, same_sides(x, kernel, stride, dilation), value=value)


def same_sides(x: Tensor, kernel: Pair, stride: Pair, dilation: int = 1) -> Sides:
    """Return SAME's padding ``(left, right, top, bottom)`` of ``(N, C, H, W)``."""
    top, bottom = same_padding(x.shape[-2], kernel[0], stride[0], dilation)
    left, right = same_padding(x.shape[-1], kernel[1], stride[1], dilation)
    return left, right, top, bottom


def _pair(value: int | Pair) -> Pair:
    return (value, value) if isinstance(value, int) else value


def _is_symmetric(kernel: Pair, stride: Pair) -> bool:
    """Return whether SAME is plain symmetric padding at every size."""
    return stride == (1, 1) and all(side % 2 == 1 for side in kernel)


class Conv2dSame(nn.Conv2d):
    """A 2-D convolution without bias, padded as TensorFlow's SAME.

    Maps ``(N, in_channels, H, W)`` to ``(N, out_channels, ceil(H / stride), ceil(W / stride))``.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int | Pair,
        stride: int | Pair = 1,
        dilation: int = 1,
        groups: int = 1,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        sides, strides = _pair(kernel), _pair(stride)
        border = ((sides[0] - 1) * dilation // 2, (sides[1] - 1) * dilation // 2)
        self.pads_itself = _is_symmetric(sides, strides)
        super().__init__(
            in_channels,
            out_channels,
            sides,
            stride=strides,
            padding=border if self.pads_itself else 0,
            dilation=dilation,
            groups=groups,
            bias=False,
            device=device,
            dtype=dtype,
        )

    def sides(self, x: Tensor) -> Sides:
        """Return the padding ``(left, right, top, bottom)`` of a map ``(N, C, H, W)``."""
        kernel, stride = (self.kernel_size[0], self.kernel_size[1]), (self.stride[0], self.stride[1])
        return same_sides(x, kernel, stride, self.dilation[0])

    def forward(self, x: Tensor) -> Tensor:
        kernel, stride = (self.kernel_size[0], self.kernel_size[1]), (self.stride[0], self.stride[1])
        if self._trains_on_cpu(x):
            if is_slow_depthwise(self, x):
                return depthwise_conv2d(x, self.weight, stride, self.sides(x), self.dilation[0])
            if is_pointwise(self) and x.is_contiguous(memory_format=torch.channels_last):
                return pointwise_conv2d(x, self.weight)
        if not self.pads_itself:
            x = pad_same(x, kernel, stride, self.dilation[0])
        return super().forward(x)

    def _trains_on_cpu(self, x: Tensor) -> bool:
        """Return whether a map and the kernels are plain tensors in training on a CPU.

        Kernels that are computed, which may change at every look, are read once, by PyTorch's own function."""
        return (
            self.training
            and is_training_on_cpu(x)
            and "parametrizations" not in self._modules
            and self.weight.dtype == x.dtype
            and self.weight.device == x.device
        )


class Pool2dSame(nn.Module):
    """A pooling layer with SAME padding, which the subclasses keep out of their result.

    Maps ``(N, C, H, W)`` to ``(N, C, ceil(H / stride), ceil(W / stride))``.
    """

    def __init__(self, kernel: int, stride: int = 1, dilation: int = 1) -> None:
        super().__init__()
        self.kernel, self.stride, self.dilation = kernel, stride, dilation
        self.pads_itself = _is_symmetric(_pair(kernel), _pair(stride)) and dilation == 1

    def key(self) -> tuple[object, int, int, int]:
        """Return a value that is equal for layers with equal results; one of its own for a class of one's own."""
        kind = type(self) if type(self) in (MaxPool2dSame, AvgPool2dSame) else self
        return kind, self.kernel, self.stride, self.dilation

    def pad(self, x: Tensor, value: float = 0.0) -> Tensor:
        """Pad the map with ``value``."""
        return pad_same(x, _pair(self.kernel), _pair(self.stride), self.dilation, value)

    def extra_repr(self) -> str:
        return f"{self.kernel}, stride={self.stride}, dilation={self.dilation}"


class MaxPool2dSame(Pool2dSame):
    """Max pooling with SAME padding, which is never the maximum."""

    def forward(self, x: Tensor) -> Tensor:
        if self.pads_itself:
            return functional.max_pool2d(x, self.kernel, 1, self.kernel // 2)
        # A finite value: some backends turn -inf into NaN. It is below every activation, and every window holds one.
        # torch.fx traces this method with a proxy, whose dtype is unknown.
        lowest = torch.finfo(torch.float16 if x.dtype is torch.float16 else torch.bfloat16).min
        return functional.max_pool2d(self.pad(x, lowest), self.kernel, self.stride, dilation=self.dilation)


class AvgPool2dSame(Pool2dSame):
    """Average pooling with SAME padding, which is not counted in the mean."""

    def forward(self, x: Tensor) -> Tensor:
        if self.training and self.dilation == 1 and is_training_on_cpu(x):
            sides = same_sides(x, _pair(self.kernel), _pair(self.stride))
            if (means := average_pool2d(x, self.kernel, self.stride, sides)) is not None:
                return means
        # Only in training mode, so that evaluation gives the same bits with and without gradients.
        as_convolution = self.training and is_training_on_device(x)
        if self.pads_itself and not as_convolution:
            return functional.avg_pool2d(x, self.kernel, 1, self.kernel // 2, count_include_pad=False)
        # Sum over the padded window, divided by the number of its positions inside the map. One channel counts them.
        ones = torch.ones_like(x[:1] if as_convolution else x[:1, :1])
        window = self._sum if as_convolution or self.dilation > 1 else self._mean_with_zeros
        return window(x) / window(ones)

    def _mean_with_zeros(self, x: Tensor) -> Tensor:
        return functional.avg_pool2d(self.pad(x), self.kernel, self.stride)

    def _sum(self, x: Tensor) -> Tensor:
        """Return the sum over each window, as a depthwise convolution."""
        border = self.kernel // 2 if self.pads_itself else 0
        x = x if self.pads_itself else self.pad(x)
        weight = torch.ones((x.shape[1], 1, self.kernel, self.kernel), dtype=x.dtype, device=x.device)
        return functional.conv2d(x, weight, None, self.stride, border, self.dilation, groups=x.shape[1])


def subsample(x: Tensor, stride: int) -> Tensor:
    """Return every ``stride``-th row and column of ``(N, C, H, W)``: TF-slim's 1x1 average pool with VALID padding."""
    return functional.avg_pool2d(pad_same(x, (1, 1), (stride, stride)), 1, stride) if stride > 1 else x


def shift(x: Tensor, positions: int) -> Tensor:
    """Return ``(N, C, H, W)`` shifted up and left by ``positions``, with zeros at the bottom and right (``path2``)."""
    return functional.pad(x, (-positions, positions, -positions, positions))
