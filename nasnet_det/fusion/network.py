"""A network whose cells are fused: the same function of the same inputs, with the same interface."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from nasnet_det.fusion import depthwise
from nasnet_det.fusion.fallback import warn_once
from nasnet_det.fusion.fold import folded
from nasnet_det.fusion.graph import CannotFuse, Graph, read_cell
from nasnet_det.fusion.schedule import schedule
from nasnet_det.fusion.steps import Relu
from nasnet_det.models.network import NASNet
from nasnet_det.models.stem import StemConv


class FusedCell(nn.Module):
    """The steps of a cell's graph, one after the other; what nothing reads any more is freed at once.

    An input that the cell reads only through ReLU is expected activated (``wants_activated``), so that cells which read
    the same output share it.
    """

    def __init__(self, graph: Graph, outputs: Sequence[int]) -> None:
        super().__init__()
        self.num_inputs = graph.num_inputs
        self.wants_activated, stands_for = _only_activated(graph, outputs)
        self.outputs = tuple(stands_for.get(value, value) for value in outputs)
        self.steps = nn.ModuleList()
        self.reads: list[tuple[int, ...]] = []
        self.makes: list[int] = []
        for number, node in enumerate(graph.nodes):
            if node.step is not None and number not in stands_for:
                self.steps.append(node.step)
                self.reads.append(tuple(stands_for.get(value, value) for value in node.reads))
                self.makes.append(number)
        last = {value: i for i, reads in enumerate(self.reads) for value in reads}
        self.drops = [
            tuple(v for v in set(reads) if last[v] == i and v not in self.outputs) for i, reads in enumerate(self.reads)
        ]
        #: The same in another order, for a GPU.
        self.tasks = schedule(list(self.steps), self.reads, self.makes, self.outputs)

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """The contract of :class:`nasnet_det.models.cells.Cell`, with inputs activated where ``wants_activated``."""
        values = dict(enumerate(inputs))
        if self.tasks and depthwise.is_covered(inputs[0]):
            for task in self.tasks:
                task.run(values)
            return tuple(values[value] for value in self.outputs)
        for step, reads, makes, drops in zip(self.steps, self.reads, self.makes, self.drops, strict=True):
            values[makes] = step(*[values[value] for value in reads])
            for value in drops:
                del values[value]
        return tuple(values[value] for value in self.outputs)


def _only_activated(graph: Graph, outputs: Sequence[int]) -> tuple[tuple[bool, ...], dict[int, int]]:
    """Which inputs are read through ReLU alone, and the numbers of those ReLUs with the input of each."""
    flags, relus = [], {}
    for value in range(graph.num_inputs):
        readers = [number for number, node in enumerate(graph.nodes) if value in node.reads]
        flags.append(value not in outputs and all(isinstance(graph.nodes[n].step, Relu) for n in readers))
        if flags[-1]:
            relus.update(dict.fromkeys(readers, value))
    return tuple(flags), relus


class FusedNASNet(NASNet):
    """A network of fused cells. Made by :func:`nasnet_det.fusion.optimize_for_inference` from a :class:`NASNet`."""

    @classmethod
    def take_over(cls, network: NASNet) -> None:
        """Turn ``network``, in evaluation, into a fused one."""
        network.__class__ = cls
        network.requires_grad_(False)
        like = next(network.parameters(), torch.empty(0))
        _fold_stem(network.stem)
        for plan in network.plan:
            if plan.name not in network.cells:
                continue  # a half of a detector has not all of them
            cell = network.cells[plan.name]
            alone = plan.previous is None and not network.genotype.passes_all
            try:
                network.cells[plan.name] = FusedCell(*read_cell(cell, like, alone))
            except CannotFuse as reason:
                warn_once(f"optimize_for_inference leaves {plan.name} as it is: {reason}")

    def train(self, mode: bool = True) -> FusedNASNet:
        """Raises RuntimeError for training: its norms are gone."""
        if mode:
            raise RuntimeError("a network optimized for inference cannot be trained; train the one it was made from")
        super().train(False)
        return self

    def run_cells(
        self, outputs: dict[int, tuple[Tensor, ...]], start: int, stop: int
    ) -> Iterator[tuple[int, tuple[Tensor, ...]]]:
        """See :meth:`NASNet.run_cells`; ReLU of an output is computed once for all the cells that read it."""
        activated: dict[tuple[int, int], Tensor] = {}
        for i in range(start, stop):
            outputs[i + 1] = self._run_fused(i, outputs, activated)
            for number in [n for n in outputs if n <= i and not self._is_read(n, after=i)]:
                for key in [key for key in activated if key[0] == number]:
                    del activated[key]
                del outputs[number]
            yield i + 1, outputs[i + 1]

    def _run_fused(
        self, i: int, outputs: dict[int, tuple[Tensor, ...]], activated: dict[tuple[int, int], Tensor]
    ) -> tuple[Tensor, ...]:
        plan = self.plan[i]
        cell = self.cells[plan.name]
        inputs = self._inputs(plan, outputs)
        if not isinstance(cell, FusedCell):
            return cell(*inputs)
        sources = [(plan.current, k) for k in range(len(inputs))]
        if not self.genotype.passes_all and plan.previous is not None:
            sources = [(plan.current, 0), (plan.previous, 0)]
        given = list(inputs)
        for k, source in enumerate(sources):
            if cell.wants_activated[k]:
                if source not in activated:
                    activated[source] = self.act(inputs[k])
                given[k] = activated[source]
        return cell(*given)


def _fold_stem(stem: nn.Module) -> None:
    if type(stem) is not StemConv:
        return
    terms = folded(stem.conv, stem.bn)
    if terms is not None and terms[1] is not None:
        weight, bias = (term.to(stem.conv.weight.dtype) for term in terms if term is not None)
        stem.conv.bias = nn.Parameter(bias, requires_grad=False)
        stem.conv.weight = nn.Parameter(weight, requires_grad=False)
        stem.bn = nn.Identity()
