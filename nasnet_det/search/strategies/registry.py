"""Every strategy by name, as data: a class and its settings."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields, replace
from typing import Any

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

#: For searches of hundreds of children, where the paper's controller, made for 20,000, would hardly learn anything.
#: Chosen on NAS-Bench-201's CIFAR-100 and ImageNet16-120 tables; the CIFAR-10 table, which is reported, had no say.
_FEW_CHILDREN = ControllerSettings(learning_rate=0.002, epochs=5, entropy_weight=0.1, standardize=True)

STRATEGIES: dict[str, tuple[type[Strategy[Any]], Any]] = {
    "guided": (GuidedEvolution, GuidedSettings()),
    "evolution": (RegularizedEvolution, EvolutionSettings()),
    "ppo": (PolicyGradient, _FEW_CHILDREN),
    "ppo_paper": (PolicyGradient, ControllerSettings()),
    "reinforce": (PolicyGradient, replace(_FEW_CHILDREN, clip=None, epochs=1, learning_rate=0.01)),
    "random": (RandomSearch, NoSettings()),
}

#: Optuna's own, made only where Optuna is installed.
OPTUNA_SAMPLERS: dict[str, dict[str, Any]] = {
    "tpe": {"sampler": "TPESampler", "options": (("constant_liar", True),)},
    "nsga2": {"sampler": "NSGAIISampler"},
    "optuna_random": {"sampler": "RandomSampler"},
}
NAMES = (*STRATEGIES, *OPTUNA_SAMPLERS)

_LARGEST = 1e9


def make_strategy(
    name: str,
    sizes: Sequence[int],
    seed: int,
    overrides: Mapping[str, Any] | None = None,
    problem: Problem = Problem(),
) -> Strategy[Any]:
    """A strategy by name.

    Args:
        name: one of ``NAMES``, or ``default``.
        sizes: the number of choices of each decision.
        seed: of its random numbers.
        overrides: settings to change.
        problem: objectives, rungs and what is known of candidates.

    Raises:
        ValueError: if there is no such strategy or setting, or a value is of the wrong kind.
    """
    name = DEFAULT if name == "default" else name
    if name in STRATEGIES:
        kind, settings = STRATEGIES[name]
    elif name in OPTUNA_SAMPLERS:
        from nasnet_det.search.strategies.optuna_samplers import OptunaSampler, SamplerSettings

        kind, settings = OptunaSampler, SamplerSettings(**OPTUNA_SAMPLERS[name])
    else:
        raise ValueError(f"no strategy is called {format_value(name)}; there are default, {', '.join(NAMES)}")
    return kind(sizes, seed, _changed(name, settings, overrides or {}), problem)


def settings_of(strategy: Strategy[Any]) -> dict[str, Any]:
    """A strategy's settings as plain values, for JSON."""
    plain: dict[str, Any] = json.loads(json.dumps(asdict(strategy.settings)))
    return plain


def _changed(name: str, settings: Any, overrides: Mapping[str, Any]) -> Any:
    known = {field.name: getattr(settings, field.name) for field in fields(settings)}
    for key, value in overrides.items():
        if key not in known:
            raise ValueError(f"strategy {name} has no setting {format_value(key)}; it has {', '.join(known) or 'none'}")
        number = isinstance(known[key], int | float) and not isinstance(known[key], bool)
        whole = isinstance(known[key], int)
        preprocess = isinstance(value, int if whole else int | float) and not isinstance(value, bool)
        if (number and not preprocess) or (isinstance(known[key], bool) and not isinstance(value, bool)):
            raise ValueError(f"setting {key} of strategy {name} is like {known[key]!r}, not {format_value(value)}")
        if number and not abs(value) <= _LARGEST:  # nor is "not a number"
            raise ValueError(f"setting {key} of strategy {name} is at most {_LARGEST:g}, not {format_value(value)}")
    return replace(settings, **overrides)
