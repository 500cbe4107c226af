"""ScheduledDropPath: the rule, the schedule, and what it leaves alone."""

from __future__ import annotations

import copy

import pytest
import torch
from torch._functorch.aot_autograd import aot_module
from torch._functorch.compilers import nop

from nasnet_det.models.drop_path import ScheduledDropPath, set_drop_path_progress
from nasnet_det.models.network import NASNet


def test_whole_examples_are_dropped_and_the_rest_scaled() -> None:
    torch.manual_seed(0)
    drop = ScheduledDropPath(0.25)
    y = drop(torch.ones(4000, 3, 2, 2))
    kept = y[:, 0, 0, 0] != 0
    assert torch.equal(y.flatten(1).amin(1), y.flatten(1).amax(1))
    torch.testing.assert_close(y[kept], torch.full_like(y[kept], 1 / 0.75))
    assert abs(kept.float().mean() - 0.75) < 0.03


def test_progress_scales_the_probability() -> None:
    torch.manual_seed(0)
    drop = ScheduledDropPath(0.5)
    set_drop_path_progress(drop, 0.0)
    assert torch.equal(drop(torch.ones(50, 1, 1, 1)), torch.ones(50, 1, 1, 1))
    set_drop_path_progress(drop, 0.5)
    assert abs((drop(torch.ones(4000, 1, 1, 1)) != 0).float().mean() - 0.75) < 0.03
    set_drop_path_progress(drop, 7.0)
    assert drop.progress == 1.0


def test_evaluation_drops_nothing() -> None:
    drop = ScheduledDropPath(0.9).eval()
    x = torch.randn(5, 2, 3, 3)
    assert drop(x) is x


def test_probabilities_rise_with_the_cell_number_and_leave_identities_alone() -> None:
    """layer_ratio = (cell number + 1) / (all cells, reductions and stem cells included)."""
    network = NASNet(num_cells=2, num_filters=8, drop_path_rate=0.3)
    cells = list(network.cells.values())
    assert [cell.drop_path.drop_prob for cell in cells] == pytest.approx([0.3 * (i + 1) / 10 for i in range(10)])
    dropped: list[torch.Tensor] = []
    network.cells["cell_0"].drop_path.register_forward_hook(lambda *arguments: dropped.append(arguments[2]))
    network(torch.randn(2, 3, 32, 32))
    assert len(dropped) == 8  # of ten paths, of which two are identities


def test_progress_is_no_part_of_a_checkpoint() -> None:
    assert not any("progress" in name for name in NASNet(num_cells=1, num_filters=4).state_dict())


def test_no_buffer_has_two_names() -> None:
    """AOTAutograd (timm's ``--aot-autograd``) and ``functional_call`` refuse to be given a tensor under two names."""
    network = NASNet(
        num_cells=(1,), num_filters=4, stem="cifar", num_classes=2, drop_path_rate=0.3, dtype=torch.float64
    )
    compiled, x = aot_module(copy.deepcopy(network), nop), torch.randn(2, 3, 8, 8, dtype=torch.float64)
    gradients = []
    for model in (network, compiled):
        torch.manual_seed(0)
        model(x).square().sum().backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    torch.testing.assert_close(*gradients)


def test_a_probability_of_one_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\[0, 1\)"):
        ScheduledDropPath(1.0)
