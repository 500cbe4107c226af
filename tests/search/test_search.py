"""Schedule and driver: in which order trials are made, and that no kill changes what comes out."""

from __future__ import annotations

import itertools
import random
import sqlite3
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import pytest

pytest.importorskip("optuna")
import optuna
import sqlalchemy

from nasnet_det.search.candidates import LimitError, SpaceCandidates
from nasnet_det.search.child import DeviceLost, Trained
from nasnet_det.search.limits import parse_demands
from nasnet_det.search.records import Task, best, front
from nasnet_det.search.schedule import Outcome, Schedule
from nasnet_det.search.space import Space
from nasnet_det.search.storage import StudyError
from nasnet_det.search.strategies.base import Result, uniform
from nasnet_det.search.strategies.registry import make_strategy
from nasnet_det.search.study import Study
from nasnet_det.search.workers import InProcess, Job, WorkersError
from tests.helpers import kill_at_random
from tests.search.fakes import SIZE, SPACE, FakeChild, Shuffled, outcome, rewards, run_search, same_state


@pytest.mark.parametrize("strategy", ["ppo", "guided", "tpe"])
def test_the_order_of_results_does_not_matter(strategy: str, tmp_path: Path) -> None:
    for slots in (1, 9):
        run_search(tmp_path / str(slots), strategy, 45, pending=9, workers=Shuffled(slots, seed=slots))
    assert outcome(tmp_path / "1") == outcome(tmp_path / "9")
    assert same_state(tmp_path / "1", tmp_path / "9")


@pytest.mark.parametrize("pending", [1, 7])
def test_more_trials_continue_as_if_all_had_been_asked_for(pending: int, tmp_path: Path) -> None:
    for trials in (23, 40):
        run_search(tmp_path / "twice", "ppo", trials, pending)
    run_search(tmp_path / "once", "ppo", 40, pending)
    assert outcome(tmp_path / "twice") == outcome(tmp_path / "once")
    assert same_state(tmp_path / "twice", tmp_path / "once")
    assert len(run_search(tmp_path / "once", "ppo", 40, pending)) == 1  # nothing left to do


def test_the_state_can_be_found_again_from_the_study_alone(tmp_path: Path) -> None:
    run_search(tmp_path / "a", "ppo", 25)
    run_search(tmp_path / "b", "ppo", 25)
    (tmp_path / "b" / "state.safetensors").unlink()
    for out in ("a", "b"):
        run_search(tmp_path / out, "ppo", 42)
    assert outcome(tmp_path / "a") == outcome(tmp_path / "b") and same_state(tmp_path / "a", tmp_path / "b")


def test_a_state_that_is_ahead_of_the_study_is_not_trusted(tmp_path: Path) -> None:
    """As after a power failure that took the last trials."""
    run_search(tmp_path / "a", "ppo", 42)
    run_search(tmp_path / "b", "ppo", 15)
    (tmp_path / "b" / "state.safetensors").write_bytes((tmp_path / "a" / "state.safetensors").read_bytes())
    run_search(tmp_path / "b", "ppo", 42)
    assert outcome(tmp_path / "a") == outcome(tmp_path / "b") and same_state(tmp_path / "a", tmp_path / "b")


def test_a_damaged_or_foreign_state_is_named(tmp_path: Path) -> None:
    run_search(tmp_path, "ppo", 30)
    state = tmp_path / "state.safetensors"
    whole = state.read_bytes()
    state.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(StudyError, match=r"state\.safetensors"):
        run_search(tmp_path, "ppo", 40)
    with sqlite3.connect(tmp_path / "study.db") as database:
        database.execute("update trial_user_attributes set value_json = '[0]' where key = 'decisions' and trial_id = 5")
    state.unlink()
    with pytest.raises(StudyError, match="trial 4"):
        run_search(tmp_path, "ppo", 40)


