"""The network: its wiring, its counts, and what its switches do."""

from __future__ import annotations

import copy
import math
from typing import Any
from unittest import mock

import pytest
import torch
from torch import nn
from torch.nn import functional

from nasnet_det.genotypes.published import PUBLISHED
from nasnet_det.models import cpu_kernels
from nasnet_det.models.cpu_library import load_library
from nasnet_det.models.family import FAMILY
from nasnet_det.models.network import NASNet
from nasnet_det.models.plan import plan_cells, slim_stages
from tests.helpers import randomize

SMALL = {"num_cells": 1, "num_filters": 8, "num_classes": 5}


def cifar_network(**arguments: Any) -> tuple[NASNet, torch.Tensor]:
    """Return a network in training, whose layers are compiled where they can be, and images ``(4, 3, 16, 16)``."""
    network = NASNet(num_cells=2, num_filters=8, num_classes=5, stem="cifar", **arguments)
    last = torch.channels_last
    return network.to(memory_format=last), torch.randn(4, 3, 16, 16).contiguous(memory_format=last)


def count(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def test_parameters_of_the_released_networks() -> None:
    """The counts in the reference facts, and those of the goldens' meta.json."""
    assert count(NASNet(num_cells=4, num_filters=44, device="meta")) == 5_289_978
    large = {"num_cells": 6, "num_filters": 168, "stem_channels": 96, "skip_reduction_layer_input": True}
    assert count(NASNet(**large, device="meta")) == 88_753_150
    cifar = {"stem": "cifar", "num_classes": 10, "bn_eps": 1e-5}
    assert count(NASNet(num_cells=2, num_filters=8, stem_channels=24, **cifar)) == 110_562


def test_the_large_network_skips_the_reductions_input() -> None:
    plan = plan_cells((6, 6, 6), 168, "imagenet", skip_reduction_layer_input=True)
    names = ["stem", *(p.name for p in plan)]
    reads = {p.name: (names[p.current], None if p.previous is None else names[p.previous]) for p in plan}
    assert reads["cell_stem_0"] == ("stem", None)
    assert reads["cell_stem_1"] == ("cell_stem_0", "stem")
    assert reads["cell_0"] == ("cell_stem_1", "cell_stem_0")
    assert reads["reduction_cell_0"] == ("cell_5", "cell_4")
    assert reads["cell_6"] == ("reduction_cell_0", "cell_4")
    assert reads["cell_7"] == ("cell_6", "reduction_cell_0")
    assert [p.filters for p in plan[:3]] == [42, 84, 168]


def test_the_mobile_network_does_not() -> None:
    plan = plan_cells((4, 4, 4), 44)
    names = ["stem", *(p.name for p in plan)]
    reads = {p.name: names[p.previous] for p in plan if p.previous is not None}
    assert reads["cell_4"] == "cell_3"


def test_stages_from_a_total_as_tf_slim_counts_them() -> None:
    assert slim_stages(18) == (6, 6, 6)
    assert slim_stages(12) == (4, 4, 4)
    assert slim_stages(10) == (3, 3, 4)


def test_initialization_is_tf_slims() -> None:
    """Truncated normal, std sqrt(1.3 * 2 / fan_out) before the cut at two of them; a depthwise fan out is its area."""
    torch.manual_seed(0)
    network = NASNet(num_cells=1, num_filters=64)
    cut = 0.8796  # the standard deviation that a unit normal cut at 2 has
    for weight, fan_out in (
        (network.cells["cell_0"].preprocess[0].conv.weight, 64),
        (network.cells["cell_0"].blocks[0].left[0].depthwise.weight, 25),
        (network.fc.weight, 1000),
    ):
        std = math.sqrt(2.6 / fan_out)
        assert weight.std().item() == pytest.approx(cut * std, rel=0.05)
        assert weight.abs().max().item() <= 2 * std
    assert not network.fc.bias.any()


def test_auxiliary_head_only_speaks_in_training() -> None:
    network = NASNet(**SMALL, aux_head=True, img_size=160)
    logits, auxiliary = network(torch.randn(2, 3, 160, 160))
    assert logits.shape == auxiliary.shape == (2, 5)
    auxiliary.sum().backward()
    assert network.cells["cell_0"].preprocess[0].conv.weight.grad is not None
    assert network.cells["cell_2"].preprocess[0].conv.weight.grad is None
    assert network.eval()(torch.randn(2, 3, 160, 160)).shape == (2, 5)
    network.reset_classifier(7)
    assert network.train()(torch.randn(2, 3, 160, 160))[1].shape == (2, 7)
    with pytest.raises(ValueError, match="img_size"):
        network(torch.randn(2, 3, 192, 192))
    with pytest.raises(ValueError, match="5x5"):
        NASNet(**SMALL, aux_head=True, img_size=32)


def test_auxiliary_head_of_the_mobile_golden() -> None:
    """The variables of ``slim_mobile``: 1x1 to 128, 4x4 to 768, linear."""
    head = NASNet(aux_head=True, img_size=224, device="meta").aux_head
    assert head is not None
    assert tuple(head.project.weight.shape) == (128, 528, 1, 1)
    assert tuple(head.whole.weight.shape) == (768, 128, 4, 4)


@pytest.mark.parametrize("output_stride", [2, 4, 8, 16])
def test_a_smaller_output_stride_computes_the_same_places(output_stride: int) -> None:
    """Sizes that stay odd at every halving: the dilated network, sampled, is the strided one."""
    network = randomize(NASNet(**SMALL))
    dilated = randomize(NASNet(**SMALL, output_stride=output_stride))
    dilated.load_state_dict(network.state_dict())
    x = torch.randn(1, 3, 131, 67)
    step = 32 // output_stride
    expected = network.forward_features(x)
    features = dilated.forward_features(x)
    assert expected.shape[-2:] == (5, 3)
    torch.testing.assert_close(features[:, :, ::step, ::step], expected, rtol=1e-3, atol=1e-4)
    assert dilated.feature_info[-1]["reduction"] == output_stride


@pytest.mark.parametrize("size", [(32, 32), (33, 47), (64, 100), (75, 75)])
def test_any_size(size: tuple[int, int]) -> None:
    network = NASNet(**SMALL).eval()
    features = network.forward_features(torch.randn(1, 3, *size))
    # The stem's VALID convolution, then five halvings rounded up.
    sides = tuple(math.ceil((side - 1) // 2 / 16) for side in size)
    assert features.shape == (1, network.num_features, *sides)


def _step(network: NASNet, x: torch.Tensor) -> tuple[list[torch.Tensor], dict[str, torch.Tensor]]:
    torch.manual_seed(1)
    network.zero_grad()
    network(x).square().sum().backward()
    return [p.grad.clone() for p in network.parameters() if p.grad is not None], dict(network.state_dict())


def test_checkpointing_changes_nothing_but_memory() -> None:
    """Equal gradients with paths dropped at random, and batch norm's statistics updated once, not twice."""
    plain = NASNet(**SMALL, drop_path_rate=0.5).double()
    saved = NASNet(**SMALL, drop_path_rate=0.5).double()
    saved.load_state_dict(plain.state_dict())
    saved.set_grad_checkpointing()
    x = torch.randn(3, 3, 64, 64, dtype=torch.float64)
    expected, expected_state = _step(plain, x)
    gradients, state = _step(saved, x)
    torch.testing.assert_close(gradients, expected)
    torch.testing.assert_close(state, expected_state)


@pytest.mark.parametrize("training", [True, False])
def test_training_computes_the_relu_of_an_output_once(training: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    network, inputs, relu = NASNet(num_cells=1, num_filters=8, stem="cifar").train(training), [], functional.relu
    monkeypatch.setattr(functional, "relu", lambda x, inplace=False: inputs.append(x) or relu(x))
    outputs = {0: network.forward_stem(torch.randn(2, 3, 16, 16))}
    kept = [network._joined(outputs, number) for number, _ in network.run_cells(outputs, 0, len(network.plan))]
    places = [x.data_ptr() for x in inputs]
    # The second cell's is read by two cells; of the others one of two reads a part only, before its ReLU.
    assert [places.count(output.data_ptr()) for output in kept[:3]] == ([1, 1, 1] if training else [1, 2, 1])


def test_a_hook_on_an_activation_is_run_in_training() -> None:
    network, seen = NASNet(num_cells=1, num_filters=8, stem="cifar").train(), []
    network.cells["cell_1"].preprocess[0].act.register_forward_hook(lambda *arguments: seen.append(arguments[2]))
    network(torch.randn(2, 3, 16, 16))
    assert len(seen) == 1 and seen[0].min() == 0


def test_a_network_trains_alike_with_and_without_a_compiler() -> None:
    """Projections of an output that are computed as one are as near to float64 as PyTorch's.

    A ReLU may pass a value that is 0 up to rounding in one of them only: not every network tells.
    """
    assert any(_trains_as_near_to_float64(seed) for seed in range(3))


def _trains_as_near_to_float64(seed: int) -> bool:
    torch.manual_seed(seed)
    network, found = cifar_network()[0], []
    x = torch.randn(8, 3, 24, 24).contiguous(memory_format=torch.channels_last)
    for library, dtype in ((load_library, torch.float64), (load_library, torch.float32), (None, torch.float32)):
        model = copy.deepcopy(network).to(dtype)
        with mock.patch.object(cpu_kernels, "load_library", library or (lambda source: None)):
            logits = model(x.to(dtype))
            functional.cross_entropy(logits, torch.arange(8) % 5).backward()
        values = [logits, *(p.grad for p in model.parameters()), *model.buffers()]
        found.append([value.double() for value in values])
    return all(
        (compiled - exact).norm() <= 10 * (plain - exact).norm() + 1e-5 * exact.norm()
        for exact, compiled, plain in zip(*found, strict=True)
    )


@pytest.mark.parametrize("hooked", [None, "cell_2", "cell_2.preprocess.1", "cell_2.preprocess.1.bn", "cell_1.concat"])
def test_hooks_of_cells_see_their_inputs(hooked: str | None) -> None:
    """A cell whose input a hook may change computes its own projections."""
    network, x, seen = *cifar_network(), []
    expected = network(x)
    if hooked is not None:
        network.cells.get_submodule(hooked).register_forward_pre_hook(lambda module, given: seen.append(given))
    torch.testing.assert_close(network(x), expected)
    assert len(seen) == (hooked is not None)


@pytest.mark.parametrize("training", [True, False])
def test_features_and_auxiliary_heads_see_whole_outputs(training: bool) -> None:
    """States that compiled functions of all later cells read are concatenated for these two only."""
    network, x, results = *cifar_network(aux_head=True, img_size=16), []
    network.train(training)
    for model, images in ((network, x), (copy.deepcopy(network).double(), x.double())):
        logits = model(images)
        results.append([*logits, *model.forward_intermediates(images)[1]] if training else [logits])
    for ours, exact in zip(*results, strict=True):
        assert (ours.double() - exact).norm() < 1e-5 * exact.norm()


def test_cells_that_are_not_run_do_not_see_a_batch() -> None:
    network, x = cifar_network()
    for stop in range(1, len(network.plan) + 1):
        list(network.run_cells({0: network.forward_stem(x)}, 0, stop))
        for plan in network.plan:
            buffers = network.cells[plan.name].named_buffers()
            seen = {int(value) for name, value in buffers if name.endswith("num_batches_tracked")}
            assert seen == {max(0, stop - plan.current)}


def test_all_states_can_be_passed_on() -> None:
    """The paper's NASNet-B way of joining cells, with some wiring (the published one is not known in text)."""
    cell = {
        "blocks": [
            [0, 1, "sep_conv_3x3", "identity", "add"],
            [2, 3, "max_pool_3x3", "sep_conv_3x3", "concat"],
            [4, 0, "avg_pool_3x3", "conv_1x1", "add_layer_norm"],
            [5, 1, "identity", "conv_3x3", "add_instance_norm"],
        ],
        "concat": [4, 5, 6, 7],
    }
    genotype = {"passes_all": True, "normal": cell, "reduction": cell}
    network = NASNet(genotype, **SMALL)
    assert network.num_features == (8 + 16 + 8 + 8) * 4
    network(torch.randn(2, 3, 64, 64)).sum().backward()
    assert all(p.grad is not None for name, p in network.named_parameters() if not name.startswith("stem"))


@pytest.mark.parametrize("name", sorted({*PUBLISHED} - {variant.genotype for variant in FAMILY.values()}))
def test_published_cells_of_no_registered_model_train(name: str) -> None:
    network = NASNet(name, **SMALL)
    network(torch.randn(2, 3, 64, 64)).square().sum().backward()
    dead = [n for n, p in network.named_parameters() if p.grad is None]
    assert not dead


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"num_cells": 0}, "num_cells"),
        ({"num_cells": (2, -1)}, "num_cells.*-1"),
        ({"num_cells": 10**6}, "num_cells.*1000000"),
        ({"num_cells": 1.5}, "num_cells.*1.5"),
        ({"num_filters": 3}, "num_filters"),
        ({"num_filters": 10**6}, "num_filters.*1000000"),
        ({"stem": "mnist"}, "'imagenet' or 'cifar'"),
        ({"output_stride": 64}, r"\[2, 4, 8, 16, 32\]"),
        ({"num_classes": -1}, "num_classes.*-1"),
        ({"num_classes": [3]}, "num_classes"),
        ({"in_chans": 0}, "in_chans"),
        ({"stem_channels": 1.5}, "stem_channels"),
        ({"norm_layer": "batchnorm9d"}, "norm_layer.*batchnorm9d"),
        ({"norm_layer": ""}, "norm_layer"),
    ],
)
def test_impossible_arguments_are_refused(arguments: dict, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        NASNet(**{**SMALL, **arguments})
