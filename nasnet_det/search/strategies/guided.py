"""Evolution guided by a Gaussian process: of many mutants of the best architectures, evaluate the most promising.

The project's recommended strategy. A Gaussian process learns from all results, those of lower rungs included, and
predicts the reward of mutants; the most promising of these are mutated in turn, and the one with the highest upper
confidence bound (Srinivas et al., arXiv:0912.3995) is evaluated. Related: Kandasamy et al., arXiv:1802.07191; White et
al., arXiv:1910.11858; Ru et al., arXiv:2006.07556.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from nasnet_det.search.strategies.base import Count, Decisions, Result, Strategy, mutate, set_random_state, uniform
from nasnet_det.search.strategies.features import CellFeatures, DecisionFeatures, Features
from nasnet_det.search.strategies.gaussian_process import Floats, GaussianProcess, Kernel, normal_scores

#: Results from which the kernel is fitted at most: the best half of so many, and the latest.
_FITTED = 300


@dataclass(frozen=True)
class GuidedSettings:
    """Settings of guided evolution.

    Args:
        initial: number of random architectures to start with.
        parents: number of the best architectures that have mutants.
        mutants: number of candidates compared for each evaluation.
        random_share: share of them that is random instead.
        refinements: number of times that the most promising candidates are mutated in turn, to half as many candidates.
        changes: largest number of decisions in which a mutant differs from its parent.
        exploration: weight of the predicted deviation, added to the mean.
        memory: number of trials the process knows: the best half of so many, and the latest.
        refit: growth of the number of results after which the kernel is fitted again.
    """

    initial: Count = 10
    parents: Count = 10
    mutants: Count = 200
    random_share: Annotated[float, Field(ge=0, le=1)] = 0.1
    refinements: Annotated[int, Field(ge=0, le=10**9)] = 4
    changes: Count = 3
    exploration: Annotated[float, Field(ge=0, le=1e9)] = 3.0
    memory: Annotated[int, Field(ge=2, le=10**9)] = 500
    refit: Annotated[float, Field(ge=1, le=1e9)] = 1.25


@dataclass
class _Trial:
    """A trial with results: the rewards by the index of the rung."""

    decisions: Decisions
    rewards: dict[int, float]

    @property
    def last(self) -> tuple[int, float]:
        """Its highest rung and the reward there."""
        return max(self.rewards.items())


class GuidedEvolution(Strategy[GuidedSettings]):
    """Random architectures first, then the mutants of the highest upper confidence bound.

    An architecture that still waits for its result counts as having the predicted one, so that workers do not crowd
    around the same candidate.
    """

    settings_type = GuidedSettings
    any_order = True

    def _begin(self) -> None:
        sizes, candidates = self.sizes, self.problem.candidates
        self.features: Features = DecisionFeatures(sizes) if candidates is None else CellFeatures(sizes, candidates)
        self.told: dict[int, _Trial] = {}
        self.count = self.fitted = 0
        self.kernel: Kernel | None = None
        self._known: dict[Decisions, Floats] = {}

    def tell(self, number: int, result: Result) -> None:
        """Learn a result of a trial, at any rung and in any order of trials."""
        if number in self.asked:
            self.told[number] = _Trial(self.asked.pop(number), {})
            self.count += 1
        if number in self.told:
            rung = bisect.bisect_left(self.problem.rungs, result.epochs)
            self.told[number].rewards[rung] = float(result.reward)
            self._forget()

    def _ask(self) -> Decisions:
        best = sorted(self.told.values(), key=lambda trial: trial.last, reverse=True)
        parents = list(dict.fromkeys(trial.decisions for trial in best))[: self.settings.parents]
        candidates = self._candidates(parents) if self.count >= self.settings.initial else []
        if not candidates:
            return uniform(self.sizes, self.rng)
        self.updates += 1
        waiting = list(self.asked.values())[-self.settings.memory // 2 :]
        model = self._model(waiting)
        bounds = dict(zip(candidates, self._bounds(model, candidates), strict=True))
        for _ in range(self.settings.refinements):
            parents = sorted(bounds, key=bounds.__getitem__, reverse=True)[: self.settings.parents]
            mutants = self._new(mutate(self.rng.choice(parents), self.sizes, 1, self.rng) for _ in candidates[::2])
            bounds |= zip(mutants, self._bounds(model, mutants), strict=True)
        return max(bounds, key=bounds.__getitem__)

    def _bounds(self, model: GaussianProcess, architectures: Sequence[Decisions]) -> list[float]:
        """Return the upper confidence bounds of architectures."""
        if not architectures:
            return []
        mean, deviation = model.predict(self._rows(architectures))
        bounds: list[float] = (mean + self.settings.exploration * deviation).tolist()
        return bounds

    def _candidates(self, parents: Sequence[Decisions]) -> list[Decisions]:
        """Return mutants of the parents and random architectures, each once, without those known or waited for."""
        settings = self.settings
        strangers = round(settings.random_share * settings.mutants)
        found = [uniform(self.sizes, self.rng) for _ in range(strangers)]
        for _ in range(settings.mutants - strangers):
            changes = 1 + sum(self.rng.random() < 0.5 for _ in range(settings.changes - 1))
            found.append(mutate(self.rng.choice(parents), self.sizes, changes, self.rng))
        return self._new(found)

    def _new(self, architectures: Iterable[Decisions]) -> list[Decisions]:
        """Return the architectures that meet the limits, each once, without those known or waited for."""
        taken = {*(trial.decisions for trial in self.told.values()), *self.asked.values()}
        limits = self.problem.candidates
        return [d for d in dict.fromkeys(architectures) if d not in taken and (limits is None or limits.allowed(d))]

    def _model(self, waiting: Sequence[Decisions]) -> GaussianProcess:
        """Return the process that knows all results, and the predicted ones of what is waited for."""
        self._remember()
        rows = [(trial.decisions, rung) for trial in self.told.values() for rung in trial.rewards]
        features = self._rows([decisions for decisions, _ in rows], [rung for _, rung in rows])
        targets = self._targets()
        widths = [*self.features.widths, *([1] if self._rungs > 1 else [])]
        if self.kernel is None or self.count >= self.fitted * self.settings.refit:
            known = np.argsort(-targets, kind="stable")[: _FITTED // 2]
            chosen = np.union1d(known, np.arange(len(targets))[-_FITTED // 2 :])
            self.kernel = GaussianProcess(features[chosen], targets[chosen], widths).kernel
            self.fitted = self.count
        process = GaussianProcess(features, targets, widths, self.kernel)
        if not waiting:
            return process
        pending = self._rows(waiting)
        mean, _ = process.predict(pending)
        return GaussianProcess(
            np.concatenate((features, pending)), np.concatenate((targets, mean)), widths, self.kernel
        )

    def _remember(self) -> None:
        """Keep the features of the architectures with results, and of no others."""
        told = {trial.decisions for trial in self.told.values()}
        if new := sorted(told - self._known.keys()):
            self._known |= zip(new, self.features(new), strict=True)
        self._known = {decisions: self._known[decisions] for decisions in told}

    @property
    def _rungs(self) -> int:
        return max(len(self.problem.rungs), 1)

    def _rows(self, architectures: Sequence[Decisions], rungs: Sequence[int] | None = None) -> Floats:
        """Return the features of architectures at rungs; at the last one by default."""
        rows = self._features(architectures)
        if self._rungs == 1:
            return rows
        column = np.full(len(rows), self._rungs - 1.0) if rungs is None else np.array(rungs, dtype=float)
        return np.column_stack((rows, column))

    def _features(self, architectures: Sequence[Decisions]) -> Floats:
        """Return features; those of architectures with results are computed once."""
        if any(decisions not in self._known for decisions in architectures):
            return self.features(architectures)
        return np.array([self._known[decisions] for decisions in architectures])

    def _targets(self) -> Floats:
        """Return every result as the model learns it: the normal score of its rank within its rung.

        Who reaches a higher rung was among the best of the rung below: scores there are shifted and scaled to the mean
        and deviation that these had below. Ranks make the model indifferent to accuracies' long tail of failures.
        """
        scores: dict[tuple[int, int], float] = {}
        for rung in range(self._rungs):
            numbers = [number for number, trial in self.told.items() if rung in trial.rewards]
            if not numbers:
                continue
            values = normal_scores(np.array([self.told[number].rewards[rung] for number in numbers]))
            if before := [scores[number, rung - 1] for number in numbers if (number, rung - 1) in scores]:
                values = np.mean(before) + max(float(np.std(before)), 0.3) * values
            scores.update(((number, rung), float(value)) for number, value in zip(numbers, values, strict=True))
        targets = np.array([scores[number, rung] for number, trial in self.told.items() for rung in trial.rewards])
        return targets - targets.mean()

    def _forget(self) -> None:
        half = self.settings.memory // 2
        if len(self.told) > 2 * half:
            old = list(self.told)[:-half]
            del self.told[min(old, key=lambda number: self.told[number].last)]

    def _state(self) -> dict[str, Any]:
        return {
            "rng": self.rng.getstate(),
            "told": [
                [number, list(trial.decisions), [[r, v] for r, v in trial.rewards.items()]]
                for number, trial in self.told.items()
            ],
            "count": self.count,
            "kernel": None if self.kernel is None else [list(self.kernel.weights), self.kernel.noise],
            "fitted": self.fitted,
        }

    def _load(self, state: Mapping[str, Any]) -> None:
        set_random_state(self.rng, state["rng"])
        self.told = {number: _Trial(tuple(d), dict(rewards)) for number, d, rewards in state["told"]}
        self.count, self.fitted = state["count"], state["fitted"]
        self.kernel = None if state["kernel"] is None else Kernel(tuple(state["kernel"][0]), state["kernel"][1])
