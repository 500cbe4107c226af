"""Features by which a model of rewards compares architectures.

They come in groups, each scaled so that two random architectures have a squared distance of about 1 in it; the model
weighs the groups.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from nasnet_det.search.strategies.base import Candidates, Decisions, Part, uniform
from nasnet_det.search.strategies.gaussian_process import Floats

#: Random architectures from which the scales of groups are estimated.
_SAMPLES = 200


class Features(Protocol):
    """A map from architectures to grouped features."""

    #: The number of columns of each group.
    widths: list[int]

    def __call__(self, architectures: Sequence[Decisions]) -> Floats:
        """Return the features ``(n, sum(widths))`` of ``n`` architectures."""


class DecisionFeatures:
    """Features of the decisions alone.

    Decisions of the same number of choices form a group; a space whose second half of decisions repeats the first (two
    cells) has a group for each half. A group contributes its decisions, one-hot, and how often each choice was made
    among them: choices that mean the same in every decision, such as operations, are learned from few results.

    Args:
        sizes: the number of choices of each decision.
    """

    def __init__(self, sizes: Sequence[int]) -> None:
        half = len(sizes) // 2
        cells = tuple(sizes[:half]) == tuple(sizes[half:])
        kinds = [(size, cells and i >= half) for i, size in enumerate(sizes)]
        self._groups = [
            np.array([i for i, other in enumerate(kinds) if other == kind])
            for kind in dict.fromkeys(kinds)
            if kind[0] > 1
        ]
        self._choices = [sizes[group[0]] for group in self._groups]
        self.widths: list[int] = []
        for group, choices in zip(self._groups, self._choices, strict=True):
            self.widths += [len(group) * choices, choices] if len(group) > 1 else [choices]

    def __call__(self, architectures: Sequence[Decisions]) -> Floats:
        """Return the features ``(n, sum(widths))`` of ``n`` architectures."""
        decisions = np.array(architectures)
        blocks = [np.empty((len(decisions), 0))]
        for group, choices in zip(self._groups, self._choices, strict=True):
            one_hot = np.eye(choices)[decisions[:, group]]
            scale = 1 / math.sqrt(2 * (1 - 1 / choices) * len(group))
            blocks.append(scale * one_hot.reshape(len(decisions), -1))
            if len(group) > 1:
                blocks.append(scale * one_hot.sum(axis=1))
        return np.concatenate(blocks, axis=1)


class CellFeatures:
    """Features of the cells that decisions make, and of their cost.

    Each cell has a group of its edges with their operations, of its edges, and of its operations, all as counts; the
    logarithms of every measure (parameters, multiply-adds) are one group each. Decisions that make the same cells, as
    those that differ by the order of a block's two sides, have the same features.

    Args:
        sizes: the number of choices of each decision.
        candidates: gives parts and measures.
    """

    def __init__(self, sizes: Sequence[int], candidates: Candidates) -> None:
        self._candidates = candidates
        rng = random.Random(0)
        samples = [uniform(sizes, rng) for _ in range(_SAMPLES)]
        parts = sorted({part for decisions in samples for part in candidates.parts(decisions)})
        found = sorted({view for part in parts for view in _views(part)})
        groups = sorted({view[0] for view in found})
        columns = {view: i for i, view in enumerate(found)}
        self._columns = {part: [columns[view] for view in _views(part)] for part in parts}
        self._counts = len(found)
        self._measures = sorted(candidates.measures(samples[0]))
        width = len(found) + len(self._measures)
        self._scale, self._shift = np.ones(width), np.zeros(width)
        self.widths = [sum(view[0] == group for view in found) for group in groups] + [1] * len(self._measures)
        values = self(samples)
        self._shift = values.mean(axis=0)
        ends = np.cumsum(self.widths)
        for start, end in zip([0, *ends[:-1]], ends, strict=True):
            spread = 2 * values[:, start:end].var(axis=0).sum()
            self._scale[start:end] = 1 / math.sqrt(spread) if spread > 1e-12 else 0.0

    def __call__(self, architectures: Sequence[Decisions]) -> Floats:
        """Return the features ``(n, sum(widths))`` of ``n`` architectures."""
        width = len(self._scale)
        cells: list[int] = []
        for first, decisions in zip(itertools.count(step=width), architectures, strict=False):
            for part in self._candidates.parts(decisions):
                cells += [first + column for column in self._columns.get(part, ())]
        values = np.bincount(cells, minlength=width * len(architectures)).reshape(-1, width).astype(float)
        if self._measures:
            measures = [self._candidates.measures(decisions) for decisions in architectures]
            values[:, self._counts :] = np.log1p([[known[name] for name in self._measures] for known in measures])
        return (values - self._shift) * self._scale


def _views(part: Part) -> tuple[tuple[str, str], ...]:
    """Return the columns that an edge counts in, each as group and name; groups sort together."""
    cell, edge, operation = part
    return ((f"{cell} 0", f"{edge} {operation}"), (f"{cell} 1", edge), (f"{cell} 2", operation))
