"""The operations of a fused cell. Each maps ``(N, C, H, W)`` tensors to one such tensor.

In channels_last layout a pointwise convolution is a product with the ``(N * H * W, C)`` matrix that memory already
holds; every step keeps that layout. Weights are parameters without gradients, so a fused model moves between devices
and dtypes like any other and compilers can treat them as constants.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from nasnet_det.fusion import onednn
from nasnet_det.models.padding import Pair, pad_same, same_padding, shift, subsample


def _frozen(tensor: Tensor, like: Tensor) -> nn.Parameter:
    """Round a double-precision weight to the model's dtype."""
    return nn.Parameter(tensor.to(like.dtype).contiguous(), requires_grad=False)


class Relu(nn.Module):
    """ReLU."""

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(x)


class Subsample(nn.Module):
    """Every ``stride``-th row and column, after a shift of ``offset`` up and left (as in a factorized reduction)."""

    def __init__(self, stride: int, offset: int = 0) -> None:
        super().__init__()
        self.stride, self.offset = stride, offset

    def forward(self, x: Tensor) -> Tensor:
        if torch.compiler.is_compiling():  # an expression that is valid for symbolic sizes
            return subsample(shift(x, self.offset) if self.offset else x, self.stride)
        taken = x[:, :, self.offset :: self.stride, self.offset :: self.stride]
        height, width = (-(-size // self.stride) for size in x.shape[-2:])
        bottom, right = height - taken.shape[-2], width - taken.shape[-1]
        return functional.pad(taken, (0, right, 0, bottom)) if bottom or right else taken


class ConcatChannels(nn.Module):
    """Concatenation along the channels."""

    def forward(self, *xs: Tensor) -> Tensor:
        return torch.cat(xs, dim=1)


class ContiguousNorm(nn.Module):
    """A norm that does not fold, computed in the contiguous layout as in the plain network.

    PyTorch's CPU kernels for channels_last are less accurate: that of group norm takes the variance as E[x^2] - E[x]^2,
    whose error grows with the square of the mean.
    """

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x.contiguous()).contiguous(memory_format=torch.channels_last)


class Convolution(nn.Module):
    """A convolution with SAME padding, an optional bias from a folded norm, and an optional ReLU.

    Args:
        conv: the convolution that defines kernel, stride, dilation and groups.
        weight, bias: the folded weight and bias.
    """

    def __init__(self, conv: nn.Conv2d, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.kernel: Pair = (conv.kernel_size[0], conv.kernel_size[1])
        self.stride: Pair = (conv.stride[0], conv.stride[1])
        self.dilation, self.groups, self.relu = conv.dilation[0], conv.groups, False
        self.weight = _frozen(weight, conv.weight)
        self.bias = None if bias is None else _frozen(bias, conv.weight)
        self._reordered = onednn.ReorderedWeight(
            partial(onednn.reorder_convolution, stride=self.stride, dilation=self.dilation, groups=self.groups)
        )

    def forward(self, x: Tensor) -> Tensor:
        padding = self._symmetric_padding(x)
        if padding is None:
            x, padding = pad_same(x, self.kernel, self.stride, self.dilation), (0, 0)
        if onednn.is_supported(x, self.weight):
            geometry = (padding, self.stride, self.dilation, self.groups)
            return onednn.convolution(x, self._reordered(self.weight), self.bias, *geometry, self.relu)
        x = functional.conv2d(x, self.weight, self.bias, self.stride, padding, self.dilation, self.groups)
        return functional.relu_(x) if self.relu else x

    def _symmetric_padding(self, x: Tensor) -> Pair | None:
        """Return the symmetric padding that equals SAME for this size, which saves a copy; None if there is none.

        With stride 2 it depends on the size, which a compiled or exported function must not.
        """
        if self.stride != (1, 1) and torch.compiler.is_compiling():
            return None
        sides = [
            same_padding(x.shape[axis - 2], self.kernel[axis], self.stride[axis], self.dilation) for axis in (0, 1)
        ]
        # Less padding after than before: the window is smaller than its stride and never reads the last rows.
        if any(before < after for before, after in sides):
            return None
        return sides[0][0], sides[1][0]

    def extra_repr(self) -> str:
        return f"{tuple(self.weight.shape)}, stride={self.stride}, groups={self.groups}, relu={self.relu}"


def _prefers_convolution(x: Tensor) -> bool:
    """Return whether a convolution is the faster form of a pointwise product.

    On a CPU, TorchInductor reorders the weights of convolutions, and fuses what follows, on all of its paths. On a GPU,
    PyTorch computes float32 convolutions in TF32, as in the plain network, but by default not matrix products.
    """
    if x.device.type == "cpu":
        return torch.compiler.is_compiling()
    in_tf32 = torch.backends.cudnn.allow_tf32 and not torch.backends.cuda.matmul.allow_tf32
    return x.dtype is torch.float32 and in_tf32


class Combination(nn.Module):
    """A sum of pointwise convolutions as one matrix product, plus multiples of other states, with an optional ReLU.

    Args:
        weights: ``(out, in_i)`` of each pointwise convolution.
        factors: the factor of each other state.
        bias: ``(out,)`` or None.
        like: a tensor of the model's dtype.
    """

    def __init__(self, weights: Sequence[Tensor], factors: Sequence[float], bias: Tensor | None, like: Tensor) -> None:
        super().__init__()
        self.products, self.factors, self.relu = len(weights), tuple(factors), False
        self.weight = _frozen(torch.cat(list(weights), dim=1), like) if weights else None
        self.bias = None if bias is None else _frozen(bias, like)
        self._reordered = onednn.ReorderedWeight(onednn.reorder_linear)

    def forward(self, *xs: Tensor) -> Tensor:
        """Combine the convolutions' inputs, which come first, and the other states."""
        others = list(zip(xs[self.products :], self.factors, strict=True))
        if self.weight is not None:
            y = self._product(xs[: self.products], self.weight, relu=self.relu and not others)
        elif len(others) > 1 and others[0][1] == 1.0:
            (first, _), (second, factor), *others = others
            y = torch.add(first, second, alpha=factor)
        else:
            (first, factor), *others = others
            y = first * factor
        for other, factor in others:
            y = y.add_(other, alpha=factor)
        return functional.relu_(y) if self.relu and (others or self.weight is None) else y

    def _product(self, xs: tuple[Tensor, ...], weight: Tensor, relu: bool) -> Tensor:
        """Multiply the rows of pixels, the inputs concatenated in each, by the weights of all convolutions."""
        if _prefers_convolution(xs[0]):
            y = functional.conv2d(xs[0] if len(xs) == 1 else torch.cat(xs, dim=1), weight[:, :, None, None], self.bias)
            return functional.relu_(y) if relu else y
        rows = [x.permute(0, 2, 3, 1) for x in xs]
        x = rows[0] if len(rows) == 1 else torch.cat(rows, dim=-1)
        if onednn.is_supported(x, weight):
            y = onednn.linear(x.flatten(0, 2), self._reordered(weight), self.bias, relu).view(*x.shape[:3], -1)
        else:
            y = functional.linear(x, weight, self.bias)
            y = functional.relu_(y) if relu else y
        return y.permute(0, 3, 1, 2)

    def extra_repr(self) -> str:
        return f"{self.products} products, factors={self.factors}, relu={self.relu}"
