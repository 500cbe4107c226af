"""Weights in the layout that oneDNN computes with, made once instead of at every call (CPU).

The operators are those that TorchInductor calls when it freezes a model. PyTorch's own calls reorder a convolution's
weights every time, and send linear layers to another library; on wide states these are up to a fifth slower.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from nasnet_det.models.padding import Pair


def is_covered(x: Tensor, weight: Tensor) -> bool:
    """Whether oneDNN's operators may be called on ``x``: on a CPU, eagerly, without gradients, in a type they have.

    A compiler is given PyTorch's own operators instead: it packs what it freezes itself.
    """
    return bool(
        _IS_AVAILABLE
        and not torch.compiler.is_compiling()
        and x.device.type == "cpu"
        and x.dtype == weight.dtype
        and (x.dtype == torch.float32 or (x.dtype == torch.bfloat16 and _HAS_BFLOAT16))
        and torch.backends.mkldnn.enabled
        and not (torch.is_grad_enabled() and x.requires_grad)
        and not torch.is_autocast_enabled("cpu")
    )


class Packed:
    """A weight in oneDNN's layout, made when first asked for and again when the weight has changed. It is neither
    copied nor saved with the module that owns it."""

    def __init__(self, pack: Callable[[Tensor], Tensor]) -> None:
        self.pack = pack
        self.made: tuple[Any, Tensor] | None = None

    def __call__(self, weight: Tensor) -> Tensor:
        state = (weight.data_ptr(), weight.dtype, weight._version)
        if self.made is None or self.made[0] != state:
            self.made = (state, self.pack(weight.detach()))
        return self.made[1]

    def __deepcopy__(self, memo: Any) -> Packed:
        return Packed(self.pack)

    def __reduce__(self) -> Any:
        return Packed, (self.pack,)


def pack_linear(weight: Tensor) -> Tensor:
    """The packed ``(out, in)`` weight of :func:`linear`."""
    return torch.ops.mkldnn._reorder_linear_weight.default(weight, None)


def linear(x: Tensor, packed: Tensor, bias: Tensor | None, relu: bool) -> Tensor:
    """``(rows, in)`` to ``(rows, out)``: a product, a bias, perhaps ReLU."""
    return torch.ops.mkldnn._linear_pointwise.default(x, packed, bias, "relu" if relu else "none", [], "")


def pack_convolution(weight: Tensor, stride: Pair, dilation: int, groups: int) -> Tensor:
    """The packed weight of :func:`convolution`."""
    return torch.ops.mkldnn._reorder_convolution_weight.default(
        weight, (0, 0), stride, (dilation, dilation), groups, None
    )


def convolution(
    x: Tensor, packed: Tensor, bias: Tensor | None, border: Pair, stride: Pair, dilation: int, groups: int, relu: bool
) -> Tensor:
    """A convolution with a symmetric border, a bias, perhaps ReLU: ``(N, in, H, W)`` to ``(N, out, H', W')``."""
    activation = "relu" if relu else "none"
    return torch.ops.mkldnn._convolution_pointwise.default(
        x, packed, bias, border, stride, (dilation, dilation), groups, activation, [], ""
    )


_OPERATORS = ("_reorder_linear_weight", "_linear_pointwise", "_reorder_convolution_weight", "_convolution_pointwise")
_IS_AVAILABLE = torch.backends.mkldnn.is_available() and all(hasattr(torch.ops.mkldnn, name) for name in _OPERATORS)
_HAS_BFLOAT16 = _IS_AVAILABLE and torch.ops.mkldnn._is_mkldnn_bf16_supported()
