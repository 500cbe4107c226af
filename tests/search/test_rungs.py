"""Rungs: who stops, waits and continues; searches with rungs are as deterministic as those without."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("optuna")
import optuna

from nasnet_det.search.optuna_plugins import plugin_names
from nasnet_det.search.records import best
from nasnet_det.search.rungs import Asha, make_pruner, pareto_front, ranked
from nasnet_det.search.study import Study
from tests.search.fakes import FakeChild, Shuffled, outcome, run_search

RUNGS = (1, 2, 4)
CHILD = FakeChild(epochs=4)


def test_asha_continues_the_best_third_of_each_rung() -> None:
    pruner = make_pruner("asha", (1, 3, 9), {"reduction": 3, "keep": 2})
    for trial, accuracy, stopped in ((0, 0.1, []), (1, 0.3, []), (2, 0.2, [0])):  # two are kept
        assert pruner.next() is None
        assert pruner.tell(trial, 0, (accuracy,)) == stopped
    assert pruner.next() == 1 and pruner.next() is None
    pruner.tell(1, 1, (0.4,))
    stopped = [pruner.tell(trial, 0, (accuracy,)) for trial, accuracy in enumerate((0.5, 0.6, 0.7, 0, 0, 0), start=3)]
    assert pruner.next() == 5 and pruner.next() == 4 and pruner.next() is None
    assert [2] in stopped
    pruner.tell(5, 1, (0.8,))
    pruner.tell(4, 1, (0.3,))
    assert pruner.next() == 5  # the best of three at the higher rung
    pruner.tell(5, 2, (0.9,), final=True)
    assert pruner.next() is None


def test_a_failed_child_counts_but_is_not_continued() -> None:
    pruner = Asha((1, 2), reduction=2)
    assert pruner.tell(0, 0, (0.9,), final=True) == pruner.tell(1, 0, (0.1,)) == []
    assert pruner.next() is None


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), max_size=12))
@settings(max_examples=50, deadline=None)
def test_no_point_of_the_front_is_dominated(points: list[tuple[int, int]]) -> None:
    front = pareto_front([(float(a), float(b)) for a, b in points])
    for i, (a, b) in enumerate(points):
        dominated = any(c >= a and d >= b and (c, d) != (a, b) for c, d in points)
        assert (i in front) == (not dominated)
    order = [trial for trial, _ in ranked([(i, (float(a), float(b))) for i, (a, b) in enumerate(points)])]
    assert sorted(order) == list(range(len(points))) and set(order[: len(front)]) == front


@pytest.mark.parametrize(
    ("name", "rungs", "overrides", "named"),
    [
        ("asha", (3, 1), {}, "3, 1"),
        ("asha", (1, 3), {"reduction": 1}, "reduction"),
        ("asha", (1, 3), {"eta": 3}, "eta"),
        ("BestPruner", (1, 3), {}, "BestPruner"),
        ("PercentilePruner", (1, 3), {}, "percentile"),
        ("MedianPruner", (1, 3), {"n_startup_trials": "few"}, "n_startup_trials"),
        ("PatientPruner", (1, 3), {"patience": 1, "wrapped_pruner": "BestPruner"}, "BestPruner"),
        ("PatientPruner", (1, 3, 4), {"patience": 1.5, "wrapped_pruner": "MedianPruner"}, "patience"),
        ("HyperbandPruner", (1, 3), {"reduction_factor": 1}, "reduction_factor"),
        ("HyperbandPruner", (1, 3), {"min_resource": 0}, "min_resource"),
        ("HyperbandPruner", (1, 3), {"min_resource": 2}, "min_resource"),
        ("MedianPruner", (1, 2, 9), {"n_warmup_steps": 3}, "n_warmup_steps"),
        ("SuccessiveHalvingPruner", (1, 3), {"min_early_stopping_rate": 10**9}, "min_early_stopping_rate"),
        ("MedianPruner", (), {}, "--rungs"),
        ("asha", (3,), {"keep": 2}, "--rungs"),
    ],
)
def test_what_makes_no_pruner_is_named(
    name: str, rungs: tuple[int, ...], overrides: dict[str, float | str], named: str
) -> None:
    with pytest.raises(ValueError, match=named):
        make_pruner(name, rungs, overrides)


def test_every_pruner_of_optuna_that_needs_no_argument_decides() -> None:
    made = []
    for name in ["ASHA", *plugin_names("Pruner")]:
        try:
            pruner = make_pruner(name, RUNGS)
        except ValueError:
            continue
        made.append(name)
        for trial in range(12):
            assert {*pruner.tell(trial, 0, (1 - trial / 12,), (1 - trial / 12,))} <= {*range(12)}
        continued = list(iter(pruner.next, None))
        assert {*continued} <= {*range(12)} and continued
    assert {"ASHA", "MedianPruner", "HyperbandPruner", "SuccessiveHalvingPruner", "NopPruner"} <= set(made)
    median = make_pruner("median", RUNGS, {"n_startup_trials": 1})
    stopped = []
    for trial in range(4):
        stopped += median.tell(trial, 0, (1 - trial / 12,), (1 - trial / 12,))
        while (continued_trial := median.next()) is not None:
            stopped += median.tell(continued_trial, 1, (0.9,), (0.5, 0.9))
            assert median.next() == continued_trial
            median.tell(continued_trial, 2, (0.9,), (0.5, 0.9, 0.9, 0.9))
    assert stopped == [1, 2, 3]


def test_a_pruner_may_wrap_another_by_name() -> None:
    patient = make_pruner("patient", (1, 2, 3), {"patience": 0, "wrapped_pruner": "median"})
    for trial, accuracies in enumerate([(0.5, 0.6, 0.7)] * 6 + [(0.4, 0.3, 0.2)]):
        for rung in range(3):
            stopped = patient.tell(trial, rung, accuracies[: rung + 1][-1:], accuracies[: rung + 1])
            if patient.next() is None:
                break
    assert stopped == [6] and rung == 1


@pytest.mark.parametrize("pruner", ["asha", "median"])
def test_the_order_of_results_does_not_matter_at_rungs(pruner: str, tmp_path: Path) -> None:
    for slots in (1, 6):
        workers = Shuffled(slots, seed=slots, evaluator=CHILD, lost=0.1)
        run_search(tmp_path / str(slots), "evolution", 30, 6, workers=workers, retries=50, rungs=RUNGS, pruner=pruner)
    assert outcome(tmp_path / "1") == outcome(tmp_path / "6")


def test_more_trials_continue_as_if_all_had_been_asked_for(tmp_path: Path) -> None:
    for trials in (11, 30):
        run_search(tmp_path / "twice", "guided", trials, evaluator=CHILD, rungs=RUNGS)
    run_search(tmp_path / "once", "guided", 30, evaluator=CHILD, rungs=RUNGS)
    assert outcome(tmp_path / "twice") == outcome(tmp_path / "once")


def test_lost_checkpoints_and_state_change_nothing(tmp_path: Path) -> None:
    for name in ("whole", "lost"):
        run_search(tmp_path / name, "guided", 23, evaluator=CHILD, rungs=RUNGS)
    for path in [*(tmp_path / "lost" / "children").iterdir(), tmp_path / "lost" / "state.safetensors"]:
        path.unlink()
    for name in ("whole", "lost"):
        run_search(tmp_path / name, "guided", 28, evaluator=CHILD, rungs=RUNGS)
    assert outcome(tmp_path / "whole") == outcome(tmp_path / "lost")


def test_trials_at_rungs_are_optunas(tmp_path: Path) -> None:
    run_search(tmp_path, "random", 30, evaluator=CHILD, rungs=RUNGS)
    study = optuna.load_study(study_name="fake", storage=f"sqlite:///{tmp_path}/study.db")
    states = {state: [t for t in study.trials if t.state == state] for state in optuna.trial.TrialState}
    assert states[optuna.trial.TrialState.COMPLETE] and states[optuna.trial.TrialState.PRUNED]
    for trial in states[optuna.trial.TrialState.COMPLETE]:
        assert list(trial.intermediate_values) == [1, 2, 3, 4] and trial.value == trial.intermediate_values[4]
    for trial in states[optuna.trial.TrialState.PRUNED]:
        assert max(trial.intermediate_values) in RUNGS[:2]
    recorded = Study.open(tmp_path / "study.db", "fake")
    findings = recorded.findings()
    epochs = [finding.epochs for finding in best(findings, 30)]
    assert set(epochs) == {1, 2, 4} and epochs == sorted(epochs, reverse=True)
    assert {"stopped", "kept", "ok", "diverged"} == set(recorded.statuses())
    recorded.close()


def test_results_told_as_they_arrive_are_replayed(tmp_path: Path) -> None:
    workers = Shuffled(5, seed=1, evaluator=CHILD)
    run_search(tmp_path, "random", 14, workers=workers, rungs=RUNGS, in_order=False)
    before = outcome(tmp_path)
    run_search(tmp_path, "random", 14, workers=Shuffled(5, seed=2, evaluator=CHILD), rungs=RUNGS, in_order=False)
    assert outcome(tmp_path) == before
    run_search(tmp_path, "random", 22, workers=Shuffled(5, seed=3, evaluator=CHILD), rungs=RUNGS, in_order=False)
    assert len(outcome(tmp_path)) == 22
    with pytest.raises(ValueError, match="PolicyGradient"):
        run_search(tmp_path / "ppo", "ppo", 3, in_order=False)
