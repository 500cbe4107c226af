"""What a fused cell does one after the other. Every step maps ``(N, C, H, W)`` tensors to one such tensor.

Where the layout is channels_last, a pointwise convolution is a product of the ``(N * H * W, C)`` matrix that already
lies in memory; the steps keep that layout. Weights are parameters without gradients, so that a fused model moves
between devices and types as any other, and compilers see constants.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from nasnet_det.fusion import depthwise, packed
from nasnet_det.models.padding import Pair, pad_same, same_padding, shift, subsample


def _constant(tensor: Tensor, like: Tensor) -> nn.Parameter:
    """A weight computed in double precision, rounded to the type that the model has."""
    return nn.Parameter(tensor.to(like.dtype).contiguous(), requires_grad=False)


class Relu(nn.Module):
    """ReLU."""

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(x)


class Subsample(nn.Module):
    """Every ``stride``-th row and column, after a shift of ``positions`` up and left (factorized reduction)."""

    def __init__(self, stride: int, positions: int = 0) -> None:
        super().__init__()
        self.stride, self.positions = stride, positions

    def forward(self, x: Tensor) -> Tensor:
        if torch.compiler.is_compiling():  # one expression for every size, which a symbolic size needs
            return subsample(shift(x, self.positions) if self.positions else x, self.stride)
        taken = x[:, :, self.positions :: self.stride, self.positions :: self.stride]
        height, width = (-(-size // self.stride) for size in x.shape[-2:])
        below, right = height - taken.shape[-2], width - taken.shape[-1]
        return functional.pad(taken, (0, right, 0, below)) if below or right else taken


class Join(nn.Module):
    """Concatenation along the channels."""

    def forward(self, *xs: Tensor) -> Tensor:
        return torch.cat(xs, dim=1)


class Convolution(nn.Module):
    """A SAME convolution of any kernel, with a bias where a norm was folded into it, and perhaps ReLU after it.

    Args:
        conv: the convolution whose geometry this has.
        weight, bias: what it computes with; the convolution's own weight and no bias if None.
    """

    def __init__(self, conv: nn.Conv2d, weight: Tensor | None = None, bias: Tensor | None = None) -> None:
        super().__init__()
        self.kernel: Pair = (conv.kernel_size[0], conv.kernel_size[1])
        self.stride: Pair = (conv.stride[0], conv.stride[1])
        self.dilation, self.groups, self.relu = conv.dilation[0], conv.groups, False
        self.weight = _constant(conv.weight.detach() if weight is None else weight, conv.weight)
        self.bias = None if bias is None else _constant(bias, conv.weight)
        self._packed = packed.Packed(
            partial(packed.pack_convolution, stride=self.stride, dilation=self.dilation, groups=self.groups)
        )
        self._arranged = packed.Packed(depthwise.arranged)

    @property
    def is_depthwise(self) -> bool:
        """Whether each channel is filtered by itself."""
        return self.groups == self.weight.shape[0] and self.weight.shape[1] == 1

    def branch(self, x: Tensor, relu: bool) -> depthwise.Branch:
        """This convolution of ``x``, perhaps through ReLU, as a part of a launch; it is depthwise."""
        return depthwise.Branch(x, self._arranged(self.weight), self.kernel, relu, self.bias, self.relu)

    def forward(self, x: Tensor) -> Tensor:
        border = self._border(x)
        if border is None:
            x, border = pad_same(x, self.kernel, self.stride, self.dilation), (0, 0)
        if packed.is_covered(x, self.weight):
            geometry = (border, self.stride, self.dilation, self.groups)
            return packed.convolution(x, self._packed(self.weight), self.bias, *geometry, self.relu)
        x = functional.conv2d(x, self.weight, self.bias, self.stride, border, self.dilation, self.groups)
        return functional.relu_(x) if self.relu else x

    def _border(self, x: Tensor) -> Pair | None:
        """The symmetric padding that is SAME for this size, so that nothing need be copied; None if there is none.

        At stride 2 it depends on the size, which a compiled or exported function should not.
        """
        if self.stride != (1, 1) and torch.compiler.is_compiling():
            return None
        sides = [
            same_padding(x.shape[axis - 2], self.kernel[axis], self.stride[axis], self.dilation) for axis in (0, 1)
        ]
        # Less after than before is a window smaller than its stride, which the places after the last do not reach.
        if any(before < after for before, after in sides):
            return None
        return sides[0][0], sides[1][0]

    def extra_repr(self) -> str:
        return f"{tuple(self.weight.shape)}, stride={self.stride}, groups={self.groups}, relu={self.relu}"


class Combination(nn.Module):
    """A sum of pointwise convolutions as one product, plus multiples of other states, perhaps with ReLU after it.

    Args:
        weights: ``(out, in_i)`` of each pointwise convolution.
        factors: what each of the other states is multiplied by.
        bias: ``(out,)``, or None.
        like: a tensor of the model's type.
    """

    def __init__(self, weights: Sequence[Tensor], factors: Sequence[float], bias: Tensor | None, like: Tensor) -> None:
        super().__init__()
        self.products, self.factors, self.relu = len(weights), tuple(factors), False
        self.weight = _constant(torch.cat(list(weights), dim=1), like) if weights else None
        self.bias = None if bias is None else _constant(bias, like)
        self._packed = packed.Packed(packed.pack_linear)

    def forward(self, *xs: Tensor) -> Tensor:
        """Takes the convolutions' inputs, then the other states."""
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

    @property
    def channels(self) -> int:
        """Those of the result, if it has products."""
        return 0 if self.weight is None else self.weight.shape[0]

    def of_branches(self, branches: Sequence[depthwise.Branch], others: Sequence[Tensor]) -> depthwise.Product:
        """This sum, of depthwise convolutions that are part of its launch; it has products."""
        assert self.weight is not None
        return depthwise.Product(tuple(branches), self.weight, self.bias, tuple(others), self.factors, self.relu)

    def _product(self, xs: tuple[Tensor, ...], weight: Tensor, relu: bool) -> Tensor:
        """The sum of the pointwise convolutions: one product of the pixels' rows, the inputs side by side in each."""
        if torch.compiler.is_compiling() and xs[0].device.type == "cpu":
            # TorchInductor packs a convolution's weights, and lets it add and activate, on every path it has for a CPU.
            y = functional.conv2d(xs[0] if len(xs) == 1 else torch.cat(xs, dim=1), weight[:, :, None, None], self.bias)
            return functional.relu_(y) if relu else y
        rows = [x.permute(0, 2, 3, 1) for x in xs]
        x = rows[0] if len(rows) == 1 else torch.cat(rows, dim=-1)
        if packed.is_covered(x, weight):
            y = packed.linear(x.flatten(0, 2), self._packed(weight), self.bias, relu).view(*x.shape[:3], -1)
        else:
            y = functional.linear(x, weight, self.bias)
            y = functional.relu_(y) if relu else y
        return y.permute(0, 3, 1, 2)

    def extra_repr(self) -> str:
        return f"{self.products} products, factors={self.factors}, relu={self.relu}"
