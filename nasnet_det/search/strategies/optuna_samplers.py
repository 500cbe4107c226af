"""Optuna's own samplers as strategies, for comparison."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import optuna
from optuna.distributions import CategoricalDistribution
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, TrialState, create_trial

from nasnet_det.search.strategies.base import Decisions, Problem, Strategy


@dataclass(frozen=True)
class SamplerSettings:
    """Which sampler.

    Args:
        sampler: the name of a class in ``optuna.samplers`` that takes a seed.
        options: what else to give it.
    """

    sampler: str = "TPESampler"
    options: tuple[tuple[str, Any], ...] = ()


class OptunaSampler(Strategy[SamplerSettings]):
    """A sampler over one categorical parameter for each decision, in a study of its own in memory.

    The sampler is made anew for every ask, its seed drawn from the strategy's and the ask's number: then all its state
    lies in the trials, and can be saved. Its cost grows with the number of trials.
    """

    settings_type = SamplerSettings

    def __init__(
        self,
        sizes: Sequence[int],
        seed: int,
        settings: SamplerSettings = SamplerSettings(),
        problem: Problem = Problem(),
    ) -> None:
        super().__init__(sizes, seed, settings, problem)
        self.choices = {f"decision_{i:03d}": CategoricalDistribution(range(size)) for i, size in enumerate(sizes)}
        self._make_sampler(0)
        self._start([])

    def _ask(self) -> Decisions:
        number = len(self.study.get_trials(deepcopy=False))
        self.study.sampler = self._make_sampler(number)
        trial = self.study.ask(dict(self.choices))
        self.updates += 1
        return tuple(trial.params[name] for name in self.choices)

    def _tell(self, decisions: Decisions, reward: float) -> None:
        self.study.tell(self.told, reward)
        self.told += 1

    def _state(self) -> dict[str, Any]:
        trials = self.study.get_trials(deepcopy=False)
        return {
            "trials": [[list(trial.params.values()), trial.value, trial.system_attrs] for trial in trials],
        }

    def _load(self, state: Mapping[str, Any]) -> None:
        self._start(state["trials"])

    def _start(self, trials: Sequence[Any]) -> None:
        before = optuna.logging.get_verbosity()
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        try:
            self.study = optuna.create_study(direction="maximize")
        finally:
            optuna.logging.set_verbosity(before)
        self.study.add_trials([self._trial(*trial) for trial in trials])
        self.told = sum(value is not None for _, value, _ in trials)

    def _trial(self, decisions: Sequence[int], value: float | None, system_attrs: Mapping[str, Any]) -> FrozenTrial:
        return create_trial(
            state=TrialState.RUNNING if value is None else TrialState.COMPLETE,
            value=value,
            params=dict(zip(self.choices, decisions, strict=True)),
            distributions=dict(self.choices),
            system_attrs=dict(system_attrs),
        )

    def _make_sampler(self, number: int) -> BaseSampler:
        kind = getattr(optuna.samplers, self.settings.sampler, None)
        if not (isinstance(kind, type) and issubclass(kind, BaseSampler)):
            raise ValueError(f"Optuna has no sampler called {self.settings.sampler!r}")
        seed = int(np.random.SeedSequence((self.seed, number)).generate_state(1)[0])
        options: dict[str, Any] = {"seed": seed, **dict(self.settings.options)}
        return kind(**options)
