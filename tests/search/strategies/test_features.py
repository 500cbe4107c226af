"""Features of architectures: what they tell apart, and their scale."""

from __future__ import annotations

import itertools
import random

import numpy as np

from nasnet_det.search.candidates import SpaceCandidates
from nasnet_det.search.space import Space
from nasnet_det.search.strategies.base import mutate, uniform
from nasnet_det.search.strategies.features import CellFeatures, DecisionFeatures, Features
from tests.search.strategies.helpers import SIZES, Pairs


def group_distances(features: Features, sizes: tuple[int, ...]) -> list[float]:
    """The mean squared distance of two random architectures in each group."""
    rng = random.Random(5)
    rows = [features([uniform(sizes, rng) for _ in range(400)]) for _ in range(2)]
    squares = ((rows[0] - rows[1]) ** 2).mean(axis=0)
    return [float(part.sum()) for part in np.split(squares, np.cumsum(features.widths)[:-1])]


def test_groups_have_distance_one() -> None:
    sizes = (3, 3, 7, 1) * 2
    np.testing.assert_allclose(group_distances(DecisionFeatures(sizes), sizes), 1, atol=0.25)
    sizes = (4,) * 4
    pairs, edges, choices, params = group_distances(CellFeatures(sizes, Pairs()), sizes)
    assert edges == 0  # every cell has the same ones
    np.testing.assert_allclose([pairs, choices, params], 1, atol=0.3)


def test_decisions_are_told_apart_and_cells_halved() -> None:
    every = list(itertools.product(*map(range, SIZES)))
    rows = DecisionFeatures(SIZES)(every)
    assert len(np.unique(rows.round(9), axis=0)) == len(every)
    assert DecisionFeatures((7, 7, 3) * 2).widths == [14, 7, 3] * 2
    assert DecisionFeatures((7, 7, 3)).widths == [14, 7, 3]


def test_equal_cells_have_equal_features() -> None:
    features = CellFeatures((4,) * 4, Pairs())
    a, b, c = features([(0, 3, 1, 2), (3, 0, 1, 2), (3, 1, 1, 2)])
    assert (a == b).all() and (a != c).any() and len(a) == sum(features.widths)


def test_the_sides_of_a_block_are_not_told_apart() -> None:
    space = Space()
    features = CellFeatures(space.sizes, SpaceCandidates(space))
    rng = random.Random(0)
    decisions = list(uniform(space.sizes, rng))
    swapped = [decisions[1], decisions[0], decisions[3], decisions[2], *decisions[4:]]
    a, b, c = features([tuple(decisions), tuple(swapped), mutate(tuple(decisions), space.sizes, 3, rng)])
    assert (a == b).all() and (a != c).any()
