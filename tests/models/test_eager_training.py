"""When training replaces PyTorch's functions, and the replacements for CPUs and GPUs, against PyTorch's in float64."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn.utils.parametrizations import spectral_norm
from torch.utils.flop_counter import FlopCounterMode

from nasnet_det.models import cpu_kernels, eager_training
from nasnet_det.models.cells import Concat
from nasnet_det.models.eager_training import concat_channels, is_training_on_cpu, is_training_on_gpu, subsample_twice
from nasnet_det.models.network import NASNet
from nasnet_det.models.operations import FactorizedReduction, LayerSettings, Scale, SeparableConvNorm
from nasnet_det.models.padding import AvgPool2dSame, Conv2dSame, shift, subsample
from tests.models.maps import LAYOUTS, images


def test_only_plain_eager_training_is_changed() -> None:
    x = images(2, 3, 4, 4)
    assert is_training_on_cpu(x)
    with torch.no_grad():
        assert not is_training_on_cpu(x)
    with torch.autocast("cpu", torch.bfloat16):
        assert not is_training_on_cpu(x)
    with forward_ad.dual_level():
        assert not is_training_on_cpu(x)
    with FlopCounterMode(display=False):
        assert not is_training_on_cpu(x)
    with torch.overrides.BaseTorchFunctionMode():
        assert not is_training_on_cpu(x)
    with torch.device("cpu"):
        assert is_training_on_cpu(x)
    assert not is_training_on_cpu(x.to("meta"))
    assert not is_training_on_cpu(x.bfloat16())
    assert not is_training_on_cpu(nn.Parameter(x.detach()))
    torch.func.grad(lambda x: (x * is_training_on_cpu(x)).sum())(x)
    assert torch.func.grad(lambda x: x.sum() * is_training_on_cpu(x))(x.detach()).eq(0).all()


class Joined(nn.Module):
    """Every layer whose functions are replaced."""

    def __init__(self) -> None:
        super().__init__()
        settings = LayerSettings(nn.BatchNorm2d)
        self.separable = SeparableConvNorm(4, 4, settings, 5)
        self.reduction = FactorizedReduction(4, 6, settings, Scale(2))
        self.depthwise, self.pool = Conv2dSame(6, 6, 5, groups=6), AvgPool2dSame(3)
        self.concat = Concat()

    def forward(self, x: Tensor) -> Tensor:
        reduced = self.reduction(self.separable(x))
        return self.concat(self.depthwise(reduced), self.pool(reduced))


@pytest.fixture
def joined() -> Joined:
    torch.manual_seed(0)
    return Joined().to(memory_format=torch.channels_last)


@pytest.fixture(params=[True, False], ids=["compiled", "not compiled"])
def kernels(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """With functions compiled where they can be, and without."""
    if not request.param:
        monkeypatch.setattr(cpu_kernels, "load_library", lambda source: None)


def with_pytorchs(function: Callable[[], tuple[Tensor, ...]]) -> list[tuple[Tensor, ...]]:
    """Return a function's results with the replacements and without."""
    found = function()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(eager_training, "is_training_eagerly", lambda x: False)
        return [found, function()]


