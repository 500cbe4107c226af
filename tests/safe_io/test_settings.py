"""The ``KEY=VALUE`` grammar, and settings classes built from plain values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field

from nasnet_det.safe_io.settings import build, parse_assignments


class StudyError(ValueError):
    """An error class of a caller."""


@dataclass(frozen=True)
class Settings:
    """Settings of several kinds."""

    minibatch: Annotated[int, Field(ge=1)]
    optimizer: Literal["sgd", "adam"] = "sgd"
    rate: float = 1.0
    rungs: tuple[tuple[int, float], ...] = ()
    compiled: bool | None = None

    def __post_init__(self) -> None:
        if self.rate > 100:
            raise ValueError("rate is too large")


def test_values_become_a_dataclass() -> None:
    assert build(Settings, {"minibatch": 2}) == Settings(2)
    assert build(Settings, {"minibatch": 2, "rate": 3, "rungs": [[1, 2]]}) == Settings(2, rate=3.0, rungs=((1, 2.0),))


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({}, "minibatch"),
        ({"minibatch": 7.5}, "minibatch"),
        ({"minibatch": True}, "minibatch"),
        ({"minibatch": "8"}, "minibatch"),
        ({"minibatch": 0}, "minibatch"),
        ({"minibatch": 1, "optimizer": "lion"}, "optimizer"),
        ({"minibatch": 1, "rate": float("nan")}, "rate"),
        ({"minibatch": 1, "rate": 101.0}, "rate"),
        ({"minibatch": 1, "rungs": [[1]]}, "rungs"),
        ({"minibatch": 1, "compiled": "yes"}, "compiled"),
        ({"minibatch": 1, "ratee": 1.0}, "ratee"),
        ({"minibatch": object()}, "minibatch"),
        ([], "strategy"),
    ],
)
def test_a_wrong_setting_is_named(values: Any, named: str) -> None:
    with pytest.raises(StudyError, match=f"^strategy ppo: .*{named}" if named != "strategy" else named):
        build(Settings, values, StudyError, "strategy ppo")


@given(st.dictionaries(st.from_regex(r"[a-z_]{1,8}", fullmatch=True), st.integers() | st.booleans() | st.none()))
def test_assignments_give_the_values_back(settings: dict[str, Any]) -> None:
    words = [f"{key}={'null' if value is None else str(value).lower()}" for key, value in settings.items()]
    assert parse_assignments(words) == settings


def test_values_are_yaml_and_numbers_without_a_dot_are_numbers() -> None:
    words = ["a=5e-4", "b={x: 1e3, y: [2]}", "c=text", "d=", "e=x=y"]
    assert parse_assignments(words) == {"a": 0.0005, "b": {"x": 1000.0, "y": [2]}, "c": "text", "d": None, "e": "x=y"}


@pytest.mark.parametrize("word", ["minibatch", "=5", "a={", "a=[" + "[" * 2000, ""])
def test_a_word_that_is_no_assignment_is_refused(word: str) -> None:
    with pytest.raises(StudyError):
        parse_assignments([word], StudyError)
