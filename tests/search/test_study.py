"""The study: what is recorded, for whom, and which studies and databases are refused."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("optuna")
import optuna
import sqlalchemy
from optuna.trial import TrialState
from optuna.visualization.matplotlib import plot_intermediate_values

from nasnet_det.genotypes.genotype import Genotype
from nasnet_det.search import storage
from nasnet_det.search.child import Trained
from nasnet_det.search.driver import child_seed
from nasnet_det.search.records import Task
from nasnet_det.search.storage import StudyError, storage_url
from nasnet_det.search.study import Study
from nasnet_det.search.workers import Job
from tests.search.fakes import SPACE, FakeChild, outcome, rewards, run_search


def test_a_trial_holds_its_genotype_and_measures(tmp_path: Path) -> None:
    run_search(tmp_path, "random", 30)
    study = optuna.load_study(study_name="fake", storage=f"sqlite:///{tmp_path}/study.db")
    assert study.direction == optuna.study.StudyDirection.MAXIMIZE and len(study.trials) == 30
    states = {trial.state for trial in study.trials}
    assert states == {optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.FAIL}
    for trial in study.trials:
        genotype = Genotype.from_dict(trial.user_attrs["genotype"])
        result = FakeChild()(Job(0, 0, genotype, child_seed(3, trial.number))).result
        assert SPACE.genotype(trial.user_attrs["decisions"]) == genotype
        assert trial.user_attrs["seed"] == child_seed(3, trial.number)
        assert trial.user_attrs["status"] == result.status and trial.user_attrs["attempts"] == 1
        if result.status == "ok":
            assert trial.value == result.reward
            assert trial.user_attrs["accuracies"] == list(result.accuracies)
        else:
            assert trial.value is None and trial.user_attrs["message"] == "the loss is not finite"
    assert study.best_value == max(trial.value for trial in study.trials if trial.value is not None)


def begin(study: Study) -> None:
    """Create the first trial."""
    study.create(Task(0, 0, 0, (0,), 0), SPACE.genotype((0,) * len(SPACE.sizes)), seed=1)


def test_a_study_of_another_search_is_refused(tmp_path: Path) -> None:
    identity = {"space": {"blocks": 5}, "recipe": {"epochs": 20}, "seed": 0}
    path = tmp_path / "study.db"
    begin(Study.open(path, "s", identity, {"pending": 9}))
    assert Study.open(path, "s", identity, {"pending": 3}).identity["pending"] == 9
    for change, words in (
        ({"space": {"blocks": 4}}, r"space\.blocks .*\b5\b.*\b4\b"),
        ({"recipe": {"epochs": 2}}, r"recipe\.epochs .*\b20\b.*\b2\b"),
        ({"pending": 3}, r"pending .*\b9\b.*\b3\b"),
        ({"recipe": {}}, r"recipe\.epochs .*\b20\b.*default"),
    ):
        with pytest.raises(StudyError, match=words):
            Study.open(path, "s", {**identity, **change})
    with pytest.raises(StudyError, match=r"'t'.*: s\b"):
        Study.open(path, "t")
    optuna.create_study(study_name="foreign", storage=f"sqlite:///{path}")
    with pytest.raises(StudyError, match="'foreign'"):
        Study.open(path, "foreign", identity)


def test_a_study_that_a_killed_search_has_just_made_is_taken_up(tmp_path: Path) -> None:
    path, identity = tmp_path / "study.db", {"seed": 3}
    optuna.create_study(study_name="s", storage=f"sqlite:///{path}", direction="maximize")
    assert Study.open(path, "s", identity, {"pending": 9}).identity == {"seed": 3, "pending": 9}
    begin(Study.open(path, "s", identity, {"pending": 4}))
    assert Study.open(path, "s", identity, {"pending": 3}).identity["pending"] == 4
    used = optuna.create_study(study_name="used", storage=f"sqlite:///{path}", direction="maximize")
    used.enqueue_trial({})
    with pytest.raises(StudyError, match="'used'"):
        Study.open(path, "used", identity)


def test_two_searches_of_one_study_notice_each_other(tmp_path: Path) -> None:
    studies = [Study.open(tmp_path / "study.db", "s", {"seed": 0}) for _ in range(2)]
    begin(studies[0])
    with pytest.raises(StudyError, match="trial"):
        begin(studies[1])


def test_a_database_that_another_process_is_making_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, problems = storage.RDBStorage, ["UNIQUE constraint failed", "table studies already exists"]

    def both(*arguments: Any, **options: Any) -> optuna.storages.RDBStorage:
        if problems:
            raise sqlalchemy.exc.OperationalError("CREATE", {}, Exception(problems.pop()))
        return make(*arguments, **options)

    monkeypatch.setattr(storage, "RDBStorage", both)
    monkeypatch.setattr(storage.time, "sleep", lambda _: None)
    with pytest.raises(StudyError, match="UNIQUE"):
        Study.open(tmp_path / "study.db", "s", {"seed": 0})
    problems.append("table studies already exists")
    begin(Study.open(tmp_path / "study.db", "s", {"seed": 0}))


def test_a_database_may_be_in_the_home_folder() -> None:
    assert storage_url("sqlite:///~/x.db").database == str(Path.home() / "x.db")


def test_trials_that_others_add_are_left_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("alone", "among"):
        run_search(tmp_path / name, "evolution", 12, rungs=(1, 2))
    storage = f"sqlite:///{tmp_path}/among/study.db"
    study = optuna.load_study(study_name="fake", storage=storage)
    study.tell(study.ask(), state=optuna.trial.TrialState.FAIL)
    study.enqueue_trial(study.trials[3].params)
    for name in ("alone", "among"):
        reports = run_search(tmp_path / name, "evolution", 15, rungs=(1, 2))
    assert outcome(tmp_path / "alone") == outcome(tmp_path / "among") and "alone: 2" in caplog.text
    finished = {report.number for report in reports if report.result is not None}
    assert {14, 15, 16} <= finished and not {12, 13} & finished
    trials = optuna.load_study(study_name="fake", storage=storage).trials
    findings = Study.open(tmp_path / "among" / "study.db", "fake").findings()
    assert all(trials[found.number].user_attrs["decisions"] == list(found.decisions) for found in findings)


def test_trials_that_others_end_are_named(tmp_path: Path) -> None:
    def load() -> optuna.Study:
        return optuna.load_study(study_name="fake", storage=f"sqlite:///{tmp_path}/study.db")

    class Ended(FakeChild):
        def __call__(self, job: Job) -> Trained:
            load().tell(load().trials[-1].number, state=TrialState.FAIL)
            return super().__call__(job)

    with pytest.raises(StudyError, match=r"study\.db.*Trial#0"):
        run_search(tmp_path, "random", 3, evaluator=Ended())
    run_search(tmp_path, "random", 3)
    assert [trial.state.is_finished() for trial in load().trials] == [True] * 3


@pytest.mark.parametrize("state", [TrialState.FAIL, TrialState.COMPLETE])
def test_trials_at_rungs_that_others_end_go_on(
    state: TrialState, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("alone", "among"):
        run_search(tmp_path / name, "random", 5, rungs=(1, 2))
    study = optuna.load_study(study_name="fake", storage=f"sqlite:///{tmp_path}/among/study.db")
    kept = [trial.number for trial in study.trials if not trial.state.is_finished()]
    for number in kept:
        study.tell(number, 0.99 if state == TrialState.COMPLETE else None, state=state)
    for name in ("alone", "among"):
        run_search(tmp_path / name, "random", 20, rungs=(1, 2))
    gone_on = [number for number in kept if f"trial {number}," in caplog.text]
    assert gone_on and all(study.trials[number].value != 0.99 for number in gone_on)
    for one, other in zip(outcome(tmp_path / "alone"), outcome(tmp_path / "among"), strict=True):
        assert one[:-1] == other[:-1]


@pytest.mark.parametrize(
    ("storage", "match"),
    [
        ("postgresql://nobody:secret@127.0.0.1:1/none", r"127\.0\.0\.1:1/none"),
        ("nonsense://", "nonsense"),
        ("redis://localhost", "redis"),
        ("sqlite:///:memory:", "memory"),
        ("oracle://host/x", "oracle"),
    ],
)
def test_an_unreachable_database_is_one_clear_error(storage: str, match: str) -> None:
    if storage.startswith("postgresql"):
        pytest.importorskip("psycopg2")
    with pytest.raises(StudyError, match=match) as caught:
        Study.open(storage, "s", {"seed": 0})
    assert "\n" not in str(caught.value) and "secret" not in str(caught.value)


def test_a_finished_search_is_read_where_nothing_can_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "50% of a #search?"  # signs that mean something in a URL
    run_search(folder, "random", 4)
    expected, files = rewards(folder), sorted(folder.iterdir())
    access = os.access
    monkeypatch.setattr(
        os, "access", lambda path, mode: folder not in (path, *Path(path).parents) and access(path, mode)
    )
    assert rewards(folder) == expected
    assert sorted(folder.iterdir()) == files
    (folder / "study.db-wal").write_bytes(b"trials of a killed search")
    with pytest.raises(StudyError, match=r"study\.db-wal"):
        rewards(folder)


def test_what_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.db").write_text("not a database, but long enough to be looked at" * 30)
    with pytest.raises(StudyError, match=r"text\.db"):
        Study.open(tmp_path / "text.db", "s", {"seed": 0})
    with pytest.raises(StudyError, match=r"absent\.db"):
        Study.open(tmp_path / "absent.db", "s")
    assert not (tmp_path / "absent.db").exists()
    assert storage_url("x.db").drivername == "sqlite"


def test_optunas_importances_and_plots_show_parameters(tmp_path: Path) -> None:
    run_search(tmp_path, "random", 25)
    study = optuna.load_study(study_name="fake", storage=f"sqlite:///{tmp_path}/study.db")
    names = set(SPACE.parameters((0,) * len(SPACE.sizes)))
    assert all(set(trial.params) == set(trial.distributions) == names for trial in study.trials)
    evaluator = optuna.importance.PedAnovaImportanceEvaluator()
    assert set(optuna.importance.get_param_importances(study, evaluator=evaluator)) <= names
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for plot in (optuna.visualization.matplotlib.plot_parallel_coordinate, plot_intermediate_values):
            assert plot(study).lines or plot(study).collections
