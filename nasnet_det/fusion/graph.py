"""What a cell computes, as a graph of steps: read off the cell's modules, with nothing computed twice.

Equal steps on equal values are one step (ReLU, pools, subsampling). Norms are folded. What adds up to a state is kept
as a :class:`Sum` until the state is needed, so that the pointwise convolutions on both sides of a block become one
product. A module that is not known here stays as it is, as a step of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from nasnet_det.fusion.fallback import warn_once
from nasnet_det.fusion.fold import folded, scale_and_shift
from nasnet_det.fusion.steps import Combination, Convolution, Join, Relu, Subsample
from nasnet_det.models.cells import Add, AddNorm, Cell, CellBlock, Concat
from nasnet_det.models.drop_path import ScheduledDropPath
from nasnet_det.models.operations import ConvNorm, FactorizedReduction, SeparableConvNorm
from nasnet_det.models.padding import AvgPool2dSame, Conv2dSame, MaxPool2dSame


class CannotFuse(Exception):
    """A cell that is wired in a way unknown here: it runs as it is."""


@dataclass
class Node:
    """One step: a module and the numbers of the values that it reads. The value it makes has its own number."""

    step: nn.Module | None
    reads: tuple[int, ...]


@dataclass
class Sum:
    """A state not computed yet: pointwise convolutions of values, multiples of values, and a bias."""

    products: list[tuple[int, Tensor]] = field(default_factory=list)
    multiples: dict[int, float] = field(default_factory=dict)
    bias: Tensor | None = None

    @classmethod
    def of(cls, value: int) -> Sum:
        """A value as it is."""
        return cls(multiples={value: 1.0})

    def scaled(self, scale: Tensor, shift: Tensor) -> Sum:
        """A sum of products, times ``scale`` plus ``shift`` per channel."""
        if self.multiples:
            raise ValueError("only products take a scale per channel")
        bias = shift if self.bias is None else self.bias * scale + shift
        return Sum([(value, weight * scale[:, None]) for value, weight in self.products], bias=bias)

    def __add__(self, other: Sum) -> Sum:
        multiples = dict(self.multiples)
        for value, factor in other.multiples.items():
            multiples[value] = multiples.get(value, 0.0) + factor
        biases = [bias for bias in (self.bias, other.bias) if bias is not None]
        return Sum([*self.products, *other.products], multiples, sum(biases[1:], biases[0]) if biases else None)


class Graph:
    """The steps of one cell, in an order in which they can run. Values 0, 1, ... are the cell's inputs."""

    def __init__(self, num_inputs: int) -> None:
        self.nodes = [Node(None, ()) for _ in range(num_inputs)]
        self.num_inputs = num_inputs
        self._made: dict[Hashable, int] = {}

    def add(self, step: nn.Module, *reads: int, same: Hashable = None) -> int:
        """The number of what ``step`` makes; an equal step on the same values is not added again.

        Args:
            same: equal for steps that compute the same; None if there is no such step.
        """
        key = (same, reads)
        if same is not None and key in self._made:
            return self._made[key]
        self.nodes.append(Node(step, reads))
        number = len(self.nodes) - 1
        if same is not None:
            self._made[key] = number
        return number

    def relu(self, value: int) -> int:
        """ReLU of a value, made once."""
        return self.add(Relu(), value, same="relu")

    def subsample(self, value: int, stride: int, positions: int = 0) -> int:
        """Every ``stride``-th place of a value, made once."""
        return (
            value
            if stride == 1 and positions == 0
            else self.add(Subsample(stride, positions), value, same=(stride, positions))
        )

    def settle(self, state: Sum, like: Tensor) -> int:
        """The number of the value of a sum."""
        if not state.products and state.bias is None and list(state.multiples.values()) == [1.0]:
            return next(iter(state.multiples))
        weights = [weight for _, weight in state.products]
        step = Combination(weights, list(state.multiples.values()), state.bias, like)
        return self.add(step, *(value for value, _ in state.products), *state.multiples)

    def merge_relus(self, outputs: Sequence[int]) -> tuple[int, ...]:
        """Let a step that can do so apply the ReLU which alone reads what it makes; renumbers, and gives the outputs'
        new numbers. Steps that nothing reads are dropped."""
        readers: dict[int, list[int]] = {number: [] for number in range(len(self.nodes))}
        for number, node in enumerate(self.nodes):
            for value in set(node.reads):
                readers[value].append(number)
        stands_for = list(range(len(self.nodes)))
        for number, node in enumerate(self.nodes):
            maker = self.nodes[node.reads[0]].step if node.reads else None
            if isinstance(node.step, Relu) and isinstance(maker, (Combination, Convolution)):
                value = node.reads[0]
                if readers[value] == [number] and value not in outputs:
                    maker.relu = True
                    stands_for[number] = value
        return self._renumber(stands_for, [stands_for[value] for value in outputs])

    def _renumber(self, stands_for: Sequence[int], outputs: Sequence[int]) -> tuple[int, ...]:
        reads = [tuple(stands_for[value] for value in node.reads) for node in self.nodes]
        needed = set(outputs)
        for number in reversed(range(len(self.nodes))):
            if number in needed:
                needed.update(reads[number])
        keep = [n for n in range(len(self.nodes)) if n < self.num_inputs or n in needed]
        new = {old: number for number, old in enumerate(keep)}
        self.nodes = [Node(self.nodes[n].step, tuple(new[value] for value in reads[n])) for n in keep]
        return tuple(new[value] for value in outputs)


