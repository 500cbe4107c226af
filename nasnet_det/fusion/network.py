"""A NASNet whose cells are fused: the same function and interface."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from nasnet_det.fusion.batch_norm import fold
from nasnet_det.fusion.graph import CellGraph, UnsupportedCell, read_cell, warn_once
from nasnet_det.fusion.steps import Relu
from nasnet_det.models.cells import Results
from nasnet_det.models.eager_training import has_hooks
from nasnet_det.models.network import NASNet, Outputs
from nasnet_det.models.plan import CellPlan
from nasnet_det.models.stem import StemConv


class FusedCell(nn.Module):
    """The nodes of a cell's graph, run in order; a value is freed after its last reader.

    An input that the cell reads through ReLU only is expected to have gone through ReLU (``wants_activated``), so that
    cells that read the same output share it.

    Args:
        graph: the cell's graph.
        outputs: the numbers of the values that the cell returns.
    """

    def __init__(self, graph: CellGraph, outputs: Sequence[int]) -> None:
        super().__init__()
        self.num_inputs = graph.num_inputs
        self.wants_activated, replaced_by = _activated_inputs(graph, outputs)
        self.outputs = tuple(replaced_by.get(value, value) for value in outputs)
        self.steps = nn.ModuleList()
        self.reads: list[tuple[int, ...]] = []
        self.results: list[int] = []
        for number, node in enumerate(graph.nodes):
            if node.step is not None and number not in replaced_by:
                self.steps.append(node.step)
                self.reads.append(tuple(replaced_by.get(value, value) for value in node.reads))
                self.results.append(number)
        last = {value: i for i, reads in enumerate(self.reads) for value in reads}
        self.frees = [
            tuple(v for v in set(reads) if last[v] == i and v not in self.outputs) for i, reads in enumerate(self.reads)
        ]

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """See :class:`nasnet_det.models.cells.Cell`; inputs flagged in ``wants_activated`` are passed after ReLU."""
        values = dict(enumerate(inputs))
        for step, reads, result, frees in zip(self.steps, self.reads, self.results, self.frees, strict=True):
            values[result] = step(*[values[value] for value in reads])
            for value in frees:
                del values[value]
        return tuple(values[value] for value in self.outputs)


def _activated_inputs(graph: CellGraph, outputs: Sequence[int]) -> tuple[tuple[bool, ...], dict[int, int]]:
    """Return which inputs are read through ReLU only, and the input that replaces each of those ReLUs."""
    flags, replaced_by = [], {}
    for value in range(graph.num_inputs):
        readers = [number for number, node in enumerate(graph.nodes) if value in node.reads]
        flags.append(value not in outputs and all(isinstance(graph.nodes[n].step, Relu) for n in readers))
        if flags[-1]:
            replaced_by.update(dict.fromkeys(readers, value))
    return tuple(flags), replaced_by


class FusedNASNet(NASNet):
    """A network of fused cells, converted from a :class:`NASNet` by
    :func:`nasnet_det.fusion.optimize_for_inference`."""

    @classmethod
    def convert(cls, network: NASNet) -> None:
        """Turn ``network``, which is in evaluation mode, into a fused one in place."""
        network.__class__ = cls
        network.requires_grad_(False)
        like = next(network.parameters(), torch.empty(0))
        _fold_stem(network.stem)
        for plan in network.plan:
            cell = network.cells[plan.name]
            single_input = plan.previous is None and not network.genotype.passes_all
            try:
                network.cells[plan.name] = FusedCell(*read_cell(cell, like, single_input))
            except UnsupportedCell as reason:
                warn_once(f"optimize_for_inference leaves {plan.name} unchanged: {reason}")

    def train(self, mode: bool = True) -> FusedNASNet:
        """Raise RuntimeError for training mode, since the norms are folded."""
        if mode:
            raise RuntimeError("a network optimized for inference has no training mode; train the original network")
        super().train(False)
        return self

    def _run_cell(self, plan: CellPlan, outputs: Outputs, shared: dict[int, Results], stop: int) -> tuple[Tensor, ...]:
        """Run a cell; the ReLU of an output is computed once, in ``shared``, for all cells that read it."""
        cell = self.cells[plan.name]
        inputs = self._inputs(plan, outputs)
        if not isinstance(cell, FusedCell):
            return cell(*inputs)
        sources = [(plan.current, k) for k in range(len(inputs))]
        if not self.genotype.passes_all and plan.previous is not None:
            sources = [(plan.current, 0), (plan.previous, 0)]
        arguments = list(inputs)
        for k, (number, part) in enumerate(sources):
            if cell.wants_activated[k]:
                activated = shared.setdefault(number, {})
                if part not in activated:
                    activated[part] = self.act(inputs[k])
                arguments[k] = activated[part]
        return cell(*arguments)


def _fold_stem(stem: nn.Module) -> None:
    if type(stem) is not StemConv or has_hooks(stem.conv, stem.bn):
        return
    terms = fold(stem.conv, stem.bn)
    if terms is not None and terms[1] is not None:
        weight, bias = (term.to(stem.conv.weight.dtype) for term in terms if term is not None)
        stem.conv.bias = nn.Parameter(bias, requires_grad=False)
        stem.conv.weight = nn.Parameter(weight, requires_grad=False)
        stem.bn = nn.Identity()
