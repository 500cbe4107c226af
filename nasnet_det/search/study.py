"""The record of a search: an Optuna study, in an SQLite file or on a server.

A trial is one child. It is made together with its architecture (attributes ``genotype``, the JSON form, ``decisions``
and ``seed``) in one transaction, stays ``RUNNING`` until its child's measures are written, as attributes, and ends as
``COMPLETE`` with the reward as its value, or as ``FAIL`` if the child gave none. Optuna's dashboard and tools read it
like any study.

Everything goes through :class:`optuna.storages.RDBStorage` itself: the cache that Optuna puts before it keeps every
trial in memory.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import sqlalchemy
from optuna.exceptions import DuplicatedStudyError, StorageInternalError
from optuna.storages import RDBStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import SQLAlchemyError

from nasnet_det.genotypes.genotype import Genotype
from nasnet_det.search.child import ChildResult
from nasnet_det.search.strategies.base import Decisions

#: Statuses that carry an accuracy; any other is recorded as Optuna's FAIL.
MEASURED = ("ok", "stopped_early")
_CONNECT_SECONDS = 10
#: The modules that talk to a server, for a URL that names none: whichever is installed.
_DRIVERS = {"postgresql": ("psycopg", "psycopg2"), "mysql": ("mysqldb", "pymysql")}
_MODULES = {"mysqldb": "MySQLdb"}


class StudyError(RuntimeError):
    """What keeps a search from being recorded, and what to do about it."""


@dataclass(frozen=True)
class Record:
    """A trial as the search sees it. ``reward`` is None while its child is not done."""

    number: int
    trial_id: int
    decisions: Decisions
    seed: int
    reward: float | None


@dataclass(frozen=True)
class Finding:
    """A child with an accuracy."""

    number: int
    genotype: Genotype
    decisions: Decisions
    seed: int
    reward: float
    measures: Mapping[str, Any]


class Study:
    """One study in a storage. Made by :meth:`open`.

    Args:
        storage: Optuna's.
        study_id: the study's number in it.
        identity: what the study is of, as it was recorded when it was made.
    """

    def __init__(self, storage: RDBStorage, study_id: int, identity: Mapping[str, Any]) -> None:
        self.storage, self.study_id, self.identity = storage, study_id, dict(identity)

    @classmethod
    def open(
        cls,
        storage: str | Path,
        name: str,
        identity: Mapping[str, Any] | None = None,
        adopt: Mapping[str, Any] | None = None,
    ) -> Study:
        """Open a study, or make it if there is none and ``identity`` is given.

        Args:
            storage: the path of an SQLite file, or a database URL.
            name: the study's name in it.
            identity: what a search must not change once it has begun (space, recipe, strategy, seed): plain values.
            adopt: more of the same, but where the study has other values, these are taken from it.

        Raises:
            StudyError: if the storage cannot be used, there is no such study, or it has another identity.
        """
        url = storage_url(storage)
        with _storage_errors(url):
            if identity is None and url.database and url.drivername == "sqlite" and not Path(url.database).is_file():
                raise StudyError(f"there is no study at {url.database}")
            backend = _connect(url)
            try:
                study_id = backend.get_study_id_from_name(name)
            except KeyError:
                if identity is None:
                    known = ", ".join(study.study_name for study in backend.get_all_studies()) or "none"
                    raise StudyError(f"{format_url(url)} has no study called {name!r}; it has: {known}") from None
                study_id = _make(backend, name, url)
            recorded = backend.get_study_user_attrs(study_id).get("identity")
            if identity is not None and _is_bare(backend, study_id):
                recorded = {**(adopt or {}), **identity}
                backend.set_study_user_attr(study_id, "identity", recorded)
            if not isinstance(recorded, dict):
                raise StudyError(f"study {name!r} in {format_url(url)} is not one of this project; choose another name")
            _check_identity(name, url, recorded, identity or {})
            return cls(backend, study_id, recorded)

    def close(self) -> None:
        """Give the connections back."""
        with self._errors():
            self.storage.remove_session()
            self.storage.engine.dispose()

    def create(self, number: int, decisions: Decisions, genotype: Genotype, seed: int) -> int:
        """Record that trial ``number`` is to be done; gives its id.

        Raises:
            StudyError: if it cannot be written, or another search writes to the same study.
        """
        attributes = {"genotype": genotype.to_dict(), "decisions": list(decisions), "seed": seed}
        with self._errors():
            trial_id = self.storage.create_new_trial(self.study_id, _running(attributes))
            given = self.storage.get_trial_number_from_id(trial_id)
        if given != number:
            raise StudyError(f"another search writes to the same study: it made trial {number}. Stop one of them")
        return trial_id

    def finish(self, trial_id: int, result: ChildResult, attempts: int = 1) -> float:
        """Record what came of a trial, its state last; gives the reward.

        Raises:
            StudyError: if it cannot be written.
        """
        measured = result.status in MEASURED and math.isfinite(result.reward)
        measures = {key: value for key, value in result.to_dict().items() if value not in ("", []) or key == "status"}
        for key in ("reward", "seed"):
            measures.pop(key, None)
        with self._errors():
            for key, value in {**measures, "attempts": attempts}.items():
                self.storage.set_trial_user_attr(trial_id, key, value)
            if measured:
                self.storage.set_trial_state_values(trial_id, TrialState.COMPLETE, [result.reward])
            else:
                self.storage.set_trial_state_values(trial_id, TrialState.FAIL)
        return result.reward if measured else 0.0

    def records(self) -> list[Record]:
        """All trials, by number.

        Raises:
            StudyError: if one was not made by a search.
        """
        return [
            Record(
                trial.number,
                trial._trial_id,
                tuple(trial.user_attrs["decisions"]),
                trial.user_attrs["seed"],
                _reward(trial),
            )
            for trial in self._trials()
        ]

    def findings(self) -> list[Finding]:
        """The children with an accuracy, by number."""
        made = ("genotype", "decisions", "seed")
        return [
            Finding(
                trial.number,
                Genotype.from_dict(trial.user_attrs["genotype"], f"trial {trial.number}"),
                tuple(trial.user_attrs["decisions"]),
                trial.user_attrs["seed"],
                trial.value,
                {key: value for key, value in trial.user_attrs.items() if key not in made},
            )
            for trial in self._trials()
            if trial.state == TrialState.COMPLETE and trial.value is not None
        ]

    def statuses(self) -> list[str]:
        """The status of every finished trial, by number."""
        return [str(trial.user_attrs.get("status", "crashed")) for trial in self._trials() if trial.state.is_finished()]

    def _trials(self) -> list[FrozenTrial]:
        with self._errors():
            trials = self.storage.get_all_trials(self.study_id, deepcopy=False)
        for number, trial in enumerate(trials):
            if trial.number != number or not {"genotype", "decisions", "seed"} <= trial.user_attrs.keys():
                raise StudyError(f"trial {trial.number} of this study was not made by a search of this project")
        return trials

    @contextmanager
    def _errors(self) -> Iterator[None]:
        with _storage_errors(self.storage.engine.url):
            yield


def best(findings: Sequence[Finding], count: int) -> list[Finding]:
    """The best ``count`` architectures, each once with its best child, as the paper's figure 6 counts unique models;
    of equals the earlier."""
    unique: dict[Decisions, Finding] = {}
    for finding in sorted(findings, key=lambda f: (-f.reward, f.number)):
        unique.setdefault(finding.decisions, finding)
    return list(unique.values())[:count]


def storage_url(storage: str | Path) -> URL:
    """The URL of a database: the given one, or that of an SQLite file.

    Raises:
        StudyError: if it is no URL.
    """
    if isinstance(storage, Path) or "://" not in storage:
        return URL.create("sqlite", database=str(Path(storage).absolute()))
    try:
        url = make_url(storage)
        installed = [name for name in _DRIVERS.get(url.drivername, ()) if find_spec(_MODULES.get(name, name))]
        return url.set(drivername=f"{url.drivername}+{installed[0]}") if installed else url
    except SQLAlchemyError:
        raise StudyError(
            f"{storage!r} is no database URL: expected postgresql://USER:PASSWORD@HOST/DATABASE, "
            "mysql://USER:PASSWORD@HOST/DATABASE or sqlite:///FILE"
        ) from None


def format_url(url: URL) -> str:
    """A URL as messages show it, without its password; an SQLite file by its path."""
    return str(url.database) if url.drivername == "sqlite" else url.render_as_string(hide_password=True)


def _make(backend: RDBStorage, name: str, url: URL) -> int:
    try:
        return backend.create_new_study([StudyDirection.MAXIMIZE], name)
    except DuplicatedStudyError:
        raise StudyError(f"another search has just made study {name!r} in {format_url(url)}") from None


def _is_bare(backend: RDBStorage, study_id: int) -> bool:
    """Whether a study has been made, now or by a search that was killed at that moment, and nothing more."""
    return (
        backend.get_study_directions(study_id) == [StudyDirection.MAXIMIZE]
        and not backend.get_study_user_attrs(study_id)
        and backend.get_n_trials(study_id) == 0
    )


def _connect(url: URL) -> RDBStorage:
    connect: dict[str, Any] = {}
    if url.get_backend_name() == "sqlite":
        connect = {"timeout": 60}
        if url.database:
            Path(url.database).parent.mkdir(parents=True, exist_ok=True)
    elif url.get_backend_name() in ("postgresql", "mysql"):
        connect = {"connect_timeout": _CONNECT_SECONDS}
    backend = RDBStorage(
        url.render_as_string(hide_password=False), engine_kwargs={"connect_args": connect, "pool_pre_ping": True}
    )
    if url.get_backend_name() == "sqlite":
        sqlalchemy.event.listen(backend.engine, "connect", _tune_sqlite)
        backend.engine.dispose()
    return backend


def _tune_sqlite(connection: Any, _: Any) -> None:
    # A search writes often and little. With a write-ahead log a commit need not wait for the disk: a killed process
    # loses nothing, a power failure at most the last trials, and never the file.
    # Not every file system can do that.
    if connection.execute("PRAGMA journal_mode=WAL").fetchone()[0] == "wal":
        connection.execute("PRAGMA synchronous=NORMAL")


@contextmanager
def _storage_errors(url: URL) -> Iterator[None]:
    """Turn what a database may raise into one message."""
    try:
        yield
    except ImportError as error:
        raise StudyError(f"{format_url(url)}: its driver is not installed ({_first_line(error)})") from None
    except (SQLAlchemyError, StorageInternalError, OSError) as error:
        cause = error.__cause__ if isinstance(error, StorageInternalError) and error.__cause__ else error
        words = _first_line(getattr(cause, "orig", None) or cause)
        advice = "free space on its disk, then give the same command" if _full(words) else "is it there and running?"
        raise StudyError(f"the study's database {format_url(url)} cannot be used: {words}; {advice}") from None


def _full(words: str) -> bool:
    return any(sign in words.lower() for sign in ("full", "no space", "quota"))


def _first_line(error: BaseException) -> str:
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__


def _check_identity(name: str, url: URL, recorded: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    differences = list(_differences(recorded, wanted))
    if differences:
        raise StudyError(
            f"study {name!r} in {format_url(url)} is of another search: {'; '.join(differences[:4])}. "
            "Give the settings it was made with, or another --out"
        )


def _differences(recorded: Any, wanted: Any, where: str = "") -> Iterator[str]:
    """What of ``wanted`` is recorded otherwise, in words."""
    if isinstance(recorded, Mapping) and isinstance(wanted, Mapping):
        for key, value in wanted.items():
            yield from _differences(recorded.get(key), value, f"{where}.{key}" if where else str(key))
    elif recorded != wanted:
        yield f"{where} is {_short(recorded)} there and {_short(wanted)} here"


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _running(attributes: Mapping[str, Any]) -> FrozenTrial:
    """A trial to be made, with its attributes in the same transaction."""
    return FrozenTrial(
        number=-1,
        trial_id=-1,
        state=TrialState.RUNNING,
        value=None,
        datetime_start=datetime.now(),
        datetime_complete=None,
        params={},
        distributions={},
        user_attrs=dict(attributes),
        system_attrs={},
        intermediate_values={},
    )


def _reward(trial: FrozenTrial) -> float | None:
    if trial.state == TrialState.COMPLETE:
        return trial.value
    return 0.0 if trial.state.is_finished() else None