def read_cell(cell: nn.Module, like: Tensor, alone: bool = False) -> tuple[Graph, tuple[int, ...]]:
    """The graph of a cell in evaluation, and the numbers of the values that it returns.

    Args:
        like: a tensor of the model's type.
        alone: whether the current state is all that the cell is given, as the first of a network is.

    Raises:
        CannotFuse: if the cell is not what ``cells.py`` builds.
    """
    if type(cell) is not Cell:
        raise CannotFuse(f"how {type(cell).__name__} is wired is unknown")
    if any(module._forward_hooks or module._forward_pre_hooks for module in cell.modules()):
        raise CannotFuse("it has hooks, which a fused cell would not call")
    reader = _Reader(cell, like, 1 if alone else len(cell.preprocess))
    outputs = reader.outputs()
    return reader.graph, reader.graph.merge_relus(outputs)


class _Reader:
    """Reads one cell into a graph. A state is made when it is first read."""

    def __init__(self, cell: Cell, like: Tensor, num_inputs: int) -> None:
        self.cell, self.like = cell, like
        self.graph = Graph(num_inputs)
        self.settled: dict[int, int] = {}

    def outputs(self) -> tuple[int, ...]:
        """The values that the cell returns."""
        concat = []
        for state in self.cell.genotype.concat:
            value = self.state(state)
            if str(state) in self.cell.concat_proj:
                value = self.settle(self.read(self.cell.concat_proj[str(state)], value))
            concat.append(value)
        return tuple(concat) if self.cell.passes_all else (self.join(concat),)

    def state(self, number: int) -> int:
        """The value of one of the cell's states."""
        if number not in self.settled:
            preprocess = len(self.cell.preprocess)
            if number < preprocess:
                # Without a previous state the current one, unprojected, takes its place.
                made = self.read(self.cell.preprocess[number], number if number < self.graph.num_inputs else 0)
            else:
                made = self.block(self.cell.blocks[number - preprocess])
            self.settled[number] = self.settle(made)
        return self.settled[number]

    def block(self, block: nn.Module) -> Sum:
        """What a block makes of the states that it reads."""
        if type(block) is not CellBlock:
            raise CannotFuse(f"{type(block).__name__} is no block of a cell")
        for drop in (block.left_drop, block.right_drop):
            if type(drop) not in (ScheduledDropPath, nn.Identity):
                raise CannotFuse(f"what {type(drop).__name__} does to its paths is unknown")
        left = self.read(block.left, self.state(block.genotype.left))
        right = self.read(block.right, self.state(block.genotype.right))
        combine = block.combine
        if type(combine) is Add:
            return left + right
        if type(combine) is AddNorm:
            return self.step(combine.norm, self.settle(left + right))
        if type(combine) is Concat:
            return Sum.of(self.join([self.settle(left), self.settle(right)]))
        return self.unknown(combine, self.settle(left), self.settle(right))

    def read(self, module: nn.Module, value: int) -> Sum:
        """What a module makes of a value."""
        reading = _READINGS.get(type(module))
        return reading(self, module, value) if reading else self.unknown(module, value)

    def settle(self, made: Sum) -> int:
        return self.graph.settle(made, self.like)

    def step(self, module: nn.Module, *values: int) -> Sum:
        return Sum.of(self.graph.add(module, *values))

    def unknown(self, module: nn.Module, *values: int) -> Sum:
        warn_once(f"optimize_for_inference does not know {type(module).__name__}: it runs as it is")
        return self.step(module, *values)

    def join(self, values: Sequence[int]) -> int:
        return values[0] if len(values) == 1 else self.graph.add(Join(), *values, same="join")

    def activated(self, activation: nn.Module, value: int) -> int:
        if type(activation) is nn.ReLU:
            return self.graph.relu(value)
        return value if type(activation) is nn.Identity else self.settle(self.unknown(activation, value))

    def convolved(self, conv: nn.Conv2d, norm: nn.Module, value: int) -> Sum:
        """A convolution and its norm: a product if it is pointwise, else a step; the norm a step of its own if it
        cannot be folded."""
        if type(conv) is not Conv2dSame:
            return self.step(norm, self.settle(self.unknown(conv, value)))
        terms = folded(conv, norm)
        weight, bias = terms or (conv.weight.detach().double(), None)
        if conv.kernel_size == (1, 1) and conv.groups == 1:
            made = Sum([(self.graph.subsample(value, conv.stride[0]), weight[:, :, 0, 0])], bias=bias)
        else:
            made = self.step(Convolution(conv, weight, bias), value)
        return made if terms else self.step(norm, self.settle(made))