@pytest.mark.parametrize(("strategy", "pending", "rungs"), [("ppo", 1, ()), ("guided", 5, (1, 2, 4))])
def test_a_search_killed_at_random_moments_ends_where_it_would_have(
    strategy: str, pending: int, rungs: tuple[int, ...], tmp_path: Path
) -> None:
    child = FakeChild(0.01, epochs=4)
    began = time.monotonic()
    run_search(tmp_path / "calm", strategy, 30, pending, child, rungs=rungs)
    seconds = time.monotonic() - began

    def continued() -> None:
        run_search(tmp_path / "killed", strategy, 30, pending, child, rungs=rungs)

    assert kill_at_random(continued, (), 8, seconds / 6, seed=pending) >= 3
    assert outcome(tmp_path / "killed") == outcome(tmp_path / "calm")
    assert None not in rewards(tmp_path / "killed") and len(rewards(tmp_path / "killed")) == 30
    assert same_state(tmp_path / "killed", tmp_path / "calm")
    for folder in (tmp_path / "killed", tmp_path / "calm"):
        kept = {f"trial_{number:06d}.pt" for number, *_, finished in outcome(folder) if not finished}
        assert {path.name for path in folder.glob("children/*")} == kept


def test_a_search_killed_between_the_last_result_and_the_trials_state_records_the_state(tmp_path: Path) -> None:
    child = FakeChild(epochs=4)
    for folder in ("killed", "calm"):
        run_search(tmp_path / folder, "guided", 25, 5, child, rungs=(1, 2, 4))
    with sqlite3.connect(tmp_path / "killed" / "study.db") as database:
        for state in ("COMPLETE", "FAIL"):
            last = database.execute("select max(trial_id) from trials where state = ?", [state]).fetchone()
            assert last != (None,)
            database.execute("update trials set state = 'RUNNING', datetime_complete = null where trial_id = ?", last)
            database.execute("delete from trial_values where trial_id = ?", last)
    run_search(tmp_path / "killed", "guided", 25, 5, child, rungs=(1, 2, 4))
    assert outcome(tmp_path / "killed") == outcome(tmp_path / "calm")
    assert same_state(tmp_path / "killed", tmp_path / "calm")


def test_lost_children_are_tried_again_and_counted_once(tmp_path: Path) -> None:
    run_search(tmp_path / "calm", "evolution", 35, pending=6)
    workers = Shuffled(3, seed=0, lost=0.3)
    run_search(tmp_path / "losses", "evolution", 35, pending=6, workers=workers, retries=50)
    assert sorted(workers.evaluated) == list(range(35))
    assert outcome(tmp_path / "losses") == outcome(tmp_path / "calm")
    assert same_state(tmp_path / "losses", tmp_path / "calm")
    study = Study.open(tmp_path / "losses" / "study.db", "fake")
    assert max(finding.measures["attempts"] for finding in study.findings()) > 1
    study.close()


def test_a_child_that_takes_its_worker_with_it_is_given_up(tmp_path: Path) -> None:
    reports = run_search(tmp_path, "random", 3, workers=Shuffled(1, seed=0, lost=1.0), retries=2)
    results = [report.result for report in reports[1:]]
    assert all(result is not None and result.status == "crashed" for result in results)
    assert results[0] is not None and results[0].message == "its worker was lost 3 times, last: killed"
    study = optuna.load_study(study_name="fake", storage=f"sqlite:///{tmp_path}/study.db")
    assert [trial.user_attrs["attempts"] for trial in study.trials] == [3, 3, 3]
    assert rewards(tmp_path) == [0.0, 0.0, 0.0]


class Failing(FakeChild):
    """Fails in trial 5 for a reason that is not the child's."""

    error: Exception = OSError("the data are gone")

    def __call__(self, job: Job) -> Trained:
        if job.trial == 5:
            raise self.error
        return super().__call__(job)


class OnBrokenDevice(Failing):
    error = DeviceLost("cuda:0: launch failure")


def test_what_is_not_the_child_s_fault_stops_the_search_and_loses_nothing(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="the data are gone"):
        run_search(tmp_path / "a", "ppo", 20, evaluator=Failing())
    with pytest.raises(WorkersError, match="trial 5 "):
        run_search(tmp_path / "b", "ppo", 20, evaluator=OnBrokenDevice())
    run_search(tmp_path / "calm", "ppo", 20)
    for name in "ab":
        assert len([reward for reward in rewards(tmp_path / name) if reward is not None]) == 5
        run_search(tmp_path / name, "ppo", 20)
        assert outcome(tmp_path / name) == outcome(tmp_path / "calm")


