"""Strategies by name, and their settings."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from nasnet_det.search.strategies.base import Problem
from nasnet_det.search.strategies.registry import DEFAULT, STRATEGIES, make_strategy, settings_of
from tests.search.strategies.helpers import SIZES


def test_settings_are_plain_values() -> None:
    for name in STRATEGIES:
        strategy = make_strategy(name, SIZES, 0)
        settings = settings_of(strategy)
        assert json.loads(json.dumps(settings)) == settings
        assert make_strategy(name, SIZES, 0, settings).settings == strategy.settings
    assert type(make_strategy("default", SIZES, 0)) is STRATEGIES[DEFAULT][0]
    front = make_strategy("default", SIZES, 0, problem=Problem(("accuracy", "params")))
    assert front.multi_objective
    assert make_strategy("ppo", SIZES, 0, {"minibatch": 7, "clip": None}).settings.minibatch == 7


@pytest.mark.parametrize(
    ("name", "setting", "value"),
    [
        ("ppo", "batch_size", 7),
        ("ppo", "minibatch", 7.5),
        ("ppo", "minibatch", "many"),
        ("ppo", "minibatch", 0),
        ("ppo", "standardize", 1),
        ("ppo", "weight_scale", math.nan),
        ("ppo", "clip", -1),
        ("guided", "random_share", 1.5),
        ("guided", "memory", 1),
        ("guided", "exploration", math.inf),
        ("evolution", "sample", 31),
        ("random", "anything", 1),
    ],
)
def test_impossible_settings_are_refused_by_name(name: str, setting: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"{name}.*{setting}"):
        make_strategy(name, SIZES, 0, {setting: value})


def test_unknown_strategies_and_spaces_are_refused() -> None:
    with pytest.raises(ValueError, match=r"'sa'.*guided"):
        make_strategy("sa", SIZES, 0)
    with pytest.raises(ValueError, match=r"\[2, 0\]"):
        make_strategy("random", (2, 0), 0)
