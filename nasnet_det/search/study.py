"""The record of a search: an Optuna study, in an SQLite file or on a server.

A trial is one child. It is created together with its architecture (attributes ``genotype``, ``decisions`` and ``seed``)
in one transaction, gets the decisions as Optuna parameters in another, and stays ``RUNNING`` until its child's last
measures are written. It ends as ``COMPLETE`` with its objectives as values, as ``PRUNED`` if it was stopped at a rung,
or as ``FAIL`` if the child gave no accuracy. The validation accuracy of every epoch is an intermediate value. Optuna's
dashboard, importances and plots read it like any study.

Trials that others add to the study (``optuna.Study.enqueue_trial``) are left alone: neither tried nor reported.

Everything uses :class:`optuna.storages.RDBStorage` itself, and its tables where there are many rows: Optuna's cache in
front of it would hold every trial in memory.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import DuplicatedStudyError, ExperimentalWarning
from optuna.storages import RDBStorage
from optuna.study import StudyDirection
from optuna.trial import TrialState, create_trial
from sqlalchemy.engine import URL

from nasnet_det.genotypes.genotype import Genotype
from nasnet_det.search.child import ChildResult
from nasnet_det.search.identity import check_identity, directions_of, objectives_of
from nasnet_det.search.records import MEASURED, Finding, Record, Step, Task, measured
from nasnet_det.search.storage import StudyError, connect, format_url, storage_errors, storage_url
from nasnet_det.search.trial_rows import (
    TrialRow,
    count_before,
    mark_running,
    read_trials,
    write_accuracies,
    write_parameters,
)

logger = logging.getLogger(__name__)

_MADE = ("genotype", "decisions", "seed")


class Study:
    """One study in a storage, created by :meth:`open`. What cannot be read or written is a :class:`StudyError`.

    Args:
        storage: Optuna's.
        study_id: the study's number in it.
        identity: what the study is of, as it was recorded when it was created.
    """

    def __init__(self, storage: RDBStorage, study_id: int, identity: Mapping[str, Any]) -> None:
        self.storage, self.study_id, self.identity = storage, study_id, dict(identity)
        self._errors = partial(storage_errors, storage.engine.url)

    @property
    def objectives(self) -> tuple[str, ...]:
        """The names of the objectives."""
        return objectives_of(self.identity)

    @classmethod
    def open(
        cls,
        storage: str | Path,
        name: str,
        identity: Mapping[str, Any] | None = None,
        adopt: Mapping[str, Any] | None = None,
    ) -> Study:
        """Open a study, or create it if it does not exist and ``identity`` is given.

        Args:
            storage: the path of an SQLite file, or a database URL.
            name: the study's name in it.
            identity: what a search must not change once it has begun (space, recipe, strategy, seed): plain values;
                None for a setting that is not used, and that studies of earlier releases do not have.
            adopt: more of the same, but where the study has other values, these are taken from it.

        Raises:
            StudyError: if the storage is unusable, or the study does not exist or has another identity.
        """
        url = storage_url(storage)
        with storage_errors(url):
            if identity is None and url.database and url.drivername == "sqlite" and not Path(url.database).is_file():
                raise StudyError(f"no study at {url.database}")
            backend = connect(url, reading=identity is None)
            try:
                study_id = backend.get_study_id_from_name(name)
            except KeyError:
                if identity is None:
                    known = ", ".join(study.study_name for study in backend.get_all_studies()) or "none"
                    raise StudyError(f"{format_url(url)} has no study called {name!r}; it has: {known}") from None
                study_id = _create(backend, name, url, directions_of(identity))
            recorded = backend.get_study_user_attrs(study_id).get("identity")
            if identity is not None and _is_empty(backend, study_id, directions_of(identity)):
                if backend.get_study_directions(study_id) != directions_of(identity):
                    backend.delete_study(study_id)
                    study_id = _create(backend, name, url, directions_of(identity))
                recorded = {**(adopt or {}), **identity}
                backend.set_study_user_attr(study_id, "identity", recorded)
                _name_objectives(backend, name, objectives_of(identity))
            if not isinstance(recorded, dict):
                raise StudyError(f"study {name!r} in {format_url(url)} is not one of this project; choose another name")
            check_identity(f"study {name!r} in {format_url(url)}", recorded, identity or {})
            return cls(backend, study_id, recorded)

    def close(self) -> None:
        """Close the connections."""
        with self._errors():
            self.storage.remove_session()
            self.storage.engine.dispose()

    def create(
        self,
        task: Task,
        genotype: Genotype,
        seed: int,
        measures: Mapping[str, float] | None = None,
        parameters: Mapping[str, tuple[Any, Sequence[Any]]] | None = None,
    ) -> tuple[int, int]:
        """Record a new trial that is to be done; return its id and its number in the study.

        Args:
            task: the task that starts it.
            genotype: its architecture.
            seed: its child's seed.
            measures: what is known of it: ``params``, ``macs``, ``latency``.
            parameters: Optuna's parameters: each one's value and its choices.

        Raises:
            StudyError: if it cannot be written, or another search writes to the same study.
        """
        attributes = {
            "genotype": genotype.to_dict(),
            "decisions": list(task.decisions),
            "seed": seed,
            **(measures or {}),
        }
        if task.refused:
            attributes["refused"] = task.refused
        if self._records_steps:
            attributes["steps"] = [{"task": task.number, "told": task.told}]
        with self._errors():
            template = create_trial(state=TrialState.RUNNING, user_attrs=attributes)
            trial_id = self.storage.create_new_trial(self.study_id, template)
            number = self.storage.get_trial_number_from_id(trial_id)
            if number != task.trial and count_before(self.storage, self.study_id, trial_id, "decisions") != task.trial:
                raise StudyError(
                    f"another search writes to the same study: it made trial {task.trial}; stop one of them"
                )
        self.set_parameters(trial_id, parameters or {})
        return trial_id, number

    def set_parameters(self, trial_id: int, parameters: Mapping[str, tuple[Any, Sequence[Any]]]) -> None:
        """Record a trial's Optuna parameters, each given as its value and its choices."""
        with self._errors():
            write_parameters(self.storage, trial_id, parameters)

    def proceed(self, trial_id: int, task: Task) -> None:
        """Record that a trial is to be continued to its next rung."""
        with self._errors():
            steps = self.storage.get_trial_user_attrs(trial_id)["steps"]
            step = {"task": task.number, "told": task.told}
            self.storage.set_trial_user_attr(trial_id, "steps", [*steps[: task.rung], step])

    def finish(
        self,
        trial_id: int,
        result: ChildResult,
        values: Sequence[float],
        attempts: int = 1,
        final: bool = True,
        arrived: int | None = None,
    ) -> None:
        """Record the result of a task, and the trial's state last if the trial ends with it.

        Args:
            trial_id: the trial's id.
            result: its child's.
            values: its objectives.
            attempts: how often its child was started.
            final: whether the trial ends with it.
            arrived: the position of the result among all results, where they are told as they arrive.
        """
        measures = {key: value for key, value in result.to_dict().items() if value not in ("", []) or key == "status"}
        for key in ("reward", "seed"):
            measures.pop(key, None)
        with self._errors():
            before = self.storage.get_trial_user_attrs(trial_id) if self._records_steps else {}
            for key, value in {**measures, "attempts": attempts}.items():
                self.storage.set_trial_user_attr(trial_id, key, value)
            write_accuracies(self.storage, trial_id, result.accuracies)
            if self._records_steps:
                done = {"status": result.status, "reward": values[0]}
                last = before["steps"][-1] | (done if arrived is None else {**done, "arrived": arrived})
                self.storage.set_trial_user_attr(trial_id, "steps", [*before["steps"][:-1], last])
        if final:
            self.end(trial_id, measured(result), values)

    def end(self, trial_id: int, complete: bool, values: Sequence[float]) -> None:
        """Record that a trial has ended: with its objectives if it is complete, else as failed."""
        state = TrialState.COMPLETE if complete else TrialState.FAIL
        with self._errors():
            self.storage.set_trial_state_values(trial_id, state, list(values) if complete else None)

    def stop(self, trial_id: int, values: Sequence[float]) -> None:
        """Record that a trial was stopped at its rung."""
        with self._errors():
            self.storage.set_trial_state_values(trial_id, TrialState.PRUNED, list(values))

    def reopen(self, trial_id: int, number: int) -> None:
        """Reopen a trial that another program has ended before its child was done."""
        with self._errors():
            mark_running(self.storage, trial_id)
        logger.warning("trial %d, which another program has ended, continues", number)

    def records(self, pending: int = 1) -> list[Record]:
        """Return all trials of the search, by number.

        Args:
            pending: the number of pending tasks, from which follows what a study without rungs does not record.

        Raises:
            StudyError: if trials were removed from the study.
        """
        trials = self._trials()
        if others := self.storage.get_n_trials(self.study_id) - len(trials):
            logger.warning("trials that others added to the study are left alone: %d", others)
        return [
            Record(
                position,
                trial.number,
                trial.trial_id,
                tuple(trial.user_attrs["decisions"]),
                trial.user_attrs["seed"],
                trial.state.is_finished(),
                self._steps(trial, position, pending),
                trial.user_attrs.get("refused", 0),
                trial.user_attrs,
            )
            for position, trial in enumerate(trials)
        ]

    def findings(self) -> list[Finding]:
        """Return the children with an accuracy, by number; stopped ones included."""
        return [
            Finding(
                trial.number,
                Genotype.from_dict(trial.user_attrs["genotype"], f"trial {trial.number}"),
                tuple(trial.user_attrs["decisions"]),
                trial.user_attrs["seed"],
                reward,
                tuple(trial.values),
                trial.state == TrialState.COMPLETE,
                {key: value for key, value in trial.user_attrs.items() if key not in (*_MADE, "steps")},
            )
            for trial in self._trials()
            if (reward := _last_reward(trial)) is not None
        ]

    def statuses(self) -> list[str]:
        """Return the status of every trial with a result, by number; ``stopped`` and ``kept`` for those at rungs."""
        at_rungs = {TrialState.PRUNED: "stopped", TrialState.RUNNING: "kept"}
        return [
            at_rungs.get(trial.state, str(trial.user_attrs.get("status", "crashed")))
            for trial in self._trials()
            if trial.state.is_finished() or _last_reward(trial) is not None
        ]

    @property
    def _records_steps(self) -> bool:
        """True if trials have several tasks, or are told in an order of their own."""
        return bool(self.identity.get("rungs") or self.identity.get("order"))

    def _steps(self, trial: TrialRow, position: int, pending: int) -> tuple[Step, ...]:
        steps = trial.user_attrs.get("steps")
        if steps is not None:
            return tuple(Step(**step) for step in steps)
        told = max(0, position - pending + 1)
        if not trial.state.is_finished():
            return (Step(position, told),)
        reward = trial.values[0] if trial.state == TrialState.COMPLETE else 0.0
        return (Step(position, told, str(trial.user_attrs.get("status", "crashed")), reward),)

    def _trials(self) -> list[TrialRow]:
        with self._errors():
            trials = read_trials(self.storage, self.study_id)
        if [trial.number for trial in trials] != list(range(len(trials))):
            raise StudyError("trials were removed from this study: it cannot be used any more")
        return [trial for trial in trials if trial.user_attrs.keys() >= set(_MADE)]