def test_a_full_disk_stops_the_search_cleanly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SQLite is allowed so many pages, and says of one more what it says of a full disk."""
    run_search(tmp_path / "calm", "ppo", 40)
    opened = Study.open

    def limited(*arguments: Any) -> Study:
        study = opened(*arguments)
        with sqlite3.connect(tmp_path / "full" / "study.db") as database:
            pages = database.execute("PRAGMA page_count").fetchone()[0] + 3

        def limit(connection: Any, _: Any) -> None:
            connection.execute(f"PRAGMA max_page_count={pages}")

        sqlalchemy.event.listen(study.storage.engine, "connect", limit)
        study.storage.engine.dispose()
        return study

    with monkeypatch.context() as patch:
        patch.setattr(Study, "open", limited)
        patch.setattr(time, "sleep", lambda _: None)  # Optuna's, before it tries again
        with pytest.raises(StudyError, match=r"study\.db"):
            run_search(tmp_path / "full", "ppo", 40)
    done = [reward for reward in rewards(tmp_path / "full") if reward is not None]
    assert 0 < len(done) < 40
    run_search(tmp_path / "full", "ppo", 40)
    assert outcome(tmp_path / "full") == outcome(tmp_path / "calm")
    assert same_state(tmp_path / "full", tmp_path / "calm")


def test_a_state_that_cannot_be_written_stops_the_search_cleanly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nasnet_det.search import strategy_state

    def fail(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(strategy_state, "save_file", fail)
        with pytest.raises(StudyError, match="No space left on device"):
            run_search(tmp_path, "ppo", 30)
    assert not list(tmp_path.glob(".*.part"))
    run_search(tmp_path, "ppo", 30)


def test_results_wait_for_their_turn() -> None:
    schedule = Schedule(make_strategy("evolution", SPACE.sizes, 0), pending=3)
    half = Outcome(Result((0.5,)))
    for _ in range(3):
        assert schedule.choose(10) is not None
    assert schedule.choose(10) is None
    schedule.result(1, half)
    assert schedule.choose(10) is None and schedule.told == 0
    schedule.result(0, half)
    assert schedule.choose(10) is not None
    assert (len(schedule.tasks), schedule.told) == (4, 1)


def test_the_best_are_different_architectures(tmp_path: Path) -> None:
    run_search(tmp_path, "random", 40)
    study = Study.open(tmp_path / "study.db", "fake")
    findings = study.findings()
    ranked = best(findings, 5)
    assert ranked[0].reward == max(finding.reward for finding in findings)
    assert len({finding.decisions for finding in ranked}) == 5
    assert [f.reward for f in ranked] == sorted((f.reward for f in ranked), reverse=True)


def test_in_process_workers_do_one_child_at_a_time() -> None:
    workers = InProcess(FakeChild())
    genotype = SPACE.genotype((0,) * len(SPACE.sizes))
    job = Job(7, 7, genotype, 11)
    workers.submit(job)
    (outcome,) = workers.wait()
    assert (outcome.number, outcome.trained) == (7, FakeChild()(job))


def test_candidates_beyond_a_limit_become_no_trials(tmp_path: Path) -> None:
    rng = random.Random(0)
    limit = median(SIZE.cost(SPACE.genotype(uniform(SPACE.sizes, rng))).params for _ in range(50))
    for out in ("calm", "interrupted"):
        trials = (10, 24) if out == "interrupted" else (24,)
        for count in trials:
            run_search(tmp_path / out, "guided", count, pending=3, limits=[f"params={limit:.0f}"])
    assert outcome(tmp_path / "calm") == outcome(tmp_path / "interrupted")
    assert same_state(tmp_path / "calm", tmp_path / "interrupted")
    study = Study.open(tmp_path / "calm" / "study.db", "fake")
    records = study.records()
    study.close()
    assert all(SIZE.cost(SPACE.genotype(record.decisions)).params <= limit for record in records)
    assert sum(record.refused for record in records) > 0
    with pytest.raises(StudyError, match="demands"):
        run_search(tmp_path / "calm", "guided", 25, pending=3)


@pytest.mark.parametrize("limits", [(), ("params=2.9k",)])
@pytest.mark.parametrize("strategy", ["GridSampler", "BruteForceSampler"])
def test_a_search_ends_when_its_sampler_has_listed_all(strategy: str, limits: Sequence[str], tmp_path: Path) -> None:
    space = Space(blocks=1, operations=("identity",), combiners=("add",))
    for name, numbers in (("once", (40,)), ("often", (3, 9, 40, 41))):
        for trials in numbers:
            run_search(tmp_path / name, strategy, trials, space=space, limits=limits)
    assert outcome(tmp_path / "once") == outcome(tmp_path / "often")
    tried = [decisions for _, decisions, *_ in outcome(tmp_path / "once")]
    allowed = [every for every in itertools.product(*map(range, space.sizes)) if meets(space, every, limits)]
    assert sorted(tried) == allowed and (len(allowed) < 16) == bool(limits)


def meets(space: Space, decisions: tuple[int, ...], limits: Sequence[str]) -> bool:
    return SpaceCandidates(space, SIZE, parse_demands(limits)).allowed(decisions)


def test_limits_that_nothing_meets_end_the_search(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(LimitError, match=r"params=10\D"):
        run_search(tmp_path, "ppo", 3, limits=["params=10", "macs=1M"])
    assert rewards(tmp_path) == []
    assert "params=10" in caplog.text  # long before the end
    run_search(tmp_path, "random", 3, objectives=["accuracy", "params"])
    assert len(rewards(tmp_path)) == 3, "a study without trials takes other settings"


def test_a_front_is_searched_and_recorded(tmp_path: Path) -> None:
    run_search(tmp_path, "random", 12, objectives=["accuracy", "params"])
    study = optuna.load_study(study_name="fake", storage=f"sqlite:///{tmp_path}/study.db")
    assert [direction.name for direction in study.directions] == ["MAXIMIZE", "MINIMIZE"]
    assert study.metric_names == ["accuracy", "params"]
    recorded = Study.open(tmp_path / "study.db", "fake")
    found = {finding.number: finding.values for finding in front(recorded.findings(), recorded.objectives)}
    recorded.close()
    assert found == {trial.number: tuple(trial.values) for trial in study.best_trials}
    with pytest.raises(ValueError, match="params"):
        run_search(tmp_path / "guided", "evolution", 3, objectives=["accuracy", "params"])


def test_refused_latencies_are_replayed(tmp_path: Path) -> None:
    """Latencies of refused candidates are not recorded; the strategy does not propose these candidates again."""
    asked = {"limits": ["latency=4.8ms"], "space": Space(1, ("identity", "sep_conv_3x3"), ("add",))}
    for name, numbers in (("calm", (13,)), ("stopped", (11, 12, 13))):
        for trials in numbers:
            run_search(tmp_path / name, "guided", trials, **asked)
            if trials == 12:
                (tmp_path / name / "state.safetensors").unlink()
    assert outcome(tmp_path / "calm") == outcome(tmp_path / "stopped")


def test_a_search_for_a_latency_is_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = {"objectives": ["accuracy", "latency"], "pending": 3}
    run_search(tmp_path / "calm", "nsga2", 8, **asked)
    create = Study.create

    def killed(study: Study, task: Task, *more: Any) -> tuple[int, int]:
        if task.number == 5:  # its state is saved, itself is not recorded
            raise KeyboardInterrupt
        return create(study, task, *more)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Study, "create", killed)
        run_search(tmp_path / "killed", "nsga2", 8, **asked)
    run_search(tmp_path / "killed", "nsga2", 8, **asked)
    assert outcome(tmp_path / "killed") == outcome(tmp_path / "calm")


def test_a_signal_lost_in_a_destructor_still_stops_the_search(tmp_path: Path) -> None:
    asked: list[int] = []

    def should_stop() -> bool:
        asked.append(0)
        return len(asked) == 3

    with pytest.raises(KeyboardInterrupt):
        run_search(tmp_path, "random", 9, should_stop=should_stop)
    assert rewards(tmp_path)[:3] and None not in rewards(tmp_path)[:3] and len(rewards(tmp_path)) < 9
