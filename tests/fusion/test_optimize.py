"""The fused network is the same function: for any genotype, size, norm, stride limit and part of the network.

In double precision the two agree to rounding, which no missing or wrong term survives. In float32 the logits of
published cells agree to 2e-6, and any genotype is as near to double precision as the plain network is.
"""

from __future__ import annotations

import copy
import warnings
from functools import partial

import pytest
import timm
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d

from nasnet_det.fusion import optimize_for_inference
from nasnet_det.fusion.graph import warn_once
from nasnet_det.fusion.network import FusedCell
from nasnet_det.fusion.steps import Combination, ContiguousNorm, Convolution, Relu
from nasnet_det.genotypes.genotype import OPERATIONS, Genotype
from nasnet_det.genotypes.published import PUBLISHED
from nasnet_det.models import operations
from nasnet_det.models.network import NASNet
from nasnet_det.models.operations import register_operation
from nasnet_det.models.padding import AvgPool2dSame
from tests.helpers import genotypes, randomize

SMALL = {"num_cells": 1, "num_filters": 8, "num_classes": 5}
TWO_STAGES = {**SMALL, "num_cells": (1, 1), "stem": "cifar"}


def difference(fused: Tensor, plain: Tensor) -> float:
    """Return the largest difference relative to the largest value, or to 1e-3 where all values are rounding."""
    return ((fused - plain).abs().max() / plain.abs().max().clamp_min(1e-3)).item()


@torch.no_grad()
def check(network: NASNet, x: Tensor, tolerance: float = 1e-11) -> NASNet:
    """In double precision: the logits, the last map and every tap of the fused network, which is returned."""
    network = network.double()
    fused = optimize_for_inference(network)
    x = x.double()
    assert difference(fused(x), network(x)) < tolerance
    last, maps = network.forward_intermediates(x)
    fused_last, fused_maps = fused.forward_intermediates(x)
    for got, expected in zip([fused_last, *fused_maps], [last, *maps], strict=True):
        assert difference(got, expected) < tolerance
    return fused


@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
@given(genotypes(max_blocks=4), st.sampled_from([(32, 32), (33, 50), (47, 39)]), st.sampled_from([None, 4, 16]))
def test_any_genotype(genotype: Genotype, size: tuple[int, int], output_stride: int | None) -> None:
    """Any operations, combiners and joined states, passed on one by one or joined, at odd and even sizes."""
    network = randomize(NASNet(genotype, num_cells=(1, 1), num_filters=8, num_classes=3, output_stride=output_stride))
    # A normalization over a map of one pixel divides rounding by rounding; its epsilon bounds the result.
    for module in network.modules():
        if isinstance(module, nn.GroupNorm):
            module.eps = 0.1
    check(network, torch.randn(2, 3, *size), tolerance=1e-9)


