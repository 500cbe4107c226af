"""One cell for every genotype: shapes, widths and gradients of any wiring."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn

from nasnet_det.genotypes.genotype import Block, CellGenotype, Genotype
from nasnet_det.models import cpu_kernels
from nasnet_det.models.cells import Cell, States, StateShape, build_combiner
from nasnet_det.models.cpu_library import load_library
from nasnet_det.models.operations import FactorizedReduction, LayerSettings, Scale
from tests.helpers import genotypes

SETTINGS = LayerSettings(partial(nn.BatchNorm2d, eps=1e-3))


@settings(deadline=None, max_examples=60)
@given(genotypes(max_blocks=4), st.booleans(), st.booleans(), st.integers(3, 9), st.integers(3, 9))
def test_any_cell_builds_runs_and_trains_all_it_has(
    genotype: Genotype, reduces: bool, halved: bool, height: int, width: int
) -> None:
    """Any genotype, its previous input at the same size or twice as large: right shapes, no dead parameter."""
    cell_genotype = genotype.reduction if reduces else genotype.normal
    scale = Scale(2 if reduces else 1)
    previous_level = 1 if halved else 2
    inputs = [StateShape(6, 2)] + [StateShape(5, previous_level)] * (genotype.num_inputs - 1)
    cell = Cell(cell_genotype, inputs, 4, scale, SETTINGS, passes_all=genotype.passes_all)
    grow = 2 if halved else 1
    states = [torch.randn(3, 6, height, width)]
    states += [torch.randn(3, 5, height * grow, width * grow) for _ in inputs[1:]]
    outputs = cell(*states)
    assert [tuple(o.shape) for o in outputs] == [
        (3, s.channels, -(-height // scale.stride), -(-width // scale.stride)) for s in cell.out_shapes
    ]
    sum(o.square().sum() for o in outputs).backward()
    read = {s for block in cell_genotype.blocks for s, _ in block.sides} | set(cell_genotype.concat)
    for name, parameter in cell.named_parameters():
        if name.startswith("preprocess.") and int(name.split(".")[1]) not in read:
            continue  # an input that nothing reads
        assert parameter.grad is not None, name


@settings(deadline=None, max_examples=40)
@given(genotypes(max_blocks=3), st.booleans(), st.integers(5, 9), st.integers(0, 2**20))
def test_any_cell_trains_alike_with_and_without_a_compiler(
    genotype: Genotype, reduces: bool, size: int, seed: int
) -> None:
    """With paths dropped, of the same examples, and both as parts of one function and after it."""
    torch.manual_seed(seed)
    cell_genotype, scale = (genotype.reduction, Scale(2)) if reduces else (genotype.normal, Scale())
    # The norm of a map that is nearly constant enlarges any difference.
    assume(not any("norm" in block.combine for block in cell_genotype.blocks))
    shapes = [StateShape(10, 2)] * genotype.num_inputs
    cell = Cell(cell_genotype, shapes, 8, scale, SETTINGS, drop_prob=0.5, passes_all=genotype.passes_all)
    states = [
        torch.randn(4, 10, size, size).contiguous(memory_format=torch.channels_last).requires_grad_() for _ in shapes
    ]
    found = []
    for library in (load_library, lambda source: None):
        torch.manual_seed(seed)
        with mock.patch.object(cpu_kernels, "load_library", library):
            outputs = cell(*states)
            loss = sum((output * torch.randn_like(output)).sum() for output in outputs)
            gradients = torch.autograd.grad(loss, [*states, *cell.parameters()], allow_unused=True)
        found.append([*outputs, *(value for value in gradients if value is not None)])
    largest = max(value.norm() for value in found[1])
    for compiled, plain in zip(*found, strict=True):
        # Weights whose scale a norm removes have gradients that cancel out; all is zero if every path is dropped.
        assert (compiled - plain).norm() <= 1e-4 * (plain.norm() + largest)


@pytest.mark.parametrize("watched", ["left", "left.0", "left.0.bn", "left.1", "left.1.bn", "drop_path", "combine"])
def test_a_hook_sees_what_a_layer_computes(watched: str) -> None:
    """The end of an operation is not part of a convolution's function where a hook would see that."""
    genotype = CellGenotype((Block(0, 0, "sep_conv_3x3", "avg_pool_3x3"),), (1,))
    cell = Cell(genotype, [StateShape(8, 0)], 8, Scale(), SETTINGS, drop_prob=0.5)
    block, drop_path = cell.blocks[0], cell.drop_path
    x = torch.randn(4, 8, 6, 6).contiguous(memory_format=torch.channels_last).requires_grad_()
    torch.manual_seed(0)
    expected = block(States([x]), drop_path)
    seen: list[torch.Tensor] = []
    module = drop_path if watched == "drop_path" else block.get_submodule(watched)
    handle = module.register_forward_hook(lambda *arguments: seen.append(arguments[2]))
    torch.manual_seed(0)
    result = block(States([x]), drop_path)
    torch.testing.assert_close(result, expected)
    assert seen
    handle.remove()
    pooled, convolved = block.right(x), block.left(x)
    torch.manual_seed(0)
    dropped = drop_path(convolved)
    seen_by = {"drop_path": dropped, "combine": dropped + drop_path(pooled)}
    first = dict.fromkeys(("left.0", "left.0.bn"), block.left[0](x))
    torch.testing.assert_close(seen[0], {**seen_by, **first}.get(watched, convolved))


