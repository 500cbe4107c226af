"""The dataflow graph of a cell, read from the cell's modules, with common subexpressions shared.

Equal operations on equal values (ReLU, pooling, subsampling) become one node, and norms are folded. A state that is a
sum stays symbolic, as a :class:`Sum`, until it is read, so that the pointwise convolutions on both sides of a block
become one matrix product. Modules of unknown types are kept as nodes of their own.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from torch import Tensor, nn

from nasnet_det.fusion.batch_norm import fold, scale_and_shift
from nasnet_det.fusion.steps import Combination, ConcatChannels, ContiguousNorm, Convolution, Relu, Subsample
from nasnet_det.models.cells import Add, AddNorm, Cell, CellBlock, Concat
from nasnet_det.models.drop_path import ScheduledDropPath
from nasnet_det.models.eager_training import has_hooks
from nasnet_det.models.operations import ConvNorm, FactorizedReduction, Layers, SeparableConvNorm
from nasnet_det.models.padding import AvgPool2dSame, Conv2dSame, MaxPool2dSame


class UnsupportedCell(Exception):
    """A cell whose structure the fusion does not know; it is kept unchanged."""


@cache
def warn_once(text: str) -> None:
    """Emit a warning once per process."""
    warnings.warn(text, stacklevel=2)


@dataclass
class Node:
    """An operation and the values that it reads, by number. Its result has the node's own number.

    Args:
        step: the operation; None for an input of the cell.
        reads: the values it reads.
    """

    step: nn.Module | None
    reads: tuple[int, ...]


@dataclass
class Sum:
    """A state that is not computed yet: a sum of pointwise convolutions and multiples of values, plus a bias.

    Args:
        products: pairs of a value and the ``(out, in)`` weight of its convolution.
        multiples: the factor of each value that is added directly.
        bias: ``(out,)`` or None.
    """

    products: list[tuple[int, Tensor]] = field(default_factory=list)
    multiples: dict[int, float] = field(default_factory=dict)
    bias: Tensor | None = None

    @classmethod
    def of(cls, value: int) -> Sum:
        """Return the sum of one value alone."""
        return cls(multiples={value: 1.0})

    def scaled(self, scale: Tensor, shift: Tensor) -> Sum:
        """Return this sum, which consists of products only, times ``scale`` plus ``shift`` per channel."""
        bias = shift if self.bias is None else self.bias * scale + shift
        return Sum([(value, weight * scale[:, None]) for value, weight in self.products], bias=bias)

    def __add__(self, other: Sum) -> Sum:
        multiples = dict(self.multiples)
        for value, factor in other.multiples.items():
            multiples[value] = multiples.get(value, 0.0) + factor
        biases = [bias for bias in (self.bias, other.bias) if bias is not None]
        return Sum([*self.products, *other.products], multiples, sum(biases[1:], biases[0]) if biases else None)


class CellGraph:
    """The nodes of one cell in execution order. Values 0, 1, ... are the cell's inputs."""

    def __init__(self, num_inputs: int) -> None:
        self.nodes = [Node(None, ()) for _ in range(num_inputs)]
        self.num_inputs = num_inputs
        self._numbers: dict[Hashable, int] = {}

    def add(self, step: nn.Module, *reads: int, key: Hashable = None) -> int:
        """Add a node and return its number, or that of an equal node on the same values.

        Args:
            key: equal for steps that compute the same function; None for a step that is never shared.
        """
        shared = (key, reads)
        if key is not None and shared in self._numbers:
            return self._numbers[shared]
        self.nodes.append(Node(step, reads))
        number = len(self.nodes) - 1
        if key is not None:
            self._numbers[shared] = number
        return number

    def relu(self, value: int) -> int:
        """Return the number of the value's ReLU."""
        return self.add(Relu(), value, key="relu")

    def subsample(self, value: int, stride: int, offset: int = 0) -> int:
        """Return the number of the value's subsampling; see :class:`Subsample`."""
        if stride == 1 and offset == 0:
            return value
        return self.add(Subsample(stride, offset), value, key=(stride, offset))

    def materialize(self, state: Sum, like: Tensor) -> int:
        """Return the number of a sum's value, adding a node for it if needed."""
        if not state.products and state.bias is None and list(state.multiples.values()) == [1.0]:
            return next(iter(state.multiples))
        weights = [weight for _, weight in state.products]
        step = Combination(weights, list(state.multiples.values()), state.bias, like)
        return self.add(step, *(value for value, _ in state.products), *state.multiples)

    def merge_relus(self, outputs: Sequence[int]) -> tuple[int, ...]:
        """Merge each ReLU that is the only reader of a convolution or combination into it, and drop unread nodes.

        Returns:
            the new numbers of ``outputs``.
        """
        readers: dict[int, list[int]] = {number: [] for number in range(len(self.nodes))}
        for number, node in enumerate(self.nodes):
            for value in set(node.reads):
                readers[value].append(number)
        replaced_by = list(range(len(self.nodes)))
        for number, node in enumerate(self.nodes):
            source = self.nodes[node.reads[0]].step if node.reads else None
            if isinstance(node.step, Relu) and isinstance(source, (Combination, Convolution)):
                value = node.reads[0]
                if readers[value] == [number] and value not in outputs:
                    source.relu = True
                    replaced_by[number] = value
        return self._compact(replaced_by, [replaced_by[value] for value in outputs])

    def _compact(self, replaced_by: Sequence[int], outputs: Sequence[int]) -> tuple[int, ...]:
        """Keep the inputs and what the outputs depend on, and renumber."""
        reads = [tuple(replaced_by[value] for value in node.reads) for node in self.nodes]
        needed = set(outputs)
        for number in reversed(range(len(self.nodes))):
            if number in needed:
                needed.update(reads[number])
        kept = [n for n in range(len(self.nodes)) if n < self.num_inputs or n in needed]
        new = {old: number for number, old in enumerate(kept)}
        self.nodes = [Node(self.nodes[n].step, tuple(new[value] for value in reads[n])) for n in kept]
        return tuple(new[value] for value in outputs)