def assert_equal_to_pytorchs(function: Callable[[], tuple[Tensor, ...]]) -> None:
    for found, expected in zip(*with_pytorchs(function), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4 * (1 + expected.abs().max().item()))


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("frozen", ["none", "depthwise", "pointwise", "bn", "images"])
def test_gradients_of_gradients_are_pytorchs_whatever_is_frozen(joined: Joined, frozen: str) -> None:
    x = images(2, 4, 9, 10).detach().float().requires_grad_(frozen != "images")
    for name, parameter in joined.named_parameters():
        parameter.requires_grad_(frozen not in name)
    inputs = [value for value in (x, *joined.parameters()) if value.requires_grad]

    def second() -> tuple[Tensor, ...]:
        first = torch.autograd.grad(joined(x).pow(3).sum(), inputs, create_graph=True)
        return torch.autograd.grad(sum(value.square().sum() for value in first), inputs, materialize_grads=True)

    assert_equal_to_pytorchs(second)


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("genotype", ["nasnet_a", "darts_v2"])
def test_gradients_that_can_be_derived_are_the_same_gradients(genotype: str) -> None:
    """Inputs of a layer are computed from others, and weights are shared by several layers."""
    torch.manual_seed(0)
    network = NASNet(genotype, num_cells=1, num_filters=8, stem="cifar", num_classes=3, bn_eps=0.1)
    network.to(memory_format=torch.channels_last)
    shared: dict[torch.Size, nn.Parameter] = {}
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            module.weight = shared.setdefault(module.weight.shape, module.weight)
    x = images(2, 3, 8, 9).detach().float().requires_grad_()
    inputs = [x, *network.parameters()]
    plain, graph = (
        torch.autograd.grad(network(x).square().sum(), inputs, create_graph=create) for create in (False, True)
    )
    for found, expected in zip(graph, plain, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4 * (1 + expected.abs().max().item()))


@pytest.mark.usefixtures("kernels")
def test_batches_of_gradients_are_pytorchs(joined: Joined) -> None:
    x = images(2, 4, 9, 10).detach().float()

    def jacobian() -> tuple[Tensor, ...]:
        jacobian = torch.autograd.functional.jacobian
        by_x = jacobian(lambda x: joined(x).square().mean((2, 3)), x, vectorize=True)
        sums = joined(x).square().sum((0, 2, 3))
        return by_x, *torch.autograd.grad(
            sums, [*joined.parameters()], torch.eye(12), is_grads_batched=True, materialize_grads=True
        )

    assert_equal_to_pytorchs(jacobian)


def test_tracers_and_counters_see_pytorchs_functions(joined: Joined) -> None:
    x, other = images(2, 4, 9, 10).detach().float(), images(2, 4, 9, 10).detach().float()

    def gradients(x: Tensor) -> tuple[Tensor, ...]:
        return torch.autograd.grad(joined(x).square().sum(), [*joined.parameters()])

    graph = make_fx(gradients)(x)
    for found, expected in zip(graph(other), gradients(other), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4 * (1 + expected.abs().max().item()))

    def count() -> tuple[Tensor, ...]:
        with FlopCounterMode(display=False) as counter:
            gradients(x)
        return (torch.tensor(counter.get_total_flops()),)

    assert_equal_to_pytorchs(count)


@pytest.mark.usefixtures("kernels")
def test_a_default_device_does_not_move_what_is_computed(joined: Joined) -> None:
    x = images(2, 4, 9, 10).detach().float()

    def gradients() -> tuple[Tensor, ...]:
        return torch.autograd.grad(joined(x).square().sum(), [*joined.parameters()])

    expected = gradients()
    with torch.device("meta"):
        found = gradients()
    for ours, plain in zip(found, expected, strict=True):
        assert torch.equal(ours, plain)


@pytest.mark.parametrize("name", ["separable", "separable.act", "separable.depthwise", "separable.bn", "pool"])
def test_a_forward_that_was_put_on_a_module_is_called(joined: Joined, name: str) -> None:
    """As accelerate puts it there."""
    module, calls = joined.get_submodule(name), []
    before = module.forward
    module.forward = lambda x: calls.append(x) or before(x)
    joined(images(2, 4, 9, 10).float())
    assert len(calls) == 1


def test_a_module_that_was_compiled_is_called(joined: Joined) -> None:
    norm, called = joined.separable.bn, []
    norm._compiled_call_impl = lambda x: called.append(x) or norm.forward(x)  # what norm.compile() sets
    joined(images(2, 4, 9, 10).float())
    assert called


def test_parametrized_weights_are_computed_once(joined: Joined) -> None:
    for layer in (joined.depthwise, joined.separable.depthwise, joined.separable.pointwise):
        spectral_norm(layer)  # a step of its power iteration is made at every look at the weight
    x = images(2, 4, 9, 10).detach().float()

    def buffers() -> tuple[Tensor, ...]:
        copied = copy.deepcopy(joined)
        return copied(x), *copied.buffers()

    assert_equal_to_pytorchs(buffers)


