"""oneDNN operators with weights reordered once instead of at every call (CPU).

These are the operators that TorchInductor emits when it freezes a model. Eager PyTorch reorders a convolution's weights
at every call and sends linear layers to another library, which is up to a fifth slower on wide states.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from nasnet_det.models.eager_training import is_eager
from nasnet_det.models.padding import Pair


def is_supported(x: Tensor, weight: Tensor) -> bool:
    """Return whether oneDNN's operators can run on ``x``: on a CPU, in eager mode, without gradients, in float32 or
    bfloat16.

    Compilers and exporters get PyTorch's own operators instead: they reorder frozen weights themselves.
    """
    return bool(
        _IS_AVAILABLE
        and is_eager()
        and x.device.type == "cpu"
        and x.dtype == weight.dtype
        and (x.dtype == torch.float32 or (x.dtype == torch.bfloat16 and _HAS_BFLOAT16))
        and torch.backends.mkldnn.enabled
        and not (torch.is_grad_enabled() and x.requires_grad)
        and not torch.is_autocast_enabled("cpu")
    )


class ReorderedWeight:
    """A weight in oneDNN's layout, cached until the weight changes. It is neither copied nor saved with its owner.

    Args:
        reorder: maps a weight to the reordered one.
    """

    def __init__(self, reorder: Callable[[Tensor], Tensor]) -> None:
        self.reorder = reorder
        self.cached: tuple[Any, Tensor, Tensor] | None = None

    def __call__(self, weight: Tensor) -> Tensor:
        key = (weight.data_ptr(), weight.dtype, weight._version)
        if self.cached is None or self.cached[0] != key:
            plain = weight.detach()  # kept too: another weight cannot get its address
            self.cached = (key, self.reorder(plain), plain)
        return self.cached[1]

    def __deepcopy__(self, memo: Any) -> ReorderedWeight:
        return ReorderedWeight(self.reorder)

    def __reduce__(self) -> Any:
        return ReorderedWeight, (self.reorder,)


def reorder_linear(weight: Tensor) -> Tensor:
    """Return the ``(out, in)`` weight in the layout that :func:`linear` takes."""
    return torch.ops.mkldnn._reorder_linear_weight.default(weight, None)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None, relu: bool) -> Tensor:
    """Map ``(rows, in)`` to ``(rows, out)``: a matrix product, an optional bias and an optional ReLU."""
    return torch.ops.mkldnn._linear_pointwise.default(x, weight, bias, "relu" if relu else "none", [], "")


def reorder_convolution(weight: Tensor, stride: Pair, dilation: int, groups: int) -> Tensor:
    """Return the weight in the layout that :func:`convolution` takes."""
    return torch.ops.mkldnn._reorder_convolution_weight.default(
        weight, (0, 0), stride, (dilation, dilation), groups, None
    )


def convolution(
    x: Tensor, weight: Tensor, bias: Tensor | None, padding: Pair, stride: Pair, dilation: int, groups: int, relu: bool
) -> Tensor:
    """Map ``(N, in, H, W)`` to ``(N, out, H', W')``: a convolution with symmetric padding, an optional bias and an
    optional ReLU."""
    activation = "relu" if relu else "none"
    return torch.ops.mkldnn._convolution_pointwise.default(
        x, weight, bias, padding, stride, (dilation, dilation), groups, activation, [], ""
    )


_OPERATORS = ("_reorder_linear_weight", "_linear_pointwise", "_reorder_convolution_weight", "_convolution_pointwise")
_IS_AVAILABLE = torch.backends.mkldnn.is_available() and all(hasattr(torch.ops.mkldnn, name) for name in _OPERATORS)
_HAS_BFLOAT16 = _IS_AVAILABLE and torch.ops.mkldnn._is_mkldnn_bf16_supported()