def read_cell(cell: nn.Module, like: Tensor, single_input: bool = False) -> tuple[CellGraph, tuple[int, ...]]:
    """Build the graph of a cell in evaluation mode.

    Args:
        cell: a :class:`nasnet_det.models.cells.Cell`.
        like: a tensor of the model's dtype.
        single_input: whether the cell gets the current state only, as the first cell of a network does.

    Returns:
        the graph and the numbers of the values that the cell returns.

    Raises:
        UnsupportedCell: if the cell has hooks or is not what ``cells.py`` builds.
    """
    if type(cell) is not Cell:
        raise UnsupportedCell(f"the wiring of {type(cell).__name__} is unknown")
    if has_hooks(*cell.modules()):
        raise UnsupportedCell("it has hooks or a forward of its own, which a fused cell would not call")
    builder = _GraphBuilder(cell, like, 1 if single_input else len(cell.preprocess))
    outputs = builder.outputs()
    return builder.graph, builder.graph.merge_relus(outputs)


class _GraphBuilder:
    """Adds a cell's modules to a graph, each state when it is first read."""

    def __init__(self, cell: Cell, like: Tensor, num_inputs: int) -> None:
        self.cell, self.like = cell, like
        self.graph = CellGraph(num_inputs)
        self.states: dict[int, int] = {}

    def outputs(self) -> tuple[int, ...]:
        """Return the values that the cell returns."""
        concat = []
        for state in self.cell.genotype.concat:
            value = self.state(state)
            if str(state) in self.cell.concat_proj:
                value = self.value(self.module(self.cell.concat_proj[str(state)], value))
            concat.append(value)
        return tuple(concat) if self.cell.passes_all else (self.concat(concat),)

    def state(self, number: int) -> int:
        """Return the value of one of the cell's states."""
        if number not in self.states:
            num_states = len(self.cell.preprocess)
            if number < num_states:
                # Without a previous state the current one, before its projection, serves as both.
                result = self.module(self.cell.preprocess[number], number if number < self.graph.num_inputs else 0)
            else:
                result = self.block(self.cell.blocks[number - num_states])
            self.states[number] = self.value(result)
        return self.states[number]

    def block(self, block: nn.Module) -> Sum:
        """Return the state that a block computes."""
        if type(block) is not CellBlock:
            raise UnsupportedCell(f"{type(block).__name__} is not a block of a cell")
        if type(self.cell.drop_path) is not ScheduledDropPath:
            raise UnsupportedCell(f"drop path module {type(self.cell.drop_path).__name__} is unknown")
        left = self.module(block.left, self.state(block.genotype.left))
        right = self.module(block.right, self.state(block.genotype.right))
        combine = block.combine
        if type(combine) is Add:
            return left + right
        if type(combine) is AddNorm:
            return self.norm(combine.norm, left + right)
        if type(combine) is Concat:
            return Sum.of(self.concat([self.value(left), self.value(right)]))
        return self.unknown(combine, self.value(left), self.value(right))

    def module(self, module: nn.Module, value: int) -> Sum:
        """Return a module's result on a value."""
        build = _BUILDERS.get(type(module))
        return build(self, module, value) if build else self.unknown(module, value)

    def value(self, result: Sum) -> int:
        return self.graph.materialize(result, self.like)

    def node(self, module: nn.Module, *values: int) -> Sum:
        return Sum.of(self.graph.add(module, *values))

    def norm(self, norm: nn.Module, state: Sum) -> Sum:
        return self.node(ContiguousNorm(norm), self.value(state))

    def unknown(self, module: nn.Module, *values: int) -> Sum:
        warn_once(f"optimize_for_inference does not know {type(module).__name__} and keeps it unchanged")
        return self.node(module, *values)

    def concat(self, values: Sequence[int]) -> int:
        return values[0] if len(values) == 1 else self.graph.add(ConcatChannels(), *values, key="concat")

    def activation(self, activation: nn.Module, value: int) -> int:
        if type(activation) is nn.ReLU:
            return self.graph.relu(value)
        return value if type(activation) is nn.Identity else self.value(self.unknown(activation, value))

    def conv_norm(self, conv: nn.Conv2d, norm: nn.Module, value: int) -> Sum:
        """Return the result of a convolution and its norm: a product if the convolution is pointwise, else a node. A
        norm that does not fold is a node of its own."""
        if type(conv) is not Conv2dSame:
            return self.norm(norm, self.unknown(conv, value))
        terms = fold(conv, norm)
        weight, bias = terms or (conv.weight.detach().double(), None)
        if conv.kernel_size == (1, 1) and conv.groups == 1:
            result = Sum([(self.graph.subsample(value, conv.stride[0]), weight[:, :, 0, 0])], bias=bias)
        else:
            result = self.node(Convolution(conv, weight, bias), value)
        return result if terms else self.norm(norm, result)


