"""Guided evolution: its memory, its limits, and what it learns of rungs."""

from __future__ import annotations

import numpy as np

from nasnet_det.search.strategies.base import Decisions, Problem, Result
from nasnet_det.search.strategies.guided import GuidedEvolution, GuidedSettings
from tests.search.strategies.helpers import Pairs, reward_of, step

SETTINGS = GuidedSettings(initial=8, mutants=40)


def test_it_does_not_repeat_itself_and_forgets_the_worst_old_results() -> None:
    strategy = GuidedEvolution((4,) * 6, 0, GuidedSettings(initial=10, mutants=40, memory=60))
    asked = step(strategy, 90, behind=1)
    assert len(strategy.told) == 60 and strategy.count == 89
    assert all(len(set(asked[i : i + 30])) == 30 for i in range(60))  # the latest are known
    kept = [reward for trial in strategy.told.values() for reward in trial.rewards.values()]
    assert max(map(reward_of, asked[:-1])) in kept


def test_a_space_that_is_used_up_is_searched_on() -> None:
    step(GuidedEvolution((2, 1), 0, GuidedSettings(initial=2, mutants=8)), 10)
    step(GuidedEvolution((1,), 0, GuidedSettings(initial=2, mutants=8)), 10)


def test_waiting_workers_get_different_architectures() -> None:
    strategy = GuidedEvolution((5,) * 6, 0, SETTINGS)
    step(strategy, 20, behind=1)
    asked = [strategy.ask() for _ in range(6)]
    assert len(set(asked)) == 6


def test_proposals_respect_the_limits() -> None:
    strategy = GuidedEvolution((4,) * 4, 0, SETTINGS, Problem(candidates=Pairs()))
    asked = step(strategy, 30, behind=1)
    assert max(decisions[-1] for decisions in asked[:8]) == 3  # the initial ones are random
    assert max(decisions[-1] for decisions in asked[8:]) < 3


def test_results_of_the_first_rung_lead_to_better_architectures() -> None:
    def reward(decisions: Decisions) -> float:
        return sum(decisions) / 40

    strategy = GuidedEvolution((5,) * 8, 0, SETTINGS, Problem(rungs=(1, 9)))
    asked = []
    for number in range(60):
        asked.append(strategy.ask())
        strategy.tell(number, Result((reward(asked[-1]) / 2,), epochs=1, final=False))
        if number % 4 == 3:
            strategy.tell(number, Result((reward(asked[-1]),), epochs=9))
    assert np.mean([reward(d) for d in asked[-15:]]) > np.mean([reward(d) for d in asked[:8]]) + 0.1
