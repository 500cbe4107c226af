"""One cell for every genotype: normal, reduction and stem cells alike.

Sources: paper section 2 and figures 3 and 4; TF-slim ``nasnet_utils.py`` (``NasNetABaseCell``) decides the details.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from nasnet_det.genotypes.genotype import Block, CellGenotype
from nasnet_det.models.cpu_separable import pointwise_norms
from nasnet_det.models.drop_path import ScheduledDropPath
from nasnet_det.models.eager_training import concat_channels, has_hooks, is_training_on_cpu, is_training_on_device
from nasnet_det.models.operations import (
    ConvNorm,
    Finish,
    LayerSettings,
    Scale,
    begins_with_relu,
    build_operation,
    finishes_itself,
    pass_on,
    projection,
)
from nasnet_det.models.padding import Pool2dSame
from nasnet_det.models.plan import CellPlan


class StateShape(NamedTuple):
    """The shape of a state relative to the image.

    ``level`` is the number of halvings; ``dilation`` that of later kernels if a halving was left out (networks with a
    limited output stride)."""

    channels: int
    level: int
    dilation: int = 1

    def scale_to(self, other: StateShape) -> Scale:
        """Return the scale of an operation from this state to the level of ``other``, at most one above."""
        if not 0 <= other.level - self.level <= 1:
            raise ValueError(f"a state is {other.level - self.level} reductions away, expected 0 or 1")
        halves = other.level > self.level and other.dilation == self.dilation
        return Scale(2 if halves else 1, self.dilation, other.dilation)


class Concat(nn.Module):
    """Concatenation of states along the channels."""

    def forward(self, *states: Tensor) -> Tensor:
        return join(states, self.training)


def join(states: Sequence[Tensor], training: bool) -> Tensor:
    """Return states concatenated along the channels."""
    if len(states) == 1:
        return states[0]
    if training and is_training_on_device(states[0]) and states[0].is_contiguous(memory_format=torch.channels_last):
        return concat_channels(*states)
    return torch.cat([*states], dim=1)


class AddNorm(nn.Module):
    """Add two states, then normalize each example over groups of channels: one group is layer normalization, a group
    a channel instance normalization (paper appendix B)."""

    def __init__(self, groups: int, channels: int, settings: LayerSettings) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(groups, channels, **settings.factory)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        # PyTorch's CPU kernel for channels_last computes the variance as E[x^2] - E[x]^2, which is inaccurate.
        return self.norm((left + right).contiguous())


class Add(nn.Module):
    """Add two states."""

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        return left + right


def build_combiner(name: str, filters: int, settings: LayerSettings) -> tuple[nn.Module, int]:
    """The module of a combiner and the channels of what it makes from two states of ``filters`` channels."""
    if name == "concat":
        return Concat(), 2 * filters
    if name == "add_layer_norm":
        return AddNorm(1, filters, settings), filters
    if name == "add_instance_norm":
        return AddNorm(filters, filters, settings), filters
    return Add(), filters


#: What was computed of one state, by the function or the operation.
Results = dict[Hashable, Tensor]


class States(list[Tensor]):
    """The states of a cell, with what several operations need of one computed once.

    ``shared`` are the results for the first states, which others may use and add to."""

    def __init__(self, states: Iterable[Tensor], shared: Iterable[Results] = ()) -> None:
        super().__init__(states)
        self._results: dict[int, Results] = dict(enumerate(shared))
        self._whole: dict[int, Tensor] = {}

    def apply(self, operation: nn.Module, state: int, **given: Finish) -> Tensor:
        """Return an operation's result on a state; ReLU and equal pools of one state are computed once.

        ``given`` are other arguments of the operation."""
        if isinstance(operation, Pool2dSame) and not has_hooks(operation):
            return self._once(operation.key(), operation, state)
        if not begins_with_relu(operation):
            is_plain = type(operation) is nn.Identity and not has_hooks(operation)
            return operation(self[state] if is_plain else self.whole(state), **given)
        if (passed := pass_on(operation, self[state], **given)) is None:
            return operation(self._once("relu", functional.relu, state), activated=True, **given)
        self._whole.setdefault(state, self[state])
        result, self[state] = passed
        return result

    def whole(self, state: int) -> Tensor:
        """Return a state as it was computed: a hook on this tensor sees the gradient of all that read it."""
        return self._whole.get(state, self[state])

    def _once(self, key: Hashable, function: Callable[[Tensor], Tensor], state: int) -> Tensor:
        results = self._results.setdefault(state, {})
        if key not in results:
            results[key] = function(self[state])
        return results[key]


class CellBlock(nn.Module):
    """Two operations on two states and the combiner of their results.

    Paths are dropped after every operation except the identity, as in ``_apply_conv_operation``.
    """

    def __init__(
        self, genotype: Block, channels: Sequence[int], scales: Sequence[Scale], filters: int, settings: LayerSettings
    ) -> None:
        super().__init__()
        self.genotype = genotype
        self.left, self.right = (
            build_operation(operation, channels[state], filters, settings, scales[state])
            for state, operation in genotype.sides
        )
        self.combine, self.out_channels = build_combiner(genotype.combine, filters, settings)

    def forward(self, states: States, drop_path: nn.Module | None = None) -> Tensor:
        """Return the state that the block creates; ``drop_path`` is given, as it is registered in the cell only."""
        left, right = (
            (operation, state, None if name == "identity" else drop_path)
            for operation, (state, name) in zip((self.left, self.right), self.genotype.sides, strict=True)
        )
        if type(self.combine) is not Add or not is_training_on_cpu(states[0]) or has_hooks(self.combine):
            return self.combine(self._side(states, *left), self._side(states, *right))
        # The side that is computed last may add the other one. An identity comes first, as it draws no random number.
        first, last = (right, left) if right[2] is None else (left, right)
        return self._side(states, *last, other=self._side(states, *first))

    def _side(
        self, states: States, operation: nn.Module, state: int, drop: nn.Module | None, other: Tensor | None = None
    ) -> Tensor:
        """Return an operation's result, of which some examples are dropped, plus another map."""
        plain = drop is None or (type(drop) is ScheduledDropPath and not has_hooks(drop))
        if plain and is_training_on_cpu(states[state]) and finishes_itself(operation):
            factors = drop.draw(states[state]) if isinstance(drop, ScheduledDropPath) else None
            return states.apply(operation, state, finish=Finish(factors, other))
        x = states.apply(operation, state)
        x = x if drop is None else drop(x)
        return x if other is None else x + other


