"""The faster backward passes against PyTorch's own: in float64 on every size and layout, compiled ones in float32."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from itertools import pairwise
from typing import Any
from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from nasnet_det.models import cpu_kernels
from nasnet_det.models.cells import States
from nasnet_det.models.cpu_training import depthwise_conv2d, normalize, pointwise_conv2d, pointwise_norms
from nasnet_det.models.eager_training import has_hooks
from nasnet_det.models.operations import (
    ConvNorm,
    Finish,
    Layers,
    LayerSettings,
    Scale,
    SeparableConvNorm,
    build_operation,
)
from nasnet_det.models.padding import AvgPool2dSame, Conv2dSame

compiled = pytest.mark.skipif(
    not cpu_kernels.takes(torch.zeros(1, 1, 1, 1), 1), reason="cpu_kernels.cpp cannot be compiled here"
)
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
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        y = depthwise_conv2d(*single, stride, padding, dilation)
        assert "CompiledDepthwise" in type(y.grad_fn).__name__
        found = [y, *torch.autograd.grad(y, single, gradient.float())]
    finally:
        torch.set_num_threads(before)
    for ours, exact in zip(found, results, strict=True):
        torch.testing.assert_close(ours.double(), exact, rtol=1e-5, atol=3e-6 * (1 + exact.abs().max().item()))


@compiled
@settings(deadline=None, max_examples=60)
@given(
    size=st.tuples(st.integers(2, 4), st.integers(8, 40), st.integers(3, 13), st.integers(3, 13)),
    outputs=st.integers(8, 70),
    kernel=st.sampled_from([3, 5, 7]),
    scale=st.sampled_from([Scale(), Scale(2), Scale(dilation=2, dilation_after=2)]),
    times=st.integers(1, 3),
    threads=st.integers(1, 3),
    by_x=st.booleans(),
)
def test_compiled_separable_convolutions_are_pytorchs(
    size: Any, outputs: int, kernel: int, scale: Scale, times: int, threads: int, by_x: bool
) -> None:
    """One, or several in turn as one function."""
    layer = separable_layers((size[1], *[outputs] * times), kernel, scale)
    with torch.no_grad():  # of variances that are not small, in which float32 would leave few digits
        x = images(*size).float()
        for one in layer if times > 1 else [layer]:
            convolved = one.pointwise(one.depthwise(x.relu()))
            one.pointwise.weight /= convolved.std((0, 2, 3))[:, None, None, None]
            x = one(x)
    check_against_float64(layer, size, threads, by_x)


def separable_layers(channels: Sequence[int], kernel: int, scale: Scale = Scale()) -> nn.Module:
    """One separable convolution, or several in turn, with norms of any weight."""
    layers = []
    for inputs, outputs in pairwise(channels):
        layers.append(SeparableConvNorm(inputs, outputs, LayerSettings(nn.BatchNorm2d), kernel, scale))
        nn.init.normal_(layers[-1].bn.weight)
        nn.init.normal_(layers[-1].bn.bias)
        scale = scale.halved()
    return Layers(*layers) if len(layers) > 1 else layers[0]


def check_against_float64(layer: Any, size: Any, threads: int, by_x: bool) -> None:
    plain, x = copy.deepcopy(layer).double(), images(*size).float()
    gradient, results, before = None, [], torch.get_num_threads()
    for module, inner in ((layer, x), (plain, x.double())):
        inner = inner.detach().requires_grad_(by_x)
        try:
            torch.set_num_threads(threads)
            y = module(inner)
            assert ("_SeparableNorms" in type(y.grad_fn).__name__) == (module is layer)
            gradient = torch.randn_like(y) if gradient is None else gradient
            inputs = [*([inner] if by_x else []), *module.parameters()]
            found = torch.autograd.grad(y, inputs, gradient.to(y.dtype))
        finally:
            torch.set_num_threads(before)
        results.append([y, *found, *module.buffers()])
    for ours, exact in zip(*results, strict=True):
        # Weights whose scale batch norm removes have gradients that cancel out.
        assert (ours.double() - exact).norm() < 1e-5 * (exact.double().norm() + 0.1 * gradient.norm())


@compiled
@settings(deadline=None, max_examples=60)
@given(
    size=st.tuples(st.integers(2, 4), st.integers(8, 40), st.integers(3, 13), st.integers(3, 13)),
    outputs=st.integers(8, 70),
    fitting=st.integers(1, 8000),
    threads=st.integers(1, 3),
    by_x=st.booleans(),
)
def test_compiled_pointwise_convolution_is_pytorchs(
    size: Any, outputs: int, fitting: int, threads: int, by_x: bool
) -> None:
    """In parts of any number of values."""
    layer = ConvNorm(size[1], outputs, LayerSettings(nn.BatchNorm2d))
    nn.init.normal_(layer.bn.weight)
    with mock.patch.object(cpu_kernels, "_FITTING", fitting):
        check_against_float64(layer, size, threads, by_x)


@compiled
@settings(deadline=None, max_examples=40)
@given(
    size=st.tuples(st.integers(2, 4), st.integers(8, 40), st.integers(3, 13), st.integers(3, 13)),
    kernels=st.lists(st.sampled_from([None, 3, 5]), min_size=1, max_size=3),
    scale=st.sampled_from([Scale(), Scale(2)]),
    threads=st.integers(1, 3),
)
def test_gradients_of_later_readers_are_added(size: Any, kernels: list[int | None], scale: Scale, threads: int) -> None:
    """Of any layers that read a state in turn, and of one that is not compiled; of some of them, too, and again."""
    norm = LayerSettings(nn.BatchNorm2d)
    layers = nn.ModuleList(
        separable_layers((size[1], 8, 9), kernel, scale) if kernel else ConvNorm(size[1], 9, norm) for kernel in kernels
    )
    x, results, before = images(*size).float(), [], torch.get_num_threads()
    for modules, inner in ((layers, x.detach()), (copy.deepcopy(layers).double(), x.detach().double())):
        try:
            torch.set_num_threads(threads)
            states = States([inner.requires_grad_()])
            found = [states.apply(module, 0) for module in modules]
            assert (states[0] is not inner) == (modules is layers)
            loss = sum(value.pow(3).mean() for value in [*found, states[0]])
            results.append([])
            for inputs in ([*modules[-1].parameters()], [inner], [inner, *modules.parameters()]):
                results[-1] += torch.autograd.grad(loss, inputs, retain_graph=True)
            results[-1] += torch.autograd.grad(found[0].pow(3).mean(), [inner], retain_graph=True)
            results[-1] += torch.autograd.grad(states[0].pow(3).mean(), [inner])
        finally:
            torch.set_num_threads(before)
    for ours, exact in zip(*results, strict=True):
        assert (ours.double() - exact).norm() < 1e-4 * exact.norm() + 1e-6


@compiled
@settings(deadline=None, max_examples=40)
@given(
    widths=st.lists(st.integers(1, 30), min_size=1, max_size=5).filter(lambda widths: sum(widths) >= 8),
    outputs=st.lists(st.integers(8, 30), min_size=1, max_size=3),
    size=st.tuples(st.integers(2, 13), st.integers(2, 13)),
    fitting=st.integers(1, 8000),
    threads=st.integers(1, 3),
)
def test_pointwise_convolutions_of_divided_channels_are_pytorchs(
    widths: list[int], outputs: list[int], size: tuple[int, int], fitting: int, threads: int
) -> None:
    layers = nn.ModuleList(ConvNorm(sum(widths), width, LayerSettings(nn.BatchNorm2d)) for width in outputs)
    maps, before = [images(3, width, *size).detach().float() for width in widths], torch.get_num_threads()
    plain, given, gradients = copy.deepcopy(layers).double(), [one.double().requires_grad_() for one in maps], []
    maps = [one.requires_grad_() for one in maps]
    try:
        torch.set_num_threads(threads)
        with mock.patch.object(cpu_kernels, "_FITTING", fitting):
            found = pointwise_norms(maps, [(layer.conv, layer.bn) for layer in layers])
            gradients = [torch.randn_like(value) for value in found]
            ours = [*found, *torch.autograd.grad(found, [*maps, *layers.parameters()], gradients)]
    finally:
        torch.set_num_threads(before)
    results = [layer(torch.cat(given, dim=1)) for layer in plain]
    doubles = [gradient.double() for gradient in gradients]
    exact = [*results, *torch.autograd.grad(results, [*given, *plain.parameters()], doubles)]
    for one, other in zip([*ours, *layers.buffers()], [*exact, *plain.buffers()], strict=True):
        assert (one.double() - other).norm() < 1e-5 * (other.double().norm() + gradients[0].norm())


@compiled
def test_layers_that_share_an_input_have_two_derivatives() -> None:
    """Those that read it in turn, and those that are computed as one of divided channels."""
    norm = LayerSettings(nn.BatchNorm2d)
    layers = nn.ModuleList([separable_layers((9, 8), 3), separable_layers((9, 8, 8), 3)])
    together = nn.ModuleList([ConvNorm(16, 8, norm), ConvNorm(16, 9, norm)])
    x, results = images(3, 9, 6, 7).detach().float(), []
    for one, two, inner in ((layers, together, x), (*map(copy.deepcopy, (layers, together)), x.double())):
        one.to(inner.dtype), two.to(inner.dtype)
        states = States([inner.detach().requires_grad_()])
        first = states[0]
        found = [states.apply(layer, 0) for layer in one]
        takes = all(layer.is_compiled(*found) for layer in two)
        assert takes == (inner is x)
        pairs = [(layer.conv, layer.bn) for layer in two]
        joined = pointwise_norms(found, pairs) if takes else [layer(torch.cat(found, dim=1)) for layer in two]
        inputs = [first, *one.parameters(), *two.parameters()]
        loss = sum(value.pow(3).mean() for value in [*joined, states[0]])
        by_inputs = torch.autograd.grad(loss, inputs, create_graph=True)
        results.append([*by_inputs, *torch.autograd.grad(sum(value.square().sum() for value in by_inputs), inputs)])
    for ours, exact in zip(*results, strict=True):
        assert (ours.double() - exact).norm() < 1e-3 * exact.norm() + 1e-4


@compiled
@pytest.mark.parametrize("times", [0, 1, 2])
def test_what_follows_a_compiled_convolution_has_two_derivatives(times: int) -> None:
    layer = separable_layers((8, *[9] * times), 3) if times else ConvNorm(8, 9, LayerSettings(nn.BatchNorm2d))
    x, other, factors = images(3, 8, 6, 7).float(), images(3, 9, 6, 7).float(), torch.tensor([0.0, 1.5, 1.5])
    results = []
    for module, dtype in ((layer, torch.float32), (copy.deepcopy(layer).double(), torch.float64)):
        inner, added = (value.detach().to(dtype).requires_grad_() for value in (x, other))
        inputs, scale = [inner, added, *module.parameters()], factors.to(dtype).view(3, 1, 1, 1)
        finish = Finish(scale, added)
        y = module(inner, finish=finish) if times else finish(module(inner))
        first = torch.autograd.grad(y.pow(3).sum(), inputs, create_graph=True)
        second = torch.autograd.grad(sum(value.square().sum() for value in first), inputs)
        results.append([y, *first, *second])
    for ours, exact in zip(*results, strict=True):
        torch.testing.assert_close(ours.double(), exact, rtol=1e-3, atol=1e-4 * exact.abs().max().item())


@compiled
def test_any_number_of_threads_gives_the_same_bits() -> None:
    layer, x = separable_layers((20, 12, 12), 5), images(7, 20, 9, 11).detach().float()
    gradient, results, before = torch.randn(7, 12, 9, 11), [], torch.get_num_threads()
    for threads in (1, 2, 3):
        try:
            torch.set_num_threads(threads)
            y = layer(x)
            results.append([y, *torch.autograd.grad(y, [*layer.parameters()], gradient)])
        finally:
            torch.set_num_threads(before)
    for one, *others in zip(*results, strict=True):
        assert all(torch.equal(one, other) for other in others)


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
def test_a_compiled_separable_convolution_has_two_derivatives() -> None:
    layer, x = SeparableConvNorm(9, 8, LayerSettings(nn.BatchNorm2d), 5), images(2, 9, 6, 7).float()
    results = []
    for module, inner in ((layer, x.detach()), (copy.deepcopy(layer).double(), x.detach().double())):
        inputs = [inner.requires_grad_(), *module.parameters()]
        first = torch.autograd.grad(module(inner).pow(3).sum(), inputs, create_graph=True)
        results.append(torch.autograd.grad(sum(value.square().sum() for value in first), inputs))
    for ours, exact in zip(*results, strict=True):
        torch.testing.assert_close(ours.double(), exact, rtol=1e-3, atol=1e-4 * exact.abs().max().item())


@compiled
@pytest.mark.parametrize("kernel", [3, 5])
def test_tensors_that_were_saved_in_another_layout_are_read_right(kernel: int) -> None:
    layer = nn.Sequential(separable_layers((8, 9, 9), kernel), AvgPool2dSame(3), Conv2dSame(9, 9, 3, groups=9))
    x, results = images(2, 8, 6, 7).float().detach().requires_grad_(), []
    for pack in (lambda value: value, lambda value: value.contiguous(memory_format=torch.contiguous_format).clone()):
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda value: value):
            y = layer(x).square().sum()
        results.append(torch.autograd.grad(y, [x, *layer.parameters()]))
    for ours, expected in zip(*results, strict=True):
        assert torch.equal(ours, expected)


class Doubled(Conv2dSame):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


@compiled
def test_what_is_put_in_a_layers_place_is_called() -> None:
    layer, x = SeparableConvNorm(8, 8, LayerSettings(nn.BatchNorm2d), 3), images(2, 8, 6, 6).float()
    assert layer.is_compiled(x)
    expected = layer.bn(2 * layer.pointwise(layer.depthwise(layer.act(x))))
    replaced = Doubled(8, 8, 1)
    replaced.load_state_dict(layer.pointwise.state_dict())
    layer.pointwise = replaced
    torch.testing.assert_close(layer(x), expected)
    layer.pointwise = nn.Sequential(replaced)
    torch.testing.assert_close(layer(x), expected)


@compiled
@pytest.mark.parametrize("channels", [7, 9])
def test_maps_of_other_channels_are_refused_as_by_pytorch(channels: int) -> None:
    """The compiled functions would read beyond the parameters."""
    settings = LayerSettings(nn.BatchNorm2d)
    for layer in (ConvNorm(8, 8, settings), SeparableConvNorm(8, 8, settings, 3), Conv2dSame(8, 8, 3, groups=8)):
        with pytest.raises(RuntimeError):
            layer(images(2, channels, 6, 6).float())
    with pytest.raises((RuntimeError, ValueError)):
        normalize(images(2, channels, 6, 6).float(), nn.BatchNorm2d(8))


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
        for ours, plain in zip(*both, strict=True):
            torch.testing.assert_close(ours, plain)


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
    accuracy = {} if dtype is torch.float64 else {"rtol": 1e-4, "atol": 2e-4}
    for ours, expected in zip(*results, strict=True):
        torch.testing.assert_close(ours, expected, **accuracy)
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
