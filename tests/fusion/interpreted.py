"""The Triton kernels against PyTorch's own operations. Run by ``test_depthwise.py`` in a process of its own: on a CPU
Triton must be told to interpret before it is imported. On a machine with a GPU the same is compiled and run there."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from nasnet_det.fusion import depthwise, optimize_for_inference
from nasnet_det.fusion.depthwise import Branch, Product, arranged
from nasnet_det.fusion.fallback import fault_of, warn_once
from nasnet_det.models.network import NASNet
from nasnet_det.models.padding import pad_same
from tests.models.test_operations import randomize

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
ROUNDING = {torch.float32: 2e-6, torch.float16: 2e-3, torch.bfloat16: 2e-2}


def images(*size: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(size, device=DEVICE).to(dtype).contiguous(memory_format=torch.channels_last)


def plain(x: Tensor, weight: Tensor, stride: int, dilation: int, relu: bool) -> Tensor:
    """The definition, in double precision."""
    x = x.double().relu() if relu else x.double()
    x = pad_same(x, tuple(weight.shape[2:]), (stride, stride), dilation)
    return functional.conv2d(x, weight.double(), stride=stride, dilation=dilation, groups=len(weight))


def assert_near(found: Tensor, expected: Tensor) -> None:
    assert found.shape == expected.shape and found.is_contiguous(memory_format=torch.channels_last)
    assert (found.double() - expected).abs().max() <= ROUNDING[found.dtype] * expected.abs().max()


@pytest.mark.parametrize("dtype", ROUNDING)
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [(2, 5, 7, 6), (1, 70, 5, 5), (1, 16, 1, 4)])
def test_several_branches_in_one_launch(dtype: torch.dtype, stride: int, size: tuple[int, ...]) -> None:
    """Kernels of 3, 5, 7 and 1 x 7 places, with and without ReLU, on two states; odd and even sides; channels that fill
    no tile."""
    torch.manual_seed(0)
    states = [images(*size, dtype=dtype) for _ in range(2)]
    kernels = [(3, 3), (5, 5), (7, 7), (1, 7)]
    weights = [torch.randn(size[1], 1, *kernel, device=DEVICE).to(dtype) for kernel in kernels]
    relus = [True, False, True, True]
    branches = [
        Branch(states[i % 2], arranged(weight), kernel, relu)
        for i, (weight, kernel, relu) in enumerate(zip(weights, kernels, relus, strict=True))
    ]
    assert depthwise.can_share(branches)
    found = depthwise.depthwise(branches, (stride, stride))
    for i, (made, weight, relu) in enumerate(zip(found, weights, relus, strict=True)):
        assert made.dtype == dtype
        assert_near(made, plain(states[i % 2], weight, stride, 1, relu))


@pytest.mark.parametrize(("kernel", "stride", "dilation"), [(3, 1, 2), (5, 1, 2), (3, 2, 2), (3, 1, 4)])
def test_dilation(kernel: int, stride: int, dilation: int) -> None:
    x, weight = images(1, 6, 11, 8), torch.randn(6, 1, kernel, kernel, device=DEVICE)
    branch = Branch(x, arranged(weight), (kernel, kernel), True)
    (made,) = depthwise.depthwise([branch], (stride, stride), dilation)
    assert_near(made, plain(x, weight, stride, dilation, True))


def test_shift_and_relu_after() -> None:
    x, weight, bias = images(1, 6, 5, 5), torch.randn(6, 1, 3, 3, device=DEVICE), torch.randn(6, device=DEVICE)
    (made,) = depthwise.depthwise([Branch(x, arranged(weight), (3, 3), False, bias, True)])
    assert_near(made, (plain(x, weight, 1, 1, False) + bias.double()[:, None, None]).relu())


def test_what_is_no_number_stays_so() -> None:
    x = images(1, 4, 3, 3)
    x[0, 1, 1, 1] = torch.nan
    (made,) = depthwise.depthwise([Branch(x, arranged(torch.ones(4, 1, 3, 3, device=DEVICE)), (3, 3), True)])
    assert made[0, 1].isnan().all() and made[0, [0, 2, 3]].isfinite().all()


def test_another_layout_and_no_images() -> None:
    x, weight = torch.randn(2, 6, 5, 5, device=DEVICE), torch.randn(6, 1, 3, 3, device=DEVICE)
    (made,) = depthwise.depthwise([Branch(x, arranged(weight), (3, 3), True)])
    assert_near(made, plain(x, weight, 1, 1, True))
    (made,) = depthwise.depthwise([Branch(x[:0], arranged(weight), (3, 3), True)])
    assert made.shape == (0, 6, 5, 5)


@pytest.mark.parametrize("dtype", ROUNDING)
@pytest.mark.parametrize(("channels", "out", "stride"), [(5, 5, 1), (40, 24, 2), (20, 140, 1)])
def test_sums_of_separable_convolutions(dtype: torch.dtype, channels: int, out: int, stride: int) -> None:
    """Two results in one launch: one branch with a shift and ReLU; two branches and a multiple of another state."""
    torch.manual_seed(0)
    x, y = (images(1, channels, 7, 8, dtype=dtype) for _ in range(2))
    filters = [torch.randn(channels, 1, k, k, device=DEVICE).to(dtype) for k in (3, 5, 3)]
    pointwise = [torch.randn(out, n * channels, device=DEVICE).to(dtype) for n in (1, 2)]
    bias = torch.randn(out, device=DEVICE).to(dtype)
    branches = [
        Branch(state, arranged(weight), tuple(weight.shape[2:]), True)
        for state, weight in zip((x, x, y), filters, strict=True)
    ]
    filtered = [
        plain(state, weight, stride, 1, True).to(dtype).double()
        for state, weight in zip((x, x, y), filters, strict=True)
    ]
    other = images(1, out, *filtered[0].shape[2:], dtype=dtype)
    found = depthwise.separable(
        [
            Product((branches[0],), pointwise[0], bias, activates=True),
            Product(tuple(branches[1:]), pointwise[1], None, (other,), (0.5,)),
        ],
        (stride, stride),
    )
    first, second = (weight.double()[:, :, None, None] for weight in pointwise)
    assert_near(found[0], functional.conv2d(filtered[0], first, bias.double()).relu())
    assert_near(found[1], functional.conv2d(torch.cat(filtered[1:], dim=1), second) + 0.5 * other.double())


@pytest.mark.parametrize(("genotype", "most"), [("nasnet_a", 128), ("nasnet_a", 0), ("darts_v2", 128)])
def test_a_whole_network(genotype: str, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every cell through the kernels, the pointwise products within and outside of their launches."""
    monkeypatch.setattr(depthwise, "MOST_OUT", most)
    launches: list[int] = []
    for name in ("depthwise", "separable"):
        launch = getattr(depthwise, name)
        monkeypatch.setattr(
            depthwise, name, lambda parts, *rest, launch=launch: launches.append(len(parts)) or launch(parts, *rest)
        )
    torch.manual_seed(0)
    network = randomize(NASNet(genotype, num_cells=1, num_filters=8, num_classes=5)).to(DEVICE)
    fused = optimize_for_inference(network)
    x = images(1, 3, 27, 22)
    with torch.no_grad():
        expected, found = network.forward_features(x), fused.forward_features(x)
    assert (found - expected).abs().max() <= 2e-6 * expected.abs().max()
    assert max(launches) > 1 and (most == 0) == all(not cell_joins(cell) for cell in fused.cells.values())


