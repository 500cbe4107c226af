"""In which order a fused cell's steps run on a GPU: depthwise convolutions that are ready together as one launch.

A step's depth is the number of depthwise convolutions on the longest way to it. Those of equal depth do not read each
other; with equal stride, dilation and channels they share a launch. ReLUs that only they read are done on the way, and
sums of pointwise convolutions that only read them join them where the channels are few. What a task computes is what
its steps compute one after the other, and that is what it does for tensors that a launch does not take.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import cast

from torch import Tensor, nn

from nasnet_det.fusion import depthwise
from nasnet_det.fusion.steps import Combination, Convolution, Relu
from nasnet_det.models.padding import Pair

Values = dict[int, Tensor]


@dataclass(frozen=True)
class Filter:
    """A depthwise convolution: its step, the value that it reads, and whether through ReLU."""

    step: Convolution
    reads: int
    relu: bool

    def branch(self, values: Mapping[int, Tensor]) -> depthwise.Branch:
        """Its part of a launch."""
        return self.step.branch(values[self.reads], self.relu)

    def run(self, values: Mapping[int, Tensor]) -> Tensor:
        """By itself."""
        x = values[self.reads]
        return self.step(x.relu() if self.relu else x)


@dataclass(frozen=True)
class Part:
    """One value that a task makes: by a depthwise convolution, or by a sum that joined its depthwise convolutions."""

    makes: int
    filters: tuple[Filter, ...]
    sum: Combination | None = None
    others: tuple[int, ...] = ()

    def product(self, branches: Sequence[depthwise.Branch], values: Mapping[int, Tensor]) -> depthwise.Product:
        """Its part of a launch, if it is a sum."""
        assert self.sum is not None
        return self.sum.of_branches(branches, [values[value] for value in self.others])

    def run(self, values: Mapping[int, Tensor]) -> Tensor:
        """By itself."""
        filtered = [one.run(values) for one in self.filters]
        return self.sum(*filtered, *(values[value] for value in self.others)) if self.sum else filtered[0]


@dataclass(frozen=True)
class Task:
    """One ordinary step, or parts that share a launch; and the values that nothing reads afterwards."""

    makes: int = -1
    step: nn.Module | None = None
    reads: tuple[int, ...] = ()
    parts: tuple[Part, ...] = ()
    drops: tuple[int, ...] = ()

    def inputs(self) -> set[int]:
        """The values that it reads."""
        read = {one.reads for part in self.parts for one in part.filters}
        return {*self.reads, *read, *(value for part in self.parts for value in part.others)}

    def run(self, values: Values) -> None:
        """Put what it makes among the values, and take out what is not needed any more."""
        if self.step is not None:
            values[self.makes] = self.step(*[values[value] for value in self.reads])
        else:
            values.update(zip([part.makes for part in self.parts], self._launch(values), strict=True))
        for value in self.drops:
            del values[value]

    def _launch(self, values: Values) -> list[Tensor]:
        branches = [[one.branch(values) for one in part.filters] for part in self.parts]
        if not depthwise.can_share([branch for of_part in branches for branch in of_part]):
            return [part.run(values) for part in self.parts]
        first = self.parts[0].filters[0].step
        if self.parts[0].sum is None:
            return depthwise.depthwise([branch for (branch,) in branches], first.stride, first.dilation)
        products = [part.product(own, values) for part, own in zip(self.parts, branches, strict=True)]
        return depthwise.separable(products, first.stride, first.dilation)


class _Wiring:
    """Who reads what, and how deep it lies."""

    def __init__(self, steps: Sequence[nn.Module], reads: Sequence[tuple[int, ...]], makes: Sequence[int]) -> None:
        self.steps, self.reads, self.makes = steps, reads, makes
        self.maker = {value: i for i, value in enumerate(makes)}
        self.readers: dict[int, list[int]] = {}
        self.depth: dict[int, int] = {}
        for i, values in enumerate(reads):
            for value in values:
                self.readers.setdefault(value, []).append(i)
            self.depth[makes[i]] = max(self.depth.get(value, 0) for value in values) + self.is_filter(i)

    def is_filter(self, i: int) -> bool:
        """Whether step ``i`` is a depthwise convolution."""
        step = self.steps[i]
        return isinstance(step, Convolution) and step.is_depthwise

    def group(self, i: int) -> tuple[int, Pair, int, int]:
        """What depthwise convolutions of one launch share: depth, stride, dilation, channels."""
        step = cast(Convolution, self.steps[i])
        return self.depth[self.makes[i]], step.stride, step.dilation, step.groups

    def absorbed(self, outputs: Sequence[int]) -> set[int]:
        """The ReLUs that depthwise convolutions alone read."""
        return {
            i
            for i, step in enumerate(self.steps)
            if isinstance(step, Relu)
            and self.makes[i] not in outputs
            and all(self.is_filter(reader) for reader in self.readers.get(self.makes[i], ()))
        }

    def concat(self, i: int, outputs: Sequence[int]) -> list[int]:
        """The depthwise convolutions whose launch step ``i`` can join: all that it multiplies, if it is a sum of few
        channels that alone reads them and whose other states are there before; else none."""
        step, reads = self.steps[i], self.reads[i]
        if not isinstance(step, Combination) or not step.products or step.channels > depthwise.MOST_OUT:
            return []
        makers = [self.maker.get(value, -1) for value in reads[: step.products]]
        if not all(maker >= 0 and self.is_filter(maker) for maker in makers):
            return []
        filters = [cast(Convolution, self.steps[maker]) for maker in makers]
        depth = self.group(makers[0])[0]
        preprocess = (
            len({self.group(maker) for maker in makers}) == 1
            and all(self.readers[value] == [i] and value not in outputs for value in reads[: step.products])
            and all(self.depth.get(value, 0) < depth for value in reads[step.products :])
            and not any(one.relu or one.bias is not None for one in filters)
        )
        return makers if preprocess else []


def schedule(
    steps: Sequence[nn.Module], reads: Sequence[tuple[int, ...]], makes: Sequence[int], outputs: Sequence[int]
) -> tuple[Task, ...]:
    """The tasks of a fused cell; none if it has no depthwise convolutions.

    Args:
        steps, reads, makes: the cell's steps in an order in which they can run, and the numbers of their values.
        outputs: the values that the cell returns.
    """
    wiring = _Wiring(steps, reads, makes)
    absorbed = wiring.absorbed(outputs)
    concat_proj = {i: makers for i in range(len(steps)) if (makers := wiring.concat(i, outputs))}
    taken = {maker for makers in concat_proj.values() for maker in makers}

    def filter_of(i: int) -> Filter:
        value = reads[i][0]
        relu = wiring.maker.get(value, -1) in absorbed
        return Filter(cast(Convolution, steps[i]), reads[wiring.maker[value]][0] if relu else value, relu)

    groups: dict[tuple[object, ...], list[Part]] = {}
    ordinary: dict[int, list[Task]] = {}
    for i, step in enumerate(steps):
        depth = wiring.depth[makes[i]]
        if i in concat_proj:
            combination = cast(Combination, step)
            key = (*wiring.group(concat_proj[i][0]), combination.channels)
            part = Part(makes[i], tuple(map(filter_of, concat_proj[i])), combination, reads[i][combination.products :])
            groups.setdefault(key, []).append(part)
        elif wiring.is_filter(i):
            if i not in taken:
                groups.setdefault((*wiring.group(i), 0), []).append(Part(makes[i], (filter_of(i),)))
        elif i not in absorbed:
            ordinary.setdefault(depth, []).append(Task(makes[i], step, reads[i]))
    if not groups:
        return ()
    tasks: list[Task] = []
    for depth in range(max(wiring.depth.values()) + 1):
        tasks += [Task(parts=tuple(parts)) for key, parts in groups.items() if key[0] == depth]
        tasks += ordinary.get(depth, [])
    return _with_drops(tasks, outputs)


def _with_drops(tasks: Sequence[Task], outputs: Sequence[int]) -> tuple[Task, ...]:
    last = {value: i for i, task in enumerate(tasks) for value in task.inputs()}
    return tuple(
        replace(task, drops=tuple(v for v in task.inputs() if last[v] == i and v not in outputs))
        for i, task in enumerate(tasks)
    )