def _last_reward(trial: TrialRow) -> float | None:
    if trial.state == TrialState.COMPLETE:
        return trial.values[0]
    rewards = [s["reward"] for s in trial.user_attrs.get("steps", ()) if s.get("status") in MEASURED]
    return rewards[-1] if rewards and trial.state != TrialState.FAIL else None


def _create(backend: RDBStorage, name: str, url: URL, directions: list[StudyDirection]) -> int:
    try:
        return backend.create_new_study(directions, name)
    except DuplicatedStudyError:
        raise StudyError(f"another search has just made study {name!r} in {format_url(url)}") from None


def _name_objectives(backend: RDBStorage, name: str, objectives: Sequence[str]) -> None:
    """Name the objectives for Optuna's plots and dashboard."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        optuna.load_study(study_name=name, storage=backend).set_metric_names(list(objectives))


def _is_empty(backend: RDBStorage, study_id: int, directions: list[StudyDirection]) -> bool:
    """Return whether a study of this project has no trials, so that what it is of can still be chosen.

    One without any attribute is that of a search that was killed when it had just created it.
    """
    attributes = backend.get_study_user_attrs(study_id).keys()
    ours = attributes == {"identity"} or (not attributes and backend.get_study_directions(study_id) == directions)
    return ours and backend.get_n_trials(study_id) == 0