def cell_joins(cell: nn.Module) -> bool:
    return any(part.sum is not None for task in cell.tasks for part in task.parts)


def test_launches_of_the_released_cells() -> None:
    """The normal cell's ten depthwise convolutions take two launches."""
    fused = optimize_for_inference(NASNet(num_cells=2, num_filters=8))
    tasks = [task for task in fused.cells["cell_1"].tasks if task.parts]
    assert [sum(len(part.filters) for part in task.parts) for task in tasks] == [5, 5]
    assert all(part.sum is not None for task in tasks for part in task.parts)
    assert all(one.relu for part in tasks[0].parts for one in part.filters)


def test_a_network_in_half_precision() -> None:
    """As near to float32 as the plain network in the same type is, within a factor. Triton's interpreter cuts bfloat16
    off where a GPU rounds, so it is given float16."""
    dtype = torch.bfloat16 if DEVICE == "cuda" else torch.float16
    torch.manual_seed(0)
    network = randomize(NASNet(num_cells=1, num_filters=8, num_classes=5)).to(DEVICE)
    x = images(1, 3, 27, 22)
    with torch.no_grad():
        expected = network.forward_features(x)
        rounded = copy.deepcopy(network).to(dtype).forward_features(x.to(dtype)).float()
        found = optimize_for_inference(network).to(dtype).forward_features(x.to(dtype))
    assert found.dtype == dtype
    assert (found.float() - expected).abs().max() <= 2 * (rounded - expected).abs().max()


def test_what_the_kernels_do_not_compute_is_said_once() -> None:
    warn_once.cache_clear()
    network = randomize(NASNet(num_cells=1, num_filters=8, num_classes=5)).to(DEVICE).double()
    fused = optimize_for_inference(network)
    x = images(1, 3, 40, 40).double()
    with torch.no_grad(), pytest.warns(UserWarning, match="do not compute in float64") as record:
        found, expected = fused(x), network(x)
    assert len(record) == 1
    assert (found - expected).abs().max() <= 1e-11 * expected.abs().max()
    fused, x = fused.float(), x.float().requires_grad_()
    with pytest.warns(UserWarning, match="have no gradients"):
        fused(x).sum().backward()
    assert x.grad is not None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fused(x)


@pytest.mark.parametrize("dtype", ROUNDING)
def test_the_kernels_pass_their_trial(dtype: torch.dtype) -> None:
    depthwise._trial(torch.device(DEVICE), dtype)


def test_kernels_that_compute_something_else_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    sound = depthwise.depthwise
    monkeypatch.setattr(depthwise, "depthwise", lambda *args, **kwargs: [x * 1.01 for x in sound(*args, **kwargs)])
    warn_once.cache_clear()
    fault_of.cache_clear()
    network = randomize(NASNet(num_cells=1, num_filters=8, num_classes=5)).to(DEVICE)
    fused, x = optimize_for_inference(network), images(1, 3, 40, 40)
    with torch.no_grad(), pytest.warns(UserWarning, match="failed their trial on .*other numbers") as record:
        found, expected = fused(x), network(x)
    assert len(record) == 1
    assert (found - expected).abs().max() <= 2e-6 * expected.abs().max()
    fault_of.cache_clear()
