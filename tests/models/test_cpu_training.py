"""The faster backward passes against PyTorch's own: in float64 on every size and layout, compiled ones in float32."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from nasnet_det.models import cpu_kernels
from nasnet_det.models.cells import States
from nasnet_det.models.cpu_training import depthwise_conv2d, normalize, pointwise_conv2d
from nasnet_det.models.eager_training import has_hooks
from nasnet_det.models.operations import LayerSettings, Scale, SeparableConvNorm, build_operation
from nasnet_det.models.padding import AvgPool2dSame, Conv2dSame
from tests.models.maps import LAYOUTS, compiled, images, in_threads


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
    torch.testing.assert_close(*(torch.autograd.grad(y, (x, weight), gradient) for y in (found, expected)))


@pytest.mark.parametrize("padding", [(2, 2, 2, 2), (1, 2, 0, 3)])
def test_depthwise_conv2d_has_two_derivatives(padding: tuple[int, int, int, int]) -> None:
    x, weight = images(2, 3, 6, 7), torch.randn(3, 1, 5, 5, dtype=torch.float64, requires_grad=True)

    def run(x: Tensor, weight: Tensor) -> Tensor:
        return depthwise_conv2d(x, weight, (1, 1), padding)

    assert torch.autograd.gradcheck(run, (x, weight), fast_mode=True)
    assert torch.autograd.gradgradcheck(run, (x, weight), fast_mode=True)


@compiled
@settings(deadline=None, max_examples=100)
@given(
    size=st.tuples(st.integers(1, 3), st.integers(8, 40), st.integers(13, 20), st.integers(13, 20)),
    kernel=st.tuples(st.integers(1, 7), st.sampled_from([3, 5, 7])),
    stride=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    padding=st.tuples(*[st.integers(0, 3)] * 4),
    dilation=st.integers(1, 2),
    threads=st.integers(1, 3),
)
def test_compiled_depthwise_conv2d_is_pytorchs(
    size: Any, kernel: Any, stride: Any, padding: Any, dilation: int, threads: int
) -> None:
    x, weight = images(*size), torch.randn(size[1], 1, *kernel, dtype=torch.float64, requires_grad=True)
    expected = functional.conv2d(functional.pad(x, padding), weight, None, stride, 0, dilation, groups=size[1])
    gradient = torch.randn_like(expected)
    results = [expected, *torch.autograd.grad(expected, (x, weight), gradient)]
    single = [x.detach().float().requires_grad_(), weight.detach().float().requires_grad_()]
    with in_threads(threads):
        y = depthwise_conv2d(*single, stride, padding, dilation)
        assert "CompiledDepthwise" in type(y.grad_fn).__name__
        found = [y, *torch.autograd.grad(y, single, gradient.float())]
    for ours, exact in zip(found, results, strict=True):
        torch.testing.assert_close(ours.double(), exact, rtol=1e-5, atol=3e-6 * (1 + exact.abs().max().item()))


@compiled
@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [(2, 12, 9, 8), (1, 8, 4, 7)])
def test_compiled_average_pool_is_pytorchs(size: tuple[int, ...], stride: int, kernel: int) -> None:
    pool, x = AvgPool2dSame(kernel, stride), images(*size)
    single = x.detach().float().requires_grad_()
    expected, found = pool(x), pool(single)
    assert "CompiledDepthwise" in type(found.grad_fn).__name__
    gradient = torch.randn_like(expected)
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-6)
    (exact,), (ours,) = torch.autograd.grad(expected, x, gradient), torch.autograd.grad(found, single, gradient.float())
    torch.testing.assert_close(ours.double(), exact, rtol=1e-5, atol=1e-6)


@compiled
def test_compiled_functions_have_two_derivatives() -> None:
    """Gradients of gradients are PyTorch's, of any of the inputs."""
    x, weight = images(2, 9, 6, 7).detach().float(), torch.randn(9, 1, 5, 5)
    norm = nn.BatchNorm2d(9)
    for inputs in ([x, weight], [x], [weight]):
        for value in (x, weight):
            value.requires_grad_(any(value is one for one in inputs))
        results = []
        for run in (
            lambda: norm(functional.conv2d(functional.relu(x), weight, None, 1, 2, groups=9)),
            lambda: normalize(depthwise_conv2d(functional.relu(x), weight, (1, 1), (2, 2, 2, 2)), norm),
        ):
            first = torch.autograd.grad(run().pow(3).sum(), inputs, create_graph=True)
            results.append(torch.autograd.grad(sum(value.square().sum() for value in first), inputs))
        for plain, ours in zip(*results, strict=True):
            torch.testing.assert_close(ours, plain, rtol=1e-3, atol=1e-3 * plain.abs().max().item())


@compiled
def test_relu_is_part_of_a_depthwise_convolution_unless_a_hook_would_see_it(monkeypatch: pytest.MonkeyPatch) -> None:
    operation = build_operation("sep_conv_5x5", 8, 8, LayerSettings(nn.BatchNorm2d))
    x = images(2, 8, 6, 6).detach().float().requires_grad_()
    seen: list[Tensor] = []
    monkeypatch.setattr(functional, "relu", lambda value, inplace=False: seen.append(value) or value.clamp_min(0))
    fused = States([x]).apply(operation, 0)
    assert not seen
    handle = operation[0].act.register_forward_hook(lambda *arguments: seen.append(arguments[2]))
    plain = States([x]).apply(operation, 0)
    assert seen
    torch.testing.assert_close(fused, plain)
    handle.remove()


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
        torch.testing.assert_close(*both)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("size", [(4, 3, 5, 6), (32, 8, 1, 1), (3, 1, 4, 4), (3, 17, 4, 5), (2, 200, 9, 8)])
@pytest.mark.parametrize("momentum", [0.1, 0.0, None])
def test_batch_norm_is_pytorchs(
    dtype: torch.dtype, layout: torch.memory_format, size: tuple[int, ...], momentum: float | None
) -> None:
    norm = nn.BatchNorm2d(size[1], momentum=momentum).double()
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    plain, x = copy.deepcopy(norm), images(*size, layout=layout, offset=10.0).float()
    gradient = torch.randn(size, dtype=torch.float64)
    norm, results = norm.to(dtype), []
    for run, module, kind in ((lambda x: normalize(x, norm), norm, dtype), (plain, plain, torch.float64)):
        given = x.detach().to(kind).requires_grad_()
        for _ in range(2):
            y = run(given)
        found = torch.autograd.grad(y, [given, *module.parameters()], gradient.to(kind))
        results.append([value.double() for value in (y, *found, *module.buffers())])
    torch.testing.assert_close(*results, **({} if dtype is torch.float64 else {"rtol": 1e-4, "atol": 2e-4}))
    assert "BatchNorm2dBackward" in type(normalize(given.to(dtype), norm).grad_fn).__name__


@pytest.mark.parametrize("has_compiler", [True, False])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_statistics_of_very_many_pixels_are_exact(
    layout: torch.memory_format, has_compiler: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PyTorch's own, in channels_last and one thread, are 1e-5 off."""
    if not has_compiler:
        monkeypatch.setattr(cpu_kernels, "load_library", lambda source: None)
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
    with pytest.raises(ValueError):
        SeparableConvNorm(3, 3, LayerSettings(nn.BatchNorm2d), 3, Scale(2))(images(1, 3, 2, 2).float())


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