@settings(max_examples=10, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(genotypes(max_blocks=3), st.sampled_from([(16, 16), (19, 25)]))
@torch.no_grad()
def test_float32_is_as_accurate_as_the_plain_network(genotype: Genotype, size: tuple[int, int]) -> None:
    """``benchmarks/fusion_accuracy.py`` measures this over thousands of genotypes."""
    network = randomize(NASNet(genotype, **TWO_STAGES))
    fused, x = optimize_for_inference(network), torch.randn(2, 3, *size)
    exact = copy.deepcopy(network).double().forward_features(x.double())
    plain_error = difference(network.forward_features(x).double(), exact)
    assert difference(fused.forward_features(x).double(), exact) < 2 * plain_error + 1e-6


@pytest.mark.parametrize("norm", [nn.GroupNorm(1, 8), nn.BatchNorm2d(8, track_running_stats=False)])
@torch.no_grad()
def test_norms_that_stay_are_accurate_in_channels_last(norm: nn.Module) -> None:
    """At a mean of a hundred deviations, where PyTorch's kernels for channels_last err by up to 1e-3."""
    x = (100 + torch.randn(1, 8, 16, 16)).contiguous(memory_format=torch.channels_last)
    exact = copy.deepcopy(norm).double()(x.double().contiguous())
    assert difference(ContiguousNorm(norm)(x).double(), exact) < 5e-6


@pytest.mark.parametrize("name", PUBLISHED)
@torch.no_grad()
def test_published_cells(name: str) -> None:
    # Of a few classes, all logits may be small beside what rounding leaves.
    network = randomize(NASNet(name, **{**SMALL, "num_classes": 100}))
    fused, x = optimize_for_inference(network), torch.randn(2, 3, 75, 64)
    assert difference(fused(x), network(x)) < 2e-6
    assert all(isinstance(cell, FusedCell) for cell in fused.cells.values())
    assert not any(isinstance(module, nn.BatchNorm2d) for module in fused.modules())
    check(network, x)


@pytest.mark.parametrize("stem", ["imagenet", "cifar"])
@pytest.mark.parametrize("output_stride", [2, 8])
def test_stems_and_limited_strides(stem: str, output_stride: int) -> None:
    network = randomize(NASNet(**SMALL, stem=stem, output_stride=output_stride if stem == "imagenet" else 2))
    check(network, torch.randn(1, 3, 45, 38))


@torch.no_grad()
def test_released_network_in_float32() -> None:
    """The paper's mobile network, at its own size."""
    torch.manual_seed(0)
    network = randomize(timm.create_model("nasnet_a_mobile"))
    fused, x = optimize_for_inference(network), torch.randn(1, 3, 224, 224)
    features, fused_features = network.forward_features(x), fused.forward_features(x)
    assert difference(fused_features, features) < 3e-6
    assert difference(fused.forward_head(fused_features), network.forward_head(features)) < 2e-6


@pytest.mark.parametrize(
    "norm", [FrozenBatchNorm2d, nn.SyncBatchNorm, partial(nn.BatchNorm2d, affine=False), nn.BatchNorm2d]
)
def test_kinds_of_batch_norm_are_folded(norm: type[nn.Module]) -> None:
    network = NASNet(**SMALL, norm_layer=norm)
    for name, buffer in [*network.named_buffers(), *network.named_parameters()]:
        if ".bn." in name and buffer.is_floating_point():
            nn.init.uniform_(buffer, 0.5, 1.5)
    fused = check(network.eval(), torch.randn(1, 3, 40, 40))
    assert not any(".bn" in name for name, module in fused.named_modules() if not isinstance(module, nn.Identity))


@pytest.mark.parametrize("norm", [partial(nn.GroupNorm, 1), partial(nn.BatchNorm2d, track_running_stats=False)])
def test_other_norms_stay(norm: type[nn.Module]) -> None:
    """They depend on their input and are not folded; the rest is fused."""
    network = NASNet(**SMALL, norm_layer=norm).eval()
    fused = check(network, torch.randn(2, 3, 64, 64), tolerance=1e-9)
    norms = [m for m in fused.modules() if isinstance(m, (nn.GroupNorm, nn.BatchNorm2d))]
    assert norms and all(isinstance(cell, FusedCell) for cell in fused.cells.values())


def test_what_is_shared() -> None:
    """The released normal cell has one pool for each pooled state, no ReLU (its inputs are activated already) and one
    product for each pair of pointwise convolutions."""
    fused = optimize_for_inference(NASNet(num_cells=2, num_filters=8))
    cell = fused.cells["cell_1"]
    kinds = [type(step) for step in cell.steps]
    assert kinds.count(AvgPool2dSame) == 2
    assert kinds.count(Convolution) == 10
    assert kinds.count(Relu) == 2
    products = [step.products for step in cell.steps if isinstance(step, Combination)]
    assert products.count(2) == 2
    assert cell.wants_activated == (True, True)


@torch.no_grad()
def test_half_a_network() -> None:
    """A detector's two stages: the cells below and above a cut, from outputs that are not activated."""
    network = randomize(NASNet(**SMALL)).double()
    fused, x = optimize_for_inference(network), torch.randn(1, 3, 64, 64).double()

    def halves(network: NASNet) -> tuple[dict[int, tuple[Tensor, ...]], Tensor]:
        outputs, kept = {0: network.forward_stem(x)}, {}
        for number, states in network.run_cells(outputs, 0, network.cut()):
            kept[number] = states
        *_, (_, last) = network.run_cells(dict(kept), network.cut(), len(network.plan))
        return kept, last[0]

    (lower, upper), (fused_lower, fused_upper) = halves(network), halves(fused)
    assert lower.keys() == fused_lower.keys()
    for number, states in lower.items():
        assert states[0].min() < 0
        assert difference(fused_lower[number][0], states[0]) < 1e-11
    assert difference(fused_upper, upper) < 1e-11


@torch.no_grad()
def test_a_pruned_network() -> None:
    network = randomize(NASNet(**SMALL)).double()
    network.prune_intermediate_layers([3])
    x = torch.randn(1, 3, 64, 64).double()
    states = (one.run_cells({0: one.forward_stem(x)}, 0, 5) for one in (optimize_for_inference(network), network))
    for (_, got), (_, expected) in zip(*states, strict=True):
        assert difference(got[0], expected[0]) < 1e-11


@torch.no_grad()
def test_features_of_timm() -> None:
    network = randomize(timm.create_model("nasnet", features_only=True, num_cells=1, num_filters=8)).double()
    fused, x = optimize_for_inference(network), torch.randn(1, 3, 70, 64).double()
    for got, expected in zip(fused(x), network(x), strict=True):
        assert difference(got, expected) < 1e-11
    assert fused.feature_info.channels() == network.feature_info.channels()


def test_original_is_unchanged() -> None:
    network = randomize(NASNet(**SMALL)).train()
    before = copy.deepcopy(network.state_dict())
    fused = optimize_for_inference(network)
    assert network.training and not fused.training
    assert all(p.requires_grad for p in network.parameters())
    torch.testing.assert_close(network.state_dict(), before)
    assert type(network) is NASNet and isinstance(fused, NASNet)


def test_misuse_is_refused() -> None:
    fused = optimize_for_inference(NASNet(**SMALL))
    fused.eval()
    with pytest.raises(RuntimeError):
        fused.train()
    with pytest.raises(ValueError):
        optimize_for_inference(fused)
    with pytest.raises(ValueError, match="Linear"):
        optimize_for_inference(nn.Linear(1, 1))


def test_unknown_operation_is_kept_with_one_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    warn_once.cache_clear()
    monkeypatch.setattr(operations, "_BUILDERS", dict(operations._BUILDERS))
    register_operation(
        "swish_conv",
        "SiLU, then a convolution",
        lambda i, o, settings, scale: nn.Sequential(nn.SiLU(), nn.Conv2d(i, o, 1, scale.stride)),
    )
    try:
        cell = {"blocks": [[0, 1, "swish_conv", "sep_conv_3x3", "add"]], "concat": [2]}
        network = randomize(NASNet({"normal": cell, "reduction": cell}, **SMALL))
        with pytest.warns(UserWarning, match="SiLU") as record:
            check(network, torch.randn(1, 3, 64, 64))
        assert len(record) == 2  # SiLU and Conv2d, not once a cell
    finally:
        del OPERATIONS["swish_conv"]


def test_a_factorized_reduction_keeps_an_unknown_convolution() -> None:
    warn_once.cache_clear()
    network = randomize(NASNet(**TWO_STAGES))
    reduction = network.cells["cell_1"].preprocess[1]
    reduction.path1 = nn.Sequential(nn.SiLU(), reduction.path1)
    with pytest.warns(UserWarning, match="Sequential"):
        check(network, torch.randn(1, 3, 32, 32))


def test_cell_with_hooks_is_kept() -> None:
    warn_once.cache_clear()
    network, seen = randomize(NASNet(**SMALL)), []
    network.cells["cell_0"].blocks[0].register_forward_hook(lambda module, inputs, output: seen.append(output))
    with pytest.warns(UserWarning, match="cell_0"):
        check(network, torch.randn(1, 3, 64, 64))
    assert len(seen) == 4  # the network's two passes and the fused network's


def test_a_forward_that_was_put_on_a_module_is_called() -> None:
    warn_once.cache_clear()
    network = randomize(NASNet(**SMALL))
    for module in (network.cells["cell_0"].blocks[0].left[0].depthwise, network.stem.bn):
        module.forward = partial(lambda forward, x: 2 * forward(x), module.forward)
    with pytest.warns(UserWarning, match="cell_0"):
        check(network, torch.randn(1, 3, 64, 64))


def test_known_modules_give_no_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_once.cache_clear()
        for name in PUBLISHED:
            optimize_for_inference(NASNet(name, **SMALL))


@pytest.mark.parametrize("first", ["convert", "optimize"])
@torch.no_grad()
def test_bfloat16(first: str) -> None:
    """Either order; as near to the float32 network as the plain one in bfloat16 is, within a factor."""
    network, x = randomize(NASNet(**SMALL)), torch.randn(2, 3, 64, 64)
    expected, plain = network.forward_features(x), copy.deepcopy(network).bfloat16()
    fused = optimize_for_inference(plain) if first == "convert" else optimize_for_inference(network).bfloat16()
    got = fused.forward_features(x.bfloat16())
    assert got.dtype == torch.bfloat16
    assert difference(got.float(), expected) < 2 * difference(plain.forward_features(x.bfloat16()).float(), expected)


def test_export_with_dynamic_shapes() -> None:
    network = randomize(NASNet(**TWO_STAGES)).double()
    fused = optimize_for_inference(network)
    batch, height, width = (torch.export.Dim(name, min=low, max=512) for name, low in (("n", 1), ("h", 64), ("w", 64)))
    program = torch.export.export(
        fused, (torch.randn(2, 3, 96, 80).double(),), dynamic_shapes=({0: batch, 2: height, 3: width},)
    )
    for size in ((1, 3, 64, 64), (3, 3, 101, 75)):
        x = torch.randn(size).double()
        with torch.no_grad():
            assert difference(program.module()(x), network(x)) < 1e-11


def test_compiles_whole() -> None:
    network = randomize(NASNet(**TWO_STAGES)).double()
    compiled = torch.compile(optimize_for_inference(network), fullgraph=True, backend="eager")
    for size in ((64, 64), (75, 64)):
        x = torch.randn(1, 3, *size).double()
        with torch.no_grad():
            assert difference(compiled(x), network(x)) < 1e-11