def _read_identity(reader: _Reader, module: nn.Module, value: int) -> Sum:
    return Sum.of(value)


def _read_sequence(reader: _Reader, module: nn.Module, value: int) -> Sum:
    made = Sum.of(value)
    for layer in module.children():
        made = reader.read(layer, reader.settle(made))
    return made


def _read_pool(reader: _Reader, module: Any, value: int) -> Sum:
    same = (type(module), module.kernel, module.stride, module.dilation)
    return Sum.of(reader.graph.add(module, value, same=same))


def _read_conv_norm(reader: _Reader, module: Any, value: int) -> Sum:
    return reader.convolved(module.conv, module.bn, reader.activated(module.act, value))


def _read_separable(reader: _Reader, module: Any, value: int) -> Sum:
    depthwise = Sum.of(reader.activated(module.act, value))
    depthwise = reader.convolved(module.depthwise, nn.Identity(), reader.settle(depthwise))
    return reader.convolved(module.pointwise, module.bn, reader.settle(depthwise))


def _read_factorized_reduction(reader: _Reader, module: Any, value: int) -> Sum:
    """Two products on subsampled values, one of them shifted; the norm's channels go to the path that makes them."""
    value = reader.activated(module.act, value)
    stride, positions = module.scale.stride, module.scale.dilation
    halves = (
        reader.convolved(module.path1, nn.Identity(), reader.graph.subsample(value, stride)),
        reader.convolved(module.path2, nn.Identity(), reader.graph.subsample(value, stride, positions)),
    )
    terms = scale_and_shift(module.bn)
    if terms is None:
        return reader.step(module.bn, reader.join([reader.settle(half) for half in halves]))
    widths = (module.path1.out_channels, module.path2.out_channels)
    scaled = [
        half.scaled(scale, shift)
        for half, scale, shift in zip(halves, terms[0].split(widths), terms[1].split(widths), strict=True)
    ]
    return Sum.of(reader.join([reader.settle(half) for half in scaled]))


#: How each kind of module is read. Exact types: a subclass may compute something else.
_READINGS: dict[type[nn.Module], Callable[[_Reader, Any, int], Sum]] = {
    nn.Identity: _read_identity,
    nn.Sequential: _read_sequence,
    AvgPool2dSame: _read_pool,
    MaxPool2dSame: _read_pool,
    ConvNorm: _read_conv_norm,
    SeparableConvNorm: _read_separable,
    FactorizedReduction: _read_factorized_reduction,
}