class Cell(nn.Module):
    """A cell of a genotype.

    Inputs are first projected to the cell's resolution and width: the current state by ReLU, 1x1 convolution and
    normalization, the previous one only if its size or width differs. The first cell of a network has no previous state
    and reads the unprojected current one instead. A genotype that passes all states on has as many inputs as blocks,
    each projected only if its width differs. Operations on inputs have the cell's stride.

    Args:
        genotype: the blocks and the concatenated states.
        inputs: channels and level of each input: ``(current, previous)``, or all states of the cell below; just
            ``(current,)`` for the first cell.
        filters: F, the channels of every operation's result.
        scale: stride 1 for a normal cell, 2 for a reduction.
        settings: how layers are made.
        drop_prob: ScheduledDropPath's final probability in this cell.
        passes_all: pass the created states on one by one instead of concatenating them.

    Raises:
        ValueError: if an input is not on the cell's level or one above it.
    """

    def __init__(
        self,
        genotype: CellGenotype,
        inputs: Sequence[StateShape],
        filters: int,
        scale: Scale,
        settings: LayerSettings,
        drop_prob: float = 0.0,
        passes_all: bool = False,
    ) -> None:
        super().__init__()
        self.genotype, self.passes_all = genotype, passes_all
        self.drop_path = ScheduledDropPath(drop_prob, settings.device)
        current = inputs[0]
        self.preprocess = nn.ModuleList()
        channels = []
        for number, shape in enumerate(inputs):
            if number == 0 and not passes_all:
                self.preprocess.append(ConvNorm(shape.channels, filters, settings))
            else:
                self.preprocess.append(projection(shape.channels, filters, settings, shape.scale_to(current)))
            channels.append(filters)
        if len(inputs) == 1 and not passes_all:
            self.preprocess.append(nn.Identity())
            channels.append(current.channels)
        num_inputs = len(channels)

        scales = [scale] * num_inputs + [scale.halved()] * len(genotype.blocks)
        self.blocks = nn.ModuleList()
        for block in genotype.blocks:
            made = CellBlock(block, channels, scales, filters, settings)
            self.blocks.append(made)
            channels.append(made.out_channels)

        # A concatenated input must have the size and width of what the cell creates (TF: "reduction_{state}").
        self.concat_proj = nn.ModuleDict()
        for state in genotype.concat:
            if state < num_inputs and (scale.changes or channels[state] != filters):
                self.concat_proj[str(state)] = projection(channels[state], filters, settings, scale, relu=False)
                channels[state] = filters
        self.concat = Concat()
        widths = [channels[state] for state in genotype.concat]
        level = current.level + scale.changes
        #: The shape of each tensor that the cell returns.
        self.out_shapes = tuple(
            StateShape(width, level, scale.dilation_after) for width in (widths if passes_all else [sum(widths)])
        )

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Maps the inputs, each ``(N, channels, H, W)`` (a previous one may be twice as large), to the cell's outputs:
        one ``(N, channels, ceil(H/stride), ceil(W/stride))`` tensor, or every created state."""
        if len(inputs) < len(self.preprocess):
            inputs = (*inputs, inputs[0])
        return self.create(project(x) for project, x in zip(self.preprocess, inputs, strict=True))

    def create(self, projected: Iterable[Tensor], joins: bool = True) -> tuple[Tensor, ...]:
        """Return the cell's outputs.

        Args:
            projected: the inputs after ``preprocess``.
            joins: whether to concatenate the states that make an output; if not, they may be returned one by one.
        """
        states = States(projected)
        for block in self.blocks:
            states.append(block(states, self.drop_path))
        is_plain = type(self.concat) is Concat and not has_hooks(self.concat, *self.concat_proj.values())
        concat = [states[s] if is_plain else states.whole(s) for s in self.genotype.concat]
        for place, state in enumerate(self.genotype.concat):
            if str(state) in self.concat_proj:
                concat[place] = self.concat_proj[str(state)](concat[place])
        apart = self.passes_all or (is_plain and not joins)
        return tuple(concat) if apart else (self.concat(*concat),)


def project_together(output: int, maps: Sequence[Tensor], plans: Iterable[CellPlan], cells: nn.ModuleDict) -> Results:
    """Return the projections of an output that can be computed as one, in training on a CPU.

    Args:
        output: its number.
        maps: the output ``(N, C, H, W)``, or the maps that its channels are divided into: of those, all projections are
            computed as one, or none.
        plans: of the cells that are run.
        cells: the cells by name. The projections of a cell that has hooks are left out.
    """
    readers: list[Any] = []
    for plan in plans:
        cell: Any = cells[plan.name]
        own = cell.preprocess if type(cell) is Cell and not has_hooks(cell) else (None, None)
        readers += [own[number] for number, read in enumerate((plan.current, plan.previous)) if read == output]
    taken = [one for one in readers if type(one) is ConvNorm and not has_hooks(one) and one.is_compiled(*maps)]
    taken = [one for one in taken if one.bn.eps == taken[0].bn.eps]
    if len(taken) < (2 if len(maps) == 1 else len(readers)):
        return {}
    return dict(zip(taken, pointwise_norms(maps, [(one.conv, one.bn) for one in taken]), strict=True))
