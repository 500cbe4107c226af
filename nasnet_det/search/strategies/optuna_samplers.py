"""Optuna's samplers as strategies."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from types import MappingProxyType
from typing import Any

import optuna
from optuna.distributions import CategoricalDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.trial import FrozenTrial, TrialState, create_trial

from nasnet_det.safe_io.values import format_names
from nasnet_det.search.optuna_plugins import make_plugin, quiet
from nasnet_det.search.strategies.base import Decisions, Result, Strategy
from nasnet_det.training.seeds import derive_seed

logger = logging.getLogger(__name__)

_LARGEST_GRID = 100_000
#: Refusals in a row after which decisions are drawn at random: a model of what was trained would propose the like.
_REFUSALS = 10
#: Trials with made-up results in which a sampler is tried: more than Optuna's draw at random before their first model,
#: with these arguments.
_TRIED, _SOONER = 12, {"n_startup_trials": 4, "population_size": 4}
#: Samplers that list all architectures, each once.
_LISTS = ("GridSampler", "BruteForceSampler")
#: Samplers without a model, which refusals do not hold: they follow a list, a sequence or fixed decisions.
_WITHOUT_MODEL = (*_LISTS, "QMCSampler", "PartialFixedSampler")
#: Samplers that draw categories independently and uniformly.
_OF_NUMBERS = ("CmaEsSampler",) if int(optuna.__version__.split(".")[0]) >= 5 else ("CmaEsSampler", "QMCSampler")


@dataclass(frozen=True)
class SamplerSettings:
    """A sampler of Optuna.

    Args:
        sampler: the name of a class in ``optuna.samplers``.
        options: its arguments; the seed and a grid's search space are the search's own.
    """

    sampler: str = "TPESampler"
    options: Mapping[str, Any] = field(default_factory=dict)


class OptunaSampler(Strategy[SamplerSettings]):
    """A sampler over one categorical parameter for each decision, in an Optuna study in memory.

    Results of lower rungs are intermediate values, stopped trials are pruned, failed and refused ones failed. The
    sampler is created again for every ask, its seed drawn from the strategy's and the ask's number: then all its state
    is in the study and its trials, and can be saved. Its cost grows with the number of trials.

    Raises:
        ValueError: if Optuna has no such sampler, it does not take the options, or it is not made for the problem.
    """

    settings_type = SamplerSettings
    any_order = multi_objective = True

    def _begin(self) -> None:
        self.choices = {f"decision_{i:03d}": CategoricalDistribution(range(size)) for i, size in enumerate(self.sizes)}
        #: Optuna's numbers of the trials without a final result, by this search's.
        self.open: dict[int, int] = {}
        self._refused = self._refused_before = 0  # in a row, up to the next and to the last ask
        self._try()
        self._start([])

    def refuse(self) -> None:
        """Take back the last ask; its trial fails in Optuna's study."""
        super().refuse()
        self._refused = self._refused_before + 1
        self.study.tell(self.open.pop(self.trials), state=TrialState.FAIL)

    def tell(self, number: int, result: Result) -> None:
        """Learn a result of a trial, at any rung and in any order of trials."""
        self.asked.pop(number, None)
        if number not in self.open:
            return
        if result.failed:
            self.study.tell(self.open.pop(number), state=TrialState.FAIL)
        elif result.final:
            self.study.tell(self.open.pop(number), list(result.values))
        elif len(result.values) == 1:  # Optuna has no intermediate values of several objectives
            trial = optuna.trial.Trial(self.study, self._trials()[self.open[number]]._trial_id)
            trial.report(result.reward, result.epochs)

    def stop(self, number: int) -> None:
        """Learn that a trial was pruned."""
        if number in self.open:
            pruned = TrialState.PRUNED if len(self.problem.objectives) == 1 else TrialState.FAIL
            self.study.tell(self.open.pop(number), state=pruned)

    def _ask(self) -> Decisions:
        number = len(self._trials())
        self._refused_before, self._refused = self._refused, 0
        self.study.sampler = self._make_sampler(number)
        if self._refused_before >= _REFUSALS and self.settings.sampler not in _WITHOUT_MODEL:
            self.study.sampler = RandomSampler(derive_seed(self.seed, number))
        with quiet():
            trial = self.study.ask(dict(self.choices))
        self.open[self.trials] = number
        self.updates += 1
        if self.settings.sampler in _LISTS and number + 1 >= math.prod(self.sizes):
            self.exhausted = True  # Optuna would wait for the trials that wait at rungs
        return tuple(trial.params[name] for name in self.choices)

    def _trials(self) -> list[FrozenTrial]:
        return self.study.get_trials(deepcopy=False)

    def _state(self) -> dict[str, Any]:
        trials = [self._saved(trial) for trial in self._trials()]
        study = self.study._storage.get_study_system_attrs(self.study._study_id)
        return {"trials": trials, "study": study, "open": list(self.open.items()), "exhausted": self.exhausted}

    def _load(self, state: Mapping[str, Any]) -> None:
        self._start(state["trials"])
        for key, value in state.get("study", {}).items():  # a sequence's position, parents of a generation
            self.study._storage.set_study_system_attr(self.study._study_id, key, value)
        self.open, self.exhausted = dict(state["open"]), state.get("exhausted", False)

    def _start(self, trials: Sequence[Any], changes: Mapping[str, Any] = MappingProxyType({})) -> None:
        sampler = self._make_sampler(max(len(trials) - 1, 0), changes)  # that of the last ask
        with quiet():
            self.study = optuna.create_study(sampler=sampler, directions=["maximize"] * len(self.problem.objectives))
        self.study.stop = self._end  # type: ignore[method-assign]
        self.study.add_trials([self._restored(*trial) for trial in trials])

    def _end(self) -> None:
        """Take note that the sampler, which would stop Optuna's own loop, has listed all architectures."""
        self.exhausted = True

    def _saved(self, trial: FrozenTrial) -> list[Any]:
        decisions = [trial.params[name] for name in self.choices]
        intermediate = [[epochs, value] for epochs, value in trial.intermediate_values.items()]
        return [decisions, trial.state.name, trial.values, intermediate, trial.system_attrs]

    def _restored(
        self,
        decisions: Sequence[int],
        state: str,
        values: Sequence[float] | None,
        intermediate: Sequence[tuple[int, float]],
        system_attrs: Mapping[str, Any],
    ) -> FrozenTrial:
        return create_trial(
            state=TrialState[state],
            values=values,
            params=dict(zip(self.choices, decisions, strict=True)),
            distributions=dict(self.choices),
            intermediate_values=dict(intermediate),
            system_attrs=dict(system_attrs),
        )

    def _make_sampler(self, number: int, changes: Mapping[str, Any] = MappingProxyType({})) -> BaseSampler:
        # The seed of these shuffles the grid, or scrambles the sequence, which must stay the same.
        fixed_seed = self.settings.sampler in ("GridSampler", "QMCSampler")
        given: dict[str, Any] = {
            "seed": derive_seed(self.seed, 0 if fixed_seed else number),
            "search_space": {name: distribution.choices for name, distribution in self.choices.items()},
            **changes,
        }
        options = {name: value for name, value in self.settings.options.items() if name not in changes}
        if self.settings.sampler == "QMCSampler" and "independent_sampler" not in options:
            given["independent_sampler"] = RandomSampler(derive_seed(self.seed, number))
        if isinstance(fixed := options.get("fixed_params"), Mapping):
            options["fixed_params"] = self._fixed(fixed)
        sampler: BaseSampler = make_plugin("Sampler", self.settings.sampler, options, given)
        return sampler

    def _fixed(self, given: Mapping[str, Any]) -> dict[str, int]:
        """Return decisions that are fixed by the names and values that the study shows, in this sampler's terms."""
        named = self.problem.parameters or {name: one.choices for name, one in self.choices.items()}
        fixed = {}
        for own, (name, choices) in zip(self.choices, named.items(), strict=True):
            if name in given:
                if given[name] not in choices:
                    raise ValueError(f"fixed_params: {name} is one of {format_names(choices)}, got {given[name]}")
                fixed[own] = choices.index(given[name])
        if unknown := [name for name in given if name not in named]:
            raise ValueError(f"fixed_params: no decision is named {unknown[0]}; known: {format_names(list(named))}")
        return fixed

    def _try(self) -> None:
        """Ask for nothing, and tell made-up results, so that what a sampler is not made for is known before anything is
        trained: some look at their arguments with their first model."""
        sampler, architectures = self.settings.sampler, math.prod(self.sizes)
        if sampler == "GridSampler" and architectures > _LARGEST_GRID:
            raise ValueError(
                f"GridSampler lists all {Decimal(architectures):.2e} architectures; at most {_LARGEST_GRID:,} can be"
            )
        self._start([], _SOONER)
        try:
            for number in range(1 if sampler in _WITHOUT_MODEL else _TRIED):
                trial = self.study.ask(dict(self.choices))
                self.study.tell(trial, [number % 3 / 3] * len(self.problem.objectives))
        except Exception as error:  # of whatever package the sampler is
            raise ValueError(f"{sampler} cannot be used here: {error}") from None
        self.exhausted = False  # of the trial study
        if sampler in _OF_NUMBERS:
            logger.warning("%s models numbers only: decisions are categories, which it draws at random", sampler)