def _identity(builder: _GraphBuilder, module: nn.Module, value: int) -> Sum:
    return Sum.of(value)


def _sequential(builder: _GraphBuilder, module: nn.Module, value: int) -> Sum:
    result = Sum.of(value)
    for layer in module.children():
        result = builder.module(layer, builder.value(result))
    return result


def _pool(builder: _GraphBuilder, module: Any, value: int) -> Sum:
    return Sum.of(builder.graph.add(module, value, key=module.key()))


def _conv_norm(builder: _GraphBuilder, module: Any, value: int) -> Sum:
    return builder.conv_norm(module.conv, module.bn, builder.activation(module.act, value))


def _separable_conv(builder: _GraphBuilder, module: Any, value: int) -> Sum:
    depthwise = builder.conv_norm(module.depthwise, nn.Identity(), builder.activation(module.act, value))
    return builder.conv_norm(module.pointwise, module.bn, builder.value(depthwise))


def _factorized_reduction(builder: _GraphBuilder, module: Any, value: int) -> Sum:
    """Build two products on subsampled values, one of them shifted, and split the norm's channels between them."""
    value = builder.activation(module.act, value)
    stride, offset = module.scale.stride, module.scale.dilation
    halves = (
        builder.conv_norm(module.path1, nn.Identity(), builder.graph.subsample(value, stride)),
        builder.conv_norm(module.path2, nn.Identity(), builder.graph.subsample(value, stride, offset)),
    )
    terms = scale_and_shift(module.bn)
    if terms is None or any(half.multiples for half in halves):
        return builder.norm(module.bn, Sum.of(builder.concat([builder.value(half) for half in halves])))
    widths = (module.path1.out_channels, module.path2.out_channels)
    scaled = [
        half.scaled(scale, shift)
        for half, scale, shift in zip(halves, terms[0].split(widths), terms[1].split(widths), strict=True)
    ]
    return Sum.of(builder.concat([builder.value(half) for half in scaled]))


#: The builder of each module type. Exact types: a subclass may compute something else.
_BUILDERS: dict[type[nn.Module], Callable[[_GraphBuilder, Any, int], Sum]] = {
    nn.Identity: _identity,
    Layers: _sequential,
    nn.Sequential: _sequential,
    AvgPool2dSame: _pool,
    MaxPool2dSame: _pool,
    ConvNorm: _conv_norm,
    SeparableConvNorm: _separable_conv,
    FactorizedReduction: _factorized_reduction,
}
