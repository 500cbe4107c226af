"""Separable and pointwise convolutions with batch norm as one function, against the layers one by one in float64."""

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

from nasnet_det.models import cpu_kernels
from nasnet_det.models.cells import States
from nasnet_det.models.cpu_separable import pointwise_norms
from nasnet_det.models.cpu_training import normalize
from nasnet_det.models.network import NASNet
from nasnet_det.models.operations import ConvNorm, Finish, Layers, LayerSettings, Scale, SeparableConvNorm
from nasnet_det.models.padding import AvgPool2dSame, Conv2dSame, MaxPool2dSame
from tests.models.maps import compiled, images, in_threads


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
    gradient, results = None, []
    for module, inner in ((layer, x), (plain, x.double())):
        inner = inner.detach().requires_grad_(by_x)
        with in_threads(threads):
            y = module(inner)
            assert ("_SeparableNorms" in type(y.grad_fn).__name__) == (module is layer)
            gradient = torch.randn_like(y) if gradient is None else gradient
            inputs = [*([inner] if by_x else []), *module.parameters()]
            found = torch.autograd.grad(y, inputs, gradient.to(y.dtype))
        results.append([y, *found, *module.buffers()])
    for ours, exact in zip(*results, strict=True):
        # Weights whose scale batch norm removes have gradients that cancel out.
        assert (ours.double() - exact).norm() < 1e-5 * (exact.double().norm() + 0.1 * gradient.norm())


@compiled
@settings(deadline=None, max_examples=60)
@given(
    size=st.tuples(st.integers(2, 4), st.integers(8, 40), st.integers(3, 24), st.integers(3, 24)),
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
    """Any layers read a state in turn, and one that is not compiled; gradients of some, of all and again are right."""
    norm = LayerSettings(nn.BatchNorm2d)
    layers = nn.ModuleList(
        separable_layers((size[1], 8, 9), kernel, scale) if kernel else ConvNorm(size[1], 9, norm) for kernel in kernels
    )
    x, results = images(*size).float(), []
    for modules, inner in ((layers, x.detach()), (copy.deepcopy(layers).double(), x.detach().double())):
        with in_threads(threads):
            states = States([inner.requires_grad_()])
            found = [states.apply(module, 0) for module in modules]
            assert (states[0] is not inner) == (modules is layers)
            loss = sum(value.pow(3).mean() for value in [*found, states[0]])
            results.append([])
            for inputs in ([*modules[-1].parameters()], [inner], [inner, *modules.parameters()]):
                results[-1] += torch.autograd.grad(loss, inputs, retain_graph=True)
            results[-1] += torch.autograd.grad(found[0].pow(3).mean(), [inner], retain_graph=True)
            results[-1] += torch.autograd.grad(states[0].pow(3).mean(), [inner])
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
    maps = [images(3, width, *size).detach().float() for width in widths]
    plain, given = copy.deepcopy(layers).double(), [one.double().requires_grad_() for one in maps]
    maps = [one.requires_grad_() for one in maps]
    with in_threads(threads), mock.patch.object(cpu_kernels, "_FITTING", fitting):
        found = pointwise_norms(maps, [(layer.conv, layer.bn) for layer in layers])
        gradients = [torch.randn_like(value) for value in found]
        ours = [*found, *torch.autograd.grad(found, [*maps, *layers.parameters()], gradients)]
    results = [layer(torch.cat(given, dim=1)) for layer in plain]
    doubles = [gradient.double() for gradient in gradients]
    exact = [*results, *torch.autograd.grad(results, [*given, *plain.parameters()], doubles)]
    for one, other in zip([*ours, *layers.buffers()], [*exact, *plain.buffers()], strict=True):
        assert (one.double() - other).norm() < 1e-5 * (other.double().norm() + gradients[0].norm())


@compiled
def test_layers_that_share_an_input_have_two_derivatives() -> None:
    """Layers read it in turn, or are computed as one of divided channels."""
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
        y = module(inner, finish=finish) if times else finish.apply(module(inner))
        first = torch.autograd.grad(y.pow(3).sum(), inputs, create_graph=True)
        second = torch.autograd.grad(sum(value.square().sum() for value in first), inputs)
        results.append([y, *first, *second])
    for ours, exact in zip(*results, strict=True):
        torch.testing.assert_close(ours.double(), exact, rtol=1e-3, atol=1e-4 * exact.abs().max().item())


@compiled
def test_any_number_of_threads_gives_the_same_bits() -> None:
    layer, x = separable_layers((20, 12, 12), 5), images(7, 20, 9, 11).detach().float()
    gradient, results = torch.randn(7, 12, 9, 11), []
    for threads in (1, 2, 3):
        with in_threads(threads):
            y = layer(x)
            results.append([y, *torch.autograd.grad(y, [*layer.parameters()], gradient)])
    for one, *others in zip(*results, strict=True):
        assert all(torch.equal(one, other) for other in others)


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


class Louder(Layers):
    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        return 2 * super().forward(x)


@compiled
def test_a_class_of_ones_own_is_called() -> None:
    """Alone, and where the sum of a block is part of a compiled function otherwise."""
    layer, x = SeparableConvNorm(8, 8, LayerSettings(nn.BatchNorm2d), 3), images(2, 8, 6, 6).float()
    torch.testing.assert_close(States([x]).apply(Louder(layer), 0), 2 * layer(x))
    network = NASNet(num_cells=1, num_filters=8, stem="cifar", num_classes=2).to(memory_format=torch.channels_last)
    block: Any = network.get_submodule("cells.cell_1.blocks.0")
    x, left, right = images(2, 16, 6, 6).float(), block.left, block.right
    block.left, block.right = Louder(*left), Louder(*right)
    torch.testing.assert_close(block(States([x, x])), 2 * (left(x) + right(x)))


class Times(MaxPool2dSame):
    def __init__(self, factor: float) -> None:
        super().__init__(3)
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return self.factor * super().forward(x)


def test_pools_of_ones_own_are_computed_one_by_one() -> None:
    states = States([images(2, 8, 6, 6).float()])
    torch.testing.assert_close(2 * states.apply(Times(1), 0), states.apply(Times(2), 0))


@compiled
def test_layers_are_as_wide_as_their_tensors() -> None:
    """As after pruning, which replaces them but may leave a layer's own numbers."""
    layer, x = SeparableConvNorm(8, 16, LayerSettings(nn.BatchNorm2d), 3), images(2, 8, 6, 6).float()
    layer.pointwise.weight, layer.bn = nn.Parameter(layer.pointwise.weight[:9].detach()), nn.BatchNorm2d(9)
    layer.bn.num_features = 16
    assert layer.is_compiled(x)
    torch.testing.assert_close(layer(x), layer.bn(layer.pointwise(layer.depthwise(layer.act(x)))))
    for name in ("weight", "bias"):
        layer.bn = nn.BatchNorm2d(9)
        setattr(layer.bn, name, nn.Parameter(torch.ones(10)))
        with pytest.raises(RuntimeError):
            layer(x)
