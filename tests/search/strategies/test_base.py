"""Every strategy: determinism, states that survive, order; random search and evolution."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest

from nasnet_det.search.strategies.base import EvolutionSettings, Problem, RegularizedEvolution, Result, mutate
from nasnet_det.search.strategies.registry import NAMES, OPTUNA_SAMPLERS
from tests.search.strategies.helpers import SIZES, make, reward_of, step


@pytest.fixture(params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    if request.param in OPTUNA_SAMPLERS:
        pytest.importorskip("optuna")
    return str(request.param)


def test_a_saved_state_continues_as_if_nothing_happened(name: str, tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    from nasnet_det.search.strategy_state import read_state, write_state

    strategy = make(name)
    step(strategy, 47)
    write_state(tmp_path / "state", {"strategy": strategy.state_dict()})
    other = make(name)
    state = read_state(tmp_path / "state")
    assert state is not None
    other.load_state_dict(state["strategy"])
    assert step(other, 60) == step(strategy, 60)


def test_decisions_exist_and_follow_from_the_seed(name: str) -> None:
    asked = step(make(name), 40)
    assert all(0 <= d < size for decisions in asked for d, size in zip(decisions, SIZES, strict=True))
    assert asked == step(make(name), 40) and asked != step(make(name, seed=2), 40)


def test_what_was_refused_is_no_trial(name: str) -> None:
    strategy = make(name)
    step(strategy, 10)
    strategy.ask()
    strategy.refuse()
    assert strategy.trials == 10
    strategy.ask()
    for number in sorted(strategy.asked):
        strategy.tell(number, Result((0.5,)))
    assert strategy.trials == 11 and not strategy.asked
    step(strategy, 10)


def test_results_are_told_in_any_order_or_refused(name: str) -> None:
    strategy = make(name)
    for _ in range(12):
        strategy.ask()
    if strategy.any_order:
        for number in reversed(range(12)):
            strategy.tell(number, Result((reward_of(strategy.asked[number]),)))
        assert not strategy.asked and step(strategy, 20)
    else:
        with pytest.raises(ValueError, match="trial 0"):
            strategy.tell(1, Result((0.5,)))


def test_rungs_stops_and_failures_are_taken(name: str) -> None:
    strategy = make(name, problem=Problem(rungs=(1, 3)))
    for number in range(30):
        reward = reward_of(strategy.ask())
        strategy.tell(number, Result((reward / 2,), epochs=1, final=number % 5 == 0, failed=number % 5 == 0))
        if number % 5 == 1:
            strategy.stop(number)
        elif number % 5 == 2:
            strategy.tell(number, Result((reward,), epochs=3))
    other = make(name, problem=Problem(rungs=(1, 3)))
    other.load_state_dict(strategy.state_dict())
    assert [other.ask() for _ in range(5)] == [strategy.ask() for _ in range(5)]


def test_several_objectives_need_a_strategy_for_them(name: str) -> None:
    problem = Problem(objectives=("accuracy", "params"))
    if name in ("random", *OPTUNA_SAMPLERS):
        strategy = make(name, problem=problem)
        for number in range(12):
            decisions = strategy.ask()
            strategy.tell(number, Result((reward_of(decisions), -float(sum(decisions)))))
    else:
        with pytest.raises(ValueError, match="accuracy, params"):
            make(name, problem=problem)


@pytest.mark.parametrize("name", ["guided", "evolution", "ppo", "reinforce"])
def test_learning_finds_better_architectures_than_chance(name: str) -> None:
    target = (1, 4, 0, 5, 2, 3, 3, 0)

    def reward(decisions: tuple[int, ...]) -> float:
        return sum(a == b for a, b in zip(decisions, target, strict=True)) / len(target)

    count = 60 if name == "guided" else 400
    late = []
    for seed in range(2):
        asked = step(make(name, seed, sizes=(6,) * 8), count, reward)
        late += [reward(decisions) for decisions in asked[-count // 6 :]]
    assert np.mean(late) > 0.35  # chance is 1/6


def test_evolution_keeps_the_last_results_and_mutates_the_best() -> None:
    strategy = RegularizedEvolution(SIZES, 0, EvolutionSettings(population=4, sample=4, second_change=0.0))
    for number, reward in enumerate((0.9, 0.1, 0.2, 0.3, 0.4)):
        strategy.ask()
        strategy.tell(number, Result((reward,)))
    assert [reward for _, reward in strategy.population] == [0.1, 0.2, 0.3, 0.4]
    child, parent = strategy.ask(), strategy.population[-1][0]
    assert sum(a != b for a, b in zip(child, parent, strict=True)) == 1


def test_decisions_without_a_choice_are_not_mutated() -> None:
    rng = random.Random(0)
    assert all(mutate((0, 0, 0), (1, 2, 1), 1, rng) == (0, 1, 0) for _ in range(20))
    assert mutate((0,), (1,), 3, rng) == (0,)
