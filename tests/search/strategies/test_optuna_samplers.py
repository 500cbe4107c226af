"""Optuna's samplers as strategies."""

from __future__ import annotations

import json
import warnings

import pytest

from nasnet_det.search.strategies.base import Decisions, Problem, Result
from nasnet_det.search.strategies.registry import make_strategy, resolve_name
from tests.search.strategies.helpers import SIZES, reward_of, step

optuna = pytest.importorskip("optuna")


@pytest.mark.parametrize("name", ["TPESampler", "GridSampler", "QMCSampler", "nsgaIII", "BruteForceSampler", "cmaes"])
def test_a_sampler_goes_by_its_class_s_name(name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(step(make_strategy(name, SIZES, 0), 15)) == 15


def test_options_are_the_sampler_s_arguments() -> None:
    strategy = make_strategy("TPESampler", SIZES, 0, {"n_startup_trials": 2})
    assert strategy.study.sampler._n_startup_trials == 2 if strategy.ask() else False
    for name, overrides, match in (
        ("TPESampler", {"minibatch": 2}, "minibatch"),
        ("AnnealingSampler", {}, "TPESampler"),
        ("BaseSampler", {}, "BaseSampler"),
        ("TPESampler", {"n_startup_trials": "few"}, "n_startup_trials"),
        ("TPESampler", {"seed": 4}, "seed"),
        ("TPESampler", {"n_ei_candidates": 0}, "samples"),
        ("TPESampler", {"n_ei_candidates": 0, "n_startup_trials": 40}, "samples"),
        ("TPESampler", {"n_startup_trials": 10**7}, "n_startup_trials"),
        ("nsga2", {"child_generation_strategy": 1}, "callable"),
        ("nsga2", {"population_size": 1}, "population_size"),
        ("PartialFixedSampler", {"fixed_params": {}, "base_sampler": "AnnealingSampler"}, "AnnealingSampler"),
    ):
        with pytest.raises(ValueError, match=match):
            make_strategy(name, SIZES, 0, overrides)


class Own(optuna.samplers.RandomSampler):
    """A sampler of another package."""


def test_a_sampler_of_another_package_goes_by_its_path() -> None:
    name = resolve_name(f"{__name__}.Own")
    assert name == f"{__name__}.Own" and resolve_name("optuna.samplers.TPESampler") == "TPESampler"
    strategy = make_strategy(name, SIZES, 0)
    assert len(step(strategy, 5)) == 5 and isinstance(strategy.study.sampler, Own)
    for wrong in ("nowhere.TPESampler", f"{__name__}.TPESampler", f"{__name__}.SIZES"):
        with pytest.raises(ValueError, match=wrong.rpartition(".")[2]):
            resolve_name(wrong)


def test_decisions_are_fixed_by_their_names() -> None:
    problem = Problem(parameters={"input": range(3), "operation": ("identity", "conv", "pool")})
    options = {"base_sampler": "tpe", "fixed_params": {"operation": "pool"}}
    asked = step(make_strategy("PartialFixedSampler", (3, 3), 0, options, problem), 12)
    assert {operation for _, operation in asked} == {2} and len({one for one, _ in asked}) > 1
    for wrong in ({"operation": "dense"}, {"decision_000": 1}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            make_strategy("PartialFixedSampler", (3, 3), 0, {**options, "fixed_params": wrong}, problem)


def test_a_sampler_that_is_not_made_for_the_problem_is_refused_at_once() -> None:
    with pytest.raises(ValueError, match="GridSampler"):
        make_strategy("GridSampler", [10] * 400, 0)
    with pytest.raises(ValueError, match="CmaEsSampler"):
        make_strategy("CmaEsSampler", SIZES, 0, problem=Problem(("accuracy", "params")))


def test_trials_have_their_states_and_intermediate_values() -> None:
    strategy = make_strategy("tpe", SIZES, 0, problem=Problem(rungs=(1, 3)))
    for number in range(4):
        reward = reward_of(strategy.ask())
        strategy.tell(number, Result((reward,), 1, final=number == 3, failed=number == 3))
    strategy.tell(0, Result((0.9,), 3))
    strategy.stop(1)
    strategy.ask()
    strategy.refuse()
    other = make_strategy("tpe", SIZES, 0, problem=Problem(rungs=(1, 3)))
    other.load_state_dict(strategy.state_dict())
    for study in (strategy.study, other.study):
        trials = study.get_trials()
        assert [trial.state.name for trial in trials] == ["COMPLETE", "PRUNED", "RUNNING", "FAIL", "FAIL"]
        assert trials[0].value == 0.9 and list(trials[0].intermediate_values) == [1]
    assert other.open == {2: 2}


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("QMCSampler", {}),
        ("QMCSampler", {"scramble": True}),
        ("NSGAIISampler", {"population_size": 4}),
        ("NSGAIIISampler", {"population_size": 4}),
        ("TPESampler", {"n_startup_trials": 4}),
    ],
)
def test_a_sampler_continues_from_its_state_as_if_it_had_not_been_stopped(
    name: str, options: dict[str, object]
) -> None:
    def loaded_at_every(steps: int) -> list[Decisions]:
        strategy, asked = make_strategy(name, SIZES, 0, options), list[Decisions]()
        for number in range(40):
            asked.append(strategy.ask())
            if number % 3 == 2:  # the latest first, and one of three only when its generation is over
                late = [n for n in range(number - 10, number - 9) if n >= 0 and n % 3 == 0]
                for n in (number, number - 1, *late):
                    strategy.tell(n, Result((reward_of(asked[n]),), failed=n % 7 == 0))
            if number % steps == steps - 1:
                state, strategy = strategy.state_dict(), make_strategy(name, SIZES, 0, options)
                strategy.load_state_dict(json.loads(json.dumps(state)))
        return asked

    assert loaded_at_every(100) == loaded_at_every(1) == loaded_at_every(7)


@pytest.mark.parametrize("name", ["GridSampler", "BruteForceSampler"])
def test_a_list_ends_though_its_trials_wait_at_rungs(name: str) -> None:
    strategy = make_strategy(name, (2, 3), 0, problem=Problem(rungs=(1, 3)))
    asked = []
    for number in range(6):
        assert not strategy.exhausted
        asked.append(strategy.ask())
        strategy.tell(number, Result((0.5,), 1, final=False))
    assert strategy.exhausted and len(set(asked)) == 6


def test_a_model_that_proposes_refused_architectures_again_does_not_end_a_search() -> None:
    strategy = make_strategy("GPSampler", SIZES, 0)
    for number in range(16):
        refused = 0
        while (decisions := strategy.ask())[2] == 4 or decisions[3] == 3:  # which have the best rewards
            strategy.refuse()
            refused += 1
            assert refused < 40
        strategy.tell(number, Result((reward_of(decisions),)))


@pytest.mark.skipif(optuna.__version__ < "5", reason="Optuna 4 has no such warning")
def test_deprecated_arguments_are_told_once() -> None:
    with pytest.warns(FutureWarning, match="consider_prior") as told:
        strategy = make_strategy("TPESampler", (3, 3), 0, {"consider_prior": True})
        for _ in range(4):
            strategy.ask()
    assert len(told) == 1
