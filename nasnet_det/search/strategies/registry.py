"""Every strategy by name, as data: a class and its settings."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from nasnet_det.safe_io.settings import build
from nasnet_det.safe_io.values import format_value
from nasnet_det.search.strategies.base import (
    EvolutionSettings,
    NoSettings,
    Problem,
    RandomSearch,
    RegularizedEvolution,
    Strategy,
)
from nasnet_det.search.strategies.guided import GuidedEvolution, GuidedSettings
from nasnet_det.search.strategies.policy_gradient import ControllerSettings, PolicyGradient

#: What is recommended: see docs/search.md for the measurements.
DEFAULT = "guided"
#: The same for several objectives.
DEFAULT_OF_FRONTS = "nsga2"

#: For searches of hundreds of children, where the paper's controller, made for 20,000, would hardly learn anything.
#: docs/search.md says on which tables they were chosen.
_FEW_CHILDREN = ControllerSettings(
    learning_rate=0.015, epochs=2, minibatch=10, entropy_weight=1.2, entropy="log", standardize=True
)
_FEW_CHILDREN_REINFORCE = ControllerSettings(
    learning_rate=0.01, epochs=1, minibatch=20, entropy_weight=0.1, standardize=True, clip=None
)

STRATEGIES: dict[str, tuple[type[Strategy[Any]], Any]] = {
    "guided": (GuidedEvolution, GuidedSettings()),
    "evolution": (RegularizedEvolution, EvolutionSettings()),
    "ppo": (PolicyGradient, _FEW_CHILDREN),
    "ppo_paper": (PolicyGradient, ControllerSettings()),
    "reinforce": (PolicyGradient, _FEW_CHILDREN_REINFORCE),
    "random": (RandomSearch, NoSettings()),
}

#: Short names of Optuna's samplers, with options; every other sampler goes by its class's name.
OPTUNA_SAMPLERS: dict[str, tuple[str, dict[str, Any]]] = {
    "tpe": ("TPESampler", {"constant_liar": True}),
    "nsga2": ("NSGAIISampler", {}),
    "optuna_random": ("RandomSampler", {}),
}
NAMES = (*STRATEGIES, *OPTUNA_SAMPLERS)


def make_strategy(
    name: str, sizes: Sequence[int], seed: int, overrides: Mapping[str, Any] | None = None, problem: Problem = Problem()
) -> Strategy[Any]:
    """Return a new strategy.

    Args:
        name: one of ``NAMES``, ``default``, or a class of ``optuna.samplers``.
        sizes: the number of choices of each decision.
        seed: seed of its random numbers.
        overrides: settings to change; for a sampler of Optuna, its arguments.
        problem: objectives, rungs and what is known of candidates.

    Raises:
        ValueError: if the strategy or a setting is unknown, a value is of the wrong kind, or the strategy searches one
            objective and the problem has several.
    """
    name = resolve_name(name, problem)
    overrides = dict(overrides or {})
    if name in STRATEGIES:
        kind, settings = STRATEGIES[name]
        settings = build(type(settings), {**asdict(settings), **overrides}, what=f"strategy {name}")
        return kind(sizes, seed, settings, problem)
    from nasnet_det.search.strategies.optuna_samplers import OptunaSampler, SamplerSettings

    sampler, options = OPTUNA_SAMPLERS.get(name, (name, {}))
    return OptunaSampler(sizes, seed, SamplerSettings(sampler, {**options, **overrides}), problem)


def resolve_name(name: str, problem: Problem = Problem()) -> str:
    """Return a strategy's name as it is recorded: one of ``NAMES``, or a class of ``optuna.samplers``.

    Args:
        name: in any letter case; ``default`` for the one recommended for the problem.
        problem: decides on the default.

    Raises:
        ValueError: for an unknown name.
    """
    short = name.lower()
    if short == "default":
        return DEFAULT_OF_FRONTS if len(problem.objectives) > 1 else DEFAULT
    if short in NAMES:
        return short
    from nasnet_det.search.optuna_plugins import plugin_name

    try:
        return plugin_name("Sampler", name)
    except ValueError as error:
        raise ValueError(
            f"unknown strategy {format_value(name)}; known: default, {', '.join(NAMES)}. {error}"
        ) from None


def settings_of(strategy: Strategy[Any]) -> dict[str, Any]:
    """Return a strategy's settings as plain values, for JSON."""
    plain: dict[str, Any] = json.loads(json.dumps(asdict(strategy.settings)))
    return plain
