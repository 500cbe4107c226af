"""Evolution guided by a Gaussian process: of many mutants of the best architectures, evaluate the most promising.

The project's recommended strategy. The process predicts an architecture's reward from those of the architectures that
differ from it in few decisions; which mutants are evaluated is decided by Thompson sampling (Thompson 1933): each is
the best of one function drawn from the posterior, so that promise and ignorance are weighed, and a batch drawn at once
does not crowd in one place. Related: Kandasamy et al., arXiv:1802.07191; White et al., arXiv:1910.11858.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nasnet_det.search.strategies.base import (
    Decisions,
    Problem,
    Strategy,
    mutate,
    random_state,
    set_random_state,
    uniform,
)

Floats = NDArray[np.float64]


class GaussianProcess:
    """A Gaussian process over architectures, of known data.

    Its kernel is ``exp(-d / length)``, d the share of decisions in which two architectures differ. Rewards enter by
    their rank, as a standard normal's quantiles: accuracies crowd at the top and have a long tail of failures, and
    only their order matters to a search. The length and the noise are those, of a few, under which the data are most
    likely.

    Args:
        sizes: the number of choices of each decision.
        architectures: ``(n, decisions)``.
        rewards: ``(n,)``.
        kernel: length and noise, if they are not to be chosen anew.
    """

    LENGTHS = (0.08, 0.16, 0.32, 0.64)
    NOISES = (0.02, 0.1, 0.3)

    def __init__(
        self,
        sizes: Sequence[int],
        architectures: NDArray[np.int64],
        rewards: Floats,
        kernel: tuple[float, float] | None = None,
    ) -> None:
        self._starts = np.cumsum([0, *sizes[:-1]])
        self._width = sum(sizes)
        self._data = self._one_hot(architectures)
        self._distances = self._distance(self._data, self._data)
        self._targets = normal_scores(rewards)
        self.kernel = kernel or max(self._kernels(), key=lambda scored: scored[0])[1]

    def posterior(self, architectures: NDArray[np.int64]) -> tuple[Floats, Floats]:
        """Mean ``(m,)`` and covariance ``(m, m)`` of the noiseless reward's score at ``architectures`` ``(m, ...)``."""
        points = self._one_hot(architectures)
        length, noise = self.kernel
        across = np.exp(-self._distance(self._data, points) / length)
        covariance = np.exp(-self._distances / length) + noise * np.eye(len(self._data))
        solved = np.linalg.solve(covariance, np.column_stack((self._targets, across)))
        mean = across.T @ solved[:, 0]
        scale = max(float(self._targets @ solved[:, 0]) / len(self._targets), 1e-3)
        left = np.exp(-self._distance(points, points) / length) - across.T @ solved[:, 1:]
        return mean, scale * left

    def _kernels(self) -> Iterator[tuple[float, tuple[float, float]]]:
        """Every length and noise with the log-likelihood of the data under it, its scale the best, up to a constant."""
        count = len(self._targets)
        for length in self.LENGTHS:
            values, vectors = np.linalg.eigh(np.exp(-self._distances / length))
            squares = (self._targets @ vectors) ** 2
            for noise in self.NOISES:
                spread = np.maximum(values, 0) + noise
                scale = max(float((squares / spread).sum()) / count, 1e-12)
                yield float(-np.log(spread).sum() / 2 - count / 2 * np.log(scale)), (length, noise)

    def _one_hot(self, architectures: NDArray[np.int64]) -> Floats:
        rows = np.zeros((len(architectures), self._width))
        rows[np.arange(len(architectures))[:, None], self._starts + architectures] = 1
        return rows

    def _distance(self, a: Floats, b: Floats) -> Floats:
        return 1 - a @ b.T / len(self._starts)


def normal_scores(values: Floats) -> Floats:
    """Each value's rank, as that quantile of the standard normal; equal values in the order in which they stand."""
    scores = np.empty(len(values))
    scores[np.argsort(values, kind="stable")] = _quantiles(len(values))
    return scores


@lru_cache(maxsize=1024)
def _quantiles(count: int) -> Floats:
    normal = NormalDist()
    return np.array([normal.inv_cdf((i + 0.5) / count) for i in range(count)])


