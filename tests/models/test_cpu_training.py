"""The faster backward passes against PyTorch's own, in float64, on every size and layout."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from nasnet_det.models.cpu_training import depthwise_conv2d, normalize, pointwise_conv2d
from nasnet_det.models.eager_training import has_hooks
from nasnet_det.models.padding import Conv2dSame

LAYOUTS = [torch.channels_last, torch.contiguous_format]


def images(*size: int, layout: torch.memory_format = torch.channels_last, offset: float = 0.0) -> Tensor:
    x = torch.randn(size, dtype=torch.float64) + offset
    return x.contiguous(memory_format=layout).requires_grad_()


@settings(deadline=None, max_examples=60)
@given(
    size=st.tuples(st.integers(7, 20), st.integers(7, 20)),
    kernel=st.tuples(st.integers(1, 7), st.integers(1, 7)),
    stride=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    padding=st.tuples(*[st.integers(0, 3)] * 4),
    layout=st.sampled_from(LAYOUTS),
)
def test_depthwise_conv2d_is_pytorchs(
    size: Any, kernel: Any, stride: Any, padding: Any, layout: torch.memory_format
) -> None:
    x = images(2, 3, *size, layout=layout)
    weight = torch.randn(3, 1, *kernel, dtype=torch.float64, requires_grad=True)
    expected = functional.conv2d(functional.pad(x, padding), weight, None, stride, groups=3)
    found = depthwise_conv2d(x, weight, stride, padding)
    torch.testing.assert_close(found, expected)
    gradient = torch.randn_like(expected)
    for ours, plain in zip(*(torch.autograd.grad(y, (x, weight), gradient) for y in (found, expected)), strict=True):
        torch.testing.assert_close(ours, plain)


@pytest.mark.parametrize("padding", [(2, 2, 2, 2), (1, 2, 0, 3)])
def test_depthwise_conv2d_has_two_derivatives(padding: tuple[int, int, int, int]) -> None:
    x, weight = images(2, 3, 6, 7), torch.randn(3, 1, 5, 5, dtype=torch.float64, requires_grad=True)

    def run(x: Tensor, weight: Tensor) -> Tensor:
        return depthwise_conv2d(x, weight, (1, 1), padding)

    assert torch.autograd.gradcheck(run, (x, weight), fast_mode=True)
    assert torch.autograd.gradgradcheck(run, (x, weight), fast_mode=True)


@settings(deadline=None, max_examples=30)
@given(size=st.tuples(*[st.integers(1, 6)] * 4), width=st.integers(1, 6))
def test_pointwise_conv2d_is_pytorchs(size: Any, width: int) -> None:
    x, conv = images(*size), Conv2dSame(size[1], width, 1).double()
    expected = functional.conv2d(x, conv.weight)
    assert "Permute" in type(conv(x).grad_fn).__name__  # a product, not a convolution
    gradient = torch.randn_like(expected)
    for found in (pointwise_conv2d(x, conv.weight), conv(x)):
        torch.testing.assert_close(found, expected)
        assert found.is_contiguous(memory_format=torch.channels_last)
        both = [torch.autograd.grad(y, (x, conv.weight), gradient, retain_graph=True) for y in (found, expected)]
        for ours, plain in zip(*both, strict=True):
            torch.testing.assert_close(ours, plain)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("size", [(4, 3, 5, 6), (2, 8, 1, 1), (3, 1, 4, 4), (3, 17, 4, 5)])
@pytest.mark.parametrize("momentum", [0.1, 0.0, None])
def test_batch_norm_is_pytorchs(layout: torch.memory_format, size: tuple[int, ...], momentum: float | None) -> None:
    norm = nn.BatchNorm2d(size[1], momentum=momentum).double()
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    plain, x = copy.deepcopy(norm), images(*size, layout=layout, offset=10.0)
    gradient = torch.randn(size, dtype=torch.float64)
    results = []
    for run, module in ((lambda x: normalize(x, norm), norm), (plain, plain)):
        for _ in range(2):
            y = run(x)
        results.append([y, *torch.autograd.grad(y, [x, *module.parameters()], gradient), *module.buffers()])
    for ours, expected in zip(*results, strict=True):
        torch.testing.assert_close(ours, expected)
    assert "BatchNorm2dBackward" in type(normalize(x, norm).grad_fn).__name__


@pytest.mark.parametrize("layout", LAYOUTS)
def test_statistics_of_very_many_pixels_are_exact(layout: torch.memory_format) -> None:
    """PyTorch's own, in channels_last and one thread, are 1e-5 off."""
    torch.manual_seed(0)
    x = images(64, 8, 32, 32, layout=layout, offset=0.7)
    norms = [nn.BatchNorm2d(8, momentum=1.0).to(dtype) for dtype in (torch.float32, torch.float64)]
    normalize(x.float(), norms[0]), norms[1](x)
    for name, exact in norms[1].named_buffers():
        torch.testing.assert_close(norms[0].get_buffer(name).double(), exact.double(), rtol=1e-6, atol=1e-6)


def test_batch_norm_has_two_derivatives() -> None:
    norm = nn.BatchNorm2d(3).double()
    assert torch.autograd.gradcheck(lambda x: normalize(x, norm), images(2, 3, 4, 4), fast_mode=True)
    assert torch.autograd.gradgradcheck(lambda x: normalize(x, norm), images(2, 3, 4, 4), fast_mode=True)


def test_batch_norm_of_a_single_value_is_refused_as_by_pytorch() -> None:
    with pytest.raises(ValueError):
        normalize(images(1, 3, 1, 1), nn.BatchNorm2d(3).double())


class Shift(nn.BatchNorm2d):
    def forward(self, x: Tensor) -> Tensor:
        return x + 1


def test_other_norms_and_hooks_are_called() -> None:
    x = images(2, 3, 4, 4)
    for norm in (Shift(3), nn.Identity(), nn.GroupNorm(3, 3).double(), nn.BatchNorm2d(3).double().eval()):
        torch.testing.assert_close(normalize(x, norm), norm(x))
    norm, seen = nn.BatchNorm2d(3).double(), []
    norm.register_forward_hook(lambda *arguments: seen.append(norm))
    assert has_hooks(norm)
    normalize(x, norm)
    assert seen == [norm]
