"""The search: settings, spaces and states are read, or refused with their own errors."""

from __future__ import annotations

import json
from typing import Any

import pytest

pytest.importorskip("optuna")

from nasnet_det.safe_io.settings import parse_assignments
from nasnet_det.search.child import child_network
from nasnet_det.search.child_config import ChildConfig
from nasnet_det.search.schedule import Outcome, Schedule
from nasnet_det.search.space import SPACES, Space, SpaceError
from nasnet_det.search.storage import StudyError
from nasnet_det.search.strategies.base import Result
from nasnet_det.search.strategies.registry import STRATEGIES, make_strategy
from tests.fuzz.conftest import Fuzz
from tests.fuzz.engine import Case
from tests.fuzz.mutate import spoil_bytes, spoil_header, spoil_settings, spoil_text, spoil_value


def test_child_settings(fuzz: Fuzz) -> None:
    """``--child KEY=VALUE`` of a search."""

    def attempt(case: Case) -> None:
        small = {"num_cells": 1, "num_filters": 4, "epochs": 1, "stop_rules": [[1, 0.1]], "whitening": "image"}
        settings = spoil_settings({**ChildConfig("").to_dict(), **small}, case, ("compile", "graph", [[1, 2, 3]]))
        large = [k for k, v in settings.items() if k in small and isinstance(v, int) and abs(v) > 64]
        settings = {key: value for key, value in settings.items() if key not in large}
        with case.allows(ValueError):
            config = ChildConfig.from_dict({"data": "", **small, **settings})
            child_network(SPACES["nasnet_a"].genotype([0] * 50), config)
            assert config.recipe.epochs == config.epochs

    fuzz(attempt, share=0.3)


def test_assignments(fuzz: Fuzz) -> None:
    def attempt(case: Case) -> None:
        with case.allows(ValueError):
            parse_assignments([spoil_text("stop_rules=[[1,0.5]]", case), "epochs=2"])

    fuzz(attempt)


def test_search_space(fuzz: Fuzz) -> None:
    def attempt(case: Case) -> None:
        data = spoil_settings(case.random.choice(list(SPACES.values())).to_dict(), case, ("concat", "identity", 9))
        if case.number % 2 and not isinstance(data.get("blocks"), int):
            data["blocks"] = 3
        with case.allows(SpaceError):
            space = Space.from_dict(data)
            if space.blocks < 50:
                decisions = spoil_value([size - 1 for size in space.sizes], case)
                assert space.genotype(space.decisions(space.genotype(decisions))) == space.genotype(decisions)

    fuzz(attempt)


def test_strategy_settings(fuzz: Fuzz) -> None:
    def attempt(case: Case) -> None:
        name, settings = case.random.choice([(name, settings) for name, (_, settings) in STRATEGIES.items()])
        values: dict[str, Any] = {key: getattr(settings, key) for key in settings.__dataclass_fields__}
        # Large numbers are valid, but take long and much memory.
        spoiled = spoil_settings(values, case) if values else {}
        spoiled = {k: v for k, v in spoiled.items() if not (isinstance(v, int | float) and abs(v) > 1000)}
        with case.allows(ValueError):
            strategy = make_strategy(name, (2, 3, 5, 4), 0, spoiled)
            for _ in range(3):
                strategy.ask()
                strategy.tell(strategy.trials - 1, Result((0.5,)))
        case.refused |= not values

    fuzz(attempt)


@pytest.mark.parametrize("name", ["random", "evolution", "reinforce", "default"])
def test_search_state(name: str, fuzz: Fuzz, tmp_path_factory: pytest.TempPathFactory) -> None:
    path, sizes = tmp_path_factory.mktemp("search") / "search.safetensors", (2, 3, 5, 4)
    before = Schedule(make_strategy(name, sizes, 0), 2, path)
    outcomes = {}
    for number in range(40):
        task = before.choose(99)
        assert task is not None
        outcomes[number] = Outcome(Result((sum(task.decisions) / 10,)))
        before.result(number, outcomes[number])
    tasks = list(before.tasks)
    before.save()
    data = path.read_bytes()

    def attempt(case: Case) -> None:
        path = case.folder / "search.safetensors"
        path.write_bytes(spoil_bytes(data, case) if case.random.random() < 0.4 else _other_header(data, case))
        schedule = Schedule(make_strategy(name, sizes, 0), 2, path)
        with case.allows(StudyError, naming=path, making=("search.safetensors",)):
            schedule.restore(tasks, outcomes)
            for _ in range(2):
                task = schedule.choose(99)
                assert task is not None and all(0 <= d < size for d, size in zip(task.decisions, sizes, strict=True))
                schedule.result(task.number, Outcome(Result((0.5,))))

    fuzz(attempt, share=0.5)


def _other_header(data: bytes, case: Case) -> bytes:
    """Return a safetensors file whose header is spoiled, or the JSON state in it."""

    def change(header: dict[str, Any]) -> Any:
        if case.random.random() < 0.3:
            return spoil_value(header, case)
        state = json.dumps(spoil_value(json.loads(header["__metadata__"]["state"]), case))
        return {**header, "__metadata__": {**header["__metadata__"], "state": state}}

    return spoil_header(data, change)