@dataclass(frozen=True)
class GuidedSettings:
    """Of guided evolution.

    Args:
        initial: how many random architectures come first.
        parents: how many of the best architectures have mutants.
        mutants: how many are judged for each batch.
        random_share: the share of them that is random instead.
        batch: how many are drawn from one posterior.
        memory: how many results the process knows: the best half of so many, and the latest.
        revisit: an architecture may be evaluated again after so many others: rewards are noisy.
        refit: results between two choices of the kernel.
    """

    initial: int = 20
    parents: int = 10
    mutants: int = 100
    random_share: float = 0.1
    batch: int = 5
    memory: int = 300
    revisit: int = 100
    refit: int = 40

    def __post_init__(self) -> None:
        if min(self.initial, self.parents, self.mutants, self.batch, self.memory // 2, self.refit) < 1:
            raise ValueError(f"no guided evolution can have these settings: {self}")


class GuidedEvolution(Strategy[GuidedSettings]):
    """Random architectures first; then, a batch at a time, the mutants that the process would evaluate."""

    settings_type = GuidedSettings

    def __init__(
        self, sizes: Sequence[int], seed: int, settings: GuidedSettings = GuidedSettings(), problem: Problem = Problem()
    ) -> None:
        super().__init__(sizes, seed, settings, problem)
        self.rng = random.Random(seed)
        self.noise = np.random.default_rng(seed)
        self.told: list[tuple[Decisions, float]] = []
        self.count = 0
        self.drawn: deque[Decisions] = deque()
        self.recent: deque[Decisions] = deque(maxlen=settings.revisit)
        self.kernel: tuple[float, float] | None = None
        self.fitted = 0

    def _ask(self) -> Decisions:
        if not self.drawn and self.count >= self.settings.initial:
            self.drawn.extend(self._batch())
            self.updates += 1
        decisions = self.drawn.popleft() if self.drawn else uniform(self.sizes, self.rng)
        self.recent.append(decisions)
        return decisions

    def _tell(self, decisions: Decisions, reward: float) -> None:
        self.told.append((decisions, reward))
        self.count += 1
        half = self.settings.memory // 2
        if len(self.told) > 2 * half:
            old = range(len(self.told) - half)
            del self.told[min(old, key=lambda i: self.told[i][1])]

    def _batch(self) -> list[Decisions]:
        """The architectures to evaluate next: for each, the mutant that is best under a draw from the posterior."""
        mutants = self._mutants()
        if not mutants:
            return [uniform(self.sizes, self.rng)]
        if self.kernel is None or self.count >= self.fitted + self.settings.refit:
            self.kernel, self.fitted = None, self.count
        architectures = np.array([decisions for decisions, _ in self.told])
        rewards = np.array([reward for _, reward in self.told])
        process = GaussianProcess(self.sizes, architectures, rewards, self.kernel)
        self.kernel = process.kernel
        mean, covariance = process.posterior(np.array(mutants))
        factor = np.linalg.cholesky(covariance + 1e-4 * np.eye(len(mutants)))
        chosen: list[int] = []
        for _ in range(min(self.settings.batch, len(mutants))):
            drawn = mean + factor @ self.noise.standard_normal(len(mutants))
            drawn[chosen] = -np.inf
            chosen.append(int(drawn.argmax()))
        return [mutants[i] for i in chosen]

    def _mutants(self) -> list[Decisions]:
        """Mutants of the best architectures, and some random ones, none of them waited for or evaluated of late."""
        settings = self.settings
        parents: dict[Decisions, None] = {}
        for decisions, _ in sorted(self.told, key=lambda result: -result[1]):
            parents[decisions] = None
            if len(parents) == settings.parents:
                break
        pool = list(parents)
        strangers = round(settings.random_share * settings.mutants)
        found = {uniform(self.sizes, self.rng): None for _ in range(strangers)}
        for _ in range(settings.mutants - strangers):
            changes = 1 + sum(self.rng.random() < 0.5 for _ in range(2))
            found[mutate(self.rng.choice(pool), self.sizes, changes, self.rng)] = None
        taken = {*self.recent, *self.asked.values()}
        return [decisions for decisions in found if decisions not in taken]

    def _state(self) -> dict[str, Any]:
        return {
            "rng": random_state(self.rng),
            "noise": self.noise.bit_generator.state,
            "told": [[list(d), reward] for d, reward in self.told],
            "count": self.count,
            "drawn": [list(d) for d in self.drawn],
            "recent": [list(d) for d in self.recent],
            "kernel": None if self.kernel is None else list(self.kernel),
            "fitted": self.fitted,
        }

    def _load(self, state: Mapping[str, Any]) -> None:
        set_random_state(self.rng, state["rng"])
        self.noise.bit_generator.state = state["noise"]
        self.told = [(tuple(d), reward) for d, reward in state["told"]]
        self.count, self.fitted = state["count"], state["fitted"]
        self.drawn = deque(tuple(d) for d in state["drawn"])
        self.recent = deque((tuple(d) for d in state["recent"]), maxlen=self.settings.revisit)
        self.kernel = None if state["kernel"] is None else tuple(state["kernel"])
