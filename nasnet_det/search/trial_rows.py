"""Rows of Optuna's database, written and read many at a time.

Optuna writes a trial's parameters and intermediate values one by one, each with queries of its own: for the 50
decisions of a pair of cells and 20 epochs that is ten times the work of everything else a trial needs. It also reads
all of them to read a trial, where a search needs attributes and values only. The tables are those of Optuna's models,
and the tests read what is written here through Optuna.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from optuna.distributions import CategoricalDistribution, distribution_to_json
from optuna.storages import RDBStorage
from optuna.storages._rdb import models
from optuna.trial import TrialState
from sqlalchemy import Table, delete, func, insert, select, update

_TRIALS: Table = models.TrialModel.__table__
_ATTRIBUTES: Table = models.TrialUserAttributeModel.__table__
_VALUES: Table = models.TrialValueModel.__table__
_PARAMETERS: Table = models.TrialParamModel.__table__
_INTERMEDIATE: Table = models.TrialIntermediateValueModel.__table__
_FINITE = models.TrialIntermediateValueModel.TrialIntermediateValueType.FINITE


@dataclass
class TrialRow:
    """A trial without its parameters and intermediate values.

    Args:
        number: its number in the study.
        trial_id: its id in the storage.
        state: Optuna's.
        user_attrs: everything that the search recorded of it.
        values: its objectives, empty while it has none.
    """

    number: int
    trial_id: int
    state: TrialState
    user_attrs: dict[str, Any] = field(default_factory=dict)
    values: list[float] = field(default_factory=list)


def read_trials(storage: RDBStorage, study_id: int) -> list[TrialRow]:
    """Return all trials of a study, by number."""
    of_study = _TRIALS.c.study_id == study_id
    trials = select(*_TRIALS.c["trial_id", "number", "state"])
    attributes = select(*_ATTRIBUTES.c["trial_id", "key", "value_json"]).join_from(_TRIALS, _ATTRIBUTES)
    values = select(*_VALUES.c["trial_id", "value"]).join_from(_TRIALS, _VALUES)
    with storage.engine.connect() as connection:
        rows = {
            trial_id: TrialRow(number, trial_id, state)
            for trial_id, number, state in connection.execute(trials.where(of_study).order_by(_TRIALS.c.number))
        }
        for trial_id, key, value_json in connection.execute(attributes.where(of_study)):
            rows[trial_id].user_attrs[key] = json.loads(value_json)
        for trial_id, value in connection.execute(values.where(of_study).order_by(_VALUES.c.objective)):
            rows[trial_id].values.append(value)
    return list(rows.values())


def count_before(storage: RDBStorage, study_id: int, trial_id: int, attribute: str) -> int:
    """Return how many trials of a study were made before one and have an attribute."""
    before = (_TRIALS.c.study_id == study_id) & (_TRIALS.c.trial_id < trial_id) & (_ATTRIBUTES.c.key == attribute)
    with storage.engine.connect() as connection:
        return int(connection.execute(select(func.count()).join_from(_TRIALS, _ATTRIBUTES).where(before)).scalar_one())


def mark_running(storage: RDBStorage, trial_id: int) -> None:
    """Make a trial that has ended a running one without values; Optuna itself changes none that has ended."""
    with storage.engine.begin() as connection:
        connection.execute(delete(_VALUES).where(_VALUES.c.trial_id == trial_id))
        running = {"state": TrialState.RUNNING, "datetime_complete": None}
        connection.execute(update(_TRIALS).where(_TRIALS.c.trial_id == trial_id).values(running))


def write_parameters(storage: RDBStorage, trial_id: int, parameters: Mapping[str, tuple[Any, Sequence[Any]]]) -> None:
    """Set a trial's parameters, each given as its value and its choices."""
    rows = []
    for name, (value, choices) in parameters.items():
        distribution = CategoricalDistribution(tuple(choices))
        row = {"trial_id": trial_id, "param_name": name, "param_value": distribution.to_internal_repr(value)}
        rows.append({**row, "distribution_json": distribution_to_json(distribution)})
    with storage.engine.begin() as connection:
        connection.execute(delete(_PARAMETERS).where(_PARAMETERS.c.trial_id == trial_id))
        if rows:
            connection.execute(insert(_PARAMETERS), rows)


def write_accuracies(storage: RDBStorage, trial_id: int, accuracies: Sequence[float]) -> None:
    """Set a trial's intermediate values: its accuracy after each epoch, counted from 1."""
    rows = [
        {"trial_id": trial_id, "step": epoch, "intermediate_value": accuracy, "intermediate_value_type": _FINITE}
        for epoch, accuracy in enumerate(accuracies, start=1)
    ]
    with storage.engine.begin() as connection:
        connection.execute(delete(_INTERMEDIATE).where(_INTERMEDIATE.c.trial_id == trial_id))
        if rows:
            connection.execute(insert(_INTERMEDIATE), rows)