@pytest.mark.parametrize("library", [load_library, lambda source: None])
def test_a_hook_on_a_state_sees_the_gradient_of_all_that_read_it(library: Callable[[Path], Any]) -> None:
    """An identity returns the state itself, which an operation before it and another one after it read as well."""
    blocks = (Block(0, 0, "sep_conv_3x3", "sep_conv_3x3"), Block(0, 0, "identity", "sep_conv_3x3"))
    cell = Cell(CellGenotype(blocks, (2, 3)), [StateShape(8, 0)], 8, Scale(), SETTINGS)
    x = torch.randn(4, 8, 6, 6).contiguous(memory_format=torch.channels_last).requires_grad_()
    seen: list[torch.Tensor] = []

    def watch(module: nn.Module, inputs: Any, output: torch.Tensor) -> None:
        output.register_hook(seen.append)

    cell.get_submodule("blocks.1.left").register_forward_hook(watch)
    with mock.patch.object(cpu_kernels, "load_library", library):
        (output,) = cell.create([x, x])
        (expected,) = torch.autograd.grad(output.square().sum(), x)
    torch.testing.assert_close(seen, [expected])


def test_a_missing_previous_state_is_the_raw_current_one() -> None:
    """TF-slim: ``prev_layer is None`` gives ``curr_layer``, unprojected; concatenated, it is projected without ReLU."""
    genotype = CellGenotype((Block(0, 1, "identity", "identity"),), (1, 2))
    cell = Cell(genotype, [StateShape(6, 0)], 4, Scale(), SETTINGS).eval()
    assert isinstance(cell.preprocess[1], nn.Identity)
    assert isinstance(cell.concat_proj["1"].act, nn.Identity)
    assert cell(torch.randn(1, 6, 5, 5))[0].shape == (1, 8, 5, 5)


def test_concatenated_input_of_a_reduction_is_reduced() -> None:
    """AmoebaNet-C concatenates the current state in its reduction cell."""
    genotype = CellGenotype((Block(0, 1, "max_pool_3x3", "max_pool_3x3"),), (0, 2))
    cell = Cell(genotype, [StateShape(6, 0), StateShape(6, 0)], 4, Scale(2), SETTINGS)
    assert isinstance(cell.concat_proj["0"], FactorizedReduction)
    assert cell(torch.randn(1, 6, 5, 5), torch.randn(1, 6, 5, 5))[0].shape == (1, 8, 3, 3)


@pytest.mark.parametrize(("combine", "channels"), [("add", 4), ("concat", 8), ("add_layer_norm", 4)])
def test_combiners(combine: str, channels: int) -> None:
    genotype = CellGenotype((Block(0, 1, "identity", "identity", combine),), (2,))
    cell = Cell(genotype, [StateShape(4, 0), StateShape(4, 0)], 4, Scale(), SETTINGS)
    (output,) = cell(torch.randn(2, 4, 5, 5), torch.randn(2, 4, 5, 5))
    assert output.shape == (2, channels, 5, 5)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(("combine", "dims"), [("add_layer_norm", (1, 2, 3)), ("add_instance_norm", (2, 3))])
@torch.no_grad()
def test_sums_are_normalized(combine: str, dims: tuple[int, ...], memory_format: torch.memory_format) -> None:
    """To double precision's numbers, also where the mean is far larger than the deviation."""
    module, _ = build_combiner(combine, 4, SETTINGS)
    for mean in (0, 100):
        left, right = (mean + torch.randn(2, 4, 9, 9).contiguous(memory_format=memory_format) for _ in range(2))
        total = left.double() + right.double()
        deviation = (total.var(dims, correction=0, keepdim=True) + 1e-5).sqrt()
        expected = (total - total.mean(dims, keepdim=True)) / deviation
        torch.testing.assert_close(module(left, right).double(), expected, atol=5e-5, rtol=0)


def test_input_two_halvings_away_is_refused() -> None:
    genotype = CellGenotype((Block(0, 1, "identity", "identity"),), (2,))
    with pytest.raises(ValueError, match="2"):
        Cell(genotype, [StateShape(4, 3), StateShape(4, 1)], 4, Scale(), SETTINGS)