def test_a_norm_without_all_statistics_is_pytorchs(joined: Joined) -> None:
    x = images(2, 4, 9, 10).float()
    expected = joined(x)
    for name in ("num_batches_tracked", "running_mean", "running_var"):
        setattr(joined.separable.bn, name, None)
        setattr(joined.reduction.bn, name, None)
        if name != "running_mean":  # PyTorch needs both or none
            torch.testing.assert_close(joined(x), expected)


def test_a_cell_that_a_user_replaced_gets_its_inputs_only() -> None:
    class Plain(nn.Module):
        def __init__(self, cell: nn.Module) -> None:
            super().__init__()
            self.cell = cell

        def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
            return self.cell(*inputs)

    torch.manual_seed(0)
    network = NASNet(num_cells=1, num_filters=8, stem="cifar", num_classes=10)
    x = torch.randn(2, 3, 8, 8)
    expected = network(x)
    network.cells["cell_0"] = Plain(network.cells["cell_0"])
    before = network.cells["cell_1"].forward
    network.cells["cell_1"].forward = lambda *inputs: before(*inputs)
    torch.testing.assert_close(network(x), expected)


class Quantized(Tensor):
    """A parameter of a type of its own, which may have no memory."""


def test_parameters_of_other_types_are_not_read() -> None:
    x, weight = images(2, 4, 5, 6).detach().float(), torch.randn(4, 1, 3, 3)
    assert not cpu_kernels.takes_depthwise(x, weight.as_subclass(Quantized))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("size", [(7, 8), (8, 7), (1, 1), (2, 3)])
def test_subsample_twice_is_the_padded_pools(layout: torch.memory_format, size: tuple[int, int]) -> None:
    x = images(2, 3, *size, layout=layout)
    expected = (subsample(x, 2), subsample(shift(x, 1), 2))
    found = subsample_twice(x, 2, 1)
    gradients = [torch.randn_like(map) for map in expected]
    for ours, padded in zip(found, expected, strict=True):
        assert torch.equal(ours, padded)
    for ours, padded in zip(*(torch.autograd.grad(maps, x, gradients) for maps in (found, expected)), strict=True):
        torch.testing.assert_close(ours, padded)
    assert torch.autograd.gradgradcheck(lambda x: subsample_twice(x, 2, 1), x, fast_mode=True)


def test_concatenation_gives_each_input_a_gradient_of_its_own_memory() -> None:
    xs = [torch.randn(2, width, 5, 4, dtype=torch.float64, requires_grad=True) for width in (1, 3, 2)]
    assert torch.equal(concat_channels(*xs), Concat()(*xs))
    assert torch.autograd.gradcheck(concat_channels, xs)
    assert torch.autograd.gradgradcheck(concat_channels, xs)
    kept = torch.randn(2, 6, 5, 4, dtype=torch.float64).contiguous(memory_format=torch.channels_last)
    for gradient in torch.autograd.grad(concat_channels(*xs), xs, kept):
        assert gradient.is_contiguous(memory_format=torch.channels_last)


def test_a_tensor_on_a_cpu_is_not_for_the_gpu() -> None:
    assert not is_training_on_gpu(torch.randn(1, 2, 3, 3).contiguous(memory_format=torch.channels_last))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_gradients_on_a_gpu_equal_those_of_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    torch.manual_seed(0)
    network = NASNet(num_cells=1, num_filters=8, stem="cifar", num_classes=10).double().train()
    images = torch.randn(4, 3, 32, 32, dtype=torch.float64)
    gradients = {}
    for device in ("cpu", "cuda"):
        network.to(device, memory_format=torch.channels_last).zero_grad()
        network(images.to(device, memory_format=torch.channels_last)).square().sum().backward()
        gradients[device] = [p.grad.detach().clone().cpu() for p in network.parameters()]
    for cpu, gpu in zip(gradients["cpu"], gradients["cuda"], strict=True):
        torch.testing.assert_close(gpu, cpu, rtol=1e-9, atol=1e-9)
