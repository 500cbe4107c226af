"""The interface of search strategies, and the two that need no model: random search and regularized evolution.

A strategy sees an architecture as a tuple of decisions, each a number below its number of choices, and knows nothing of
cells. The engine (:mod:`nasnet_det.search.schedule`) calls :meth:`Strategy.ask`, :meth:`Strategy.refuse`,
:meth:`Strategy.tell` and :meth:`Strategy.stop` in an order that does not depend on the speed of workers; a strategy
must be a function of its seed, its settings and that sequence of calls.
"""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Generic, Protocol, TypeVar

from pydantic import Field

Decisions = tuple[int, ...]
Count = Annotated[int, Field(ge=1, le=10**9)]
#: An edge of a cell: the cell, the states that it connects, and its operation, all as words.
Part = tuple[str, str, str]


@dataclass(frozen=True)
class Result:
    """A measurement of a trial, as a strategy is told of it.

    Args:
        values: the objectives, each oriented so that larger is better. The first is the validation accuracy, 0 to 1,
            0 for a child that failed; the others are negated (parameters, multiply-adds, latency).
        epochs: the epochs of training behind it; 0 in a search without rungs.
        final: whether no other result of this trial follows.
        failed: whether the child diverged, ran out of memory or crashed.
    """

    values: tuple[float, ...]
    epochs: int = 0
    final: bool = True
    failed: bool = False

    @property
    def reward(self) -> float:
        """The validation accuracy."""
        return self.values[0]


class Candidates(Protocol):
    """Knowledge of architectures before they are trained: deterministic and cheap."""

    def measures(self, decisions: Decisions) -> Mapping[str, float]:
        """Its ``params`` and ``macs`` (multiply-adds of one image)."""

    def parts(self, decisions: Decisions) -> Sequence[Part]:
        """Return the edges of its cells, the same for every sequence of decisions that makes the same cells."""

    def allowed(self, decisions: Decisions) -> bool:
        """Return whether these meet the search's limits."""

    def network(self, decisions: Decisions) -> Any:
        """Its untrained child network (``nn.Module``), for training-free scores."""


@dataclass(frozen=True)
class Problem:
    """Objectives, rungs and knowledge of candidates: a search problem besides the choices of its decisions.

    Args:
        objectives: the names of the objectives, ``accuracy`` first.
        rungs: the epochs after which children are judged; empty for one result a trial.
        candidates: what is known of architectures before training; None where nothing is.
        parameters: the choices of every decision, by its name in the study; None for numbers only.
    """

    objectives: tuple[str, ...] = ("accuracy",)
    rungs: tuple[int, ...] = ()
    candidates: Candidates | None = None
    parameters: Mapping[str, Sequence[Any]] | None = None


@dataclass(frozen=True)
class NoSettings:
    """Settings of a strategy that has none."""


Settings = TypeVar("Settings")


class Strategy(ABC, Generic[Settings]):
    """The choice of architectures.

    The methods to implement are :meth:`_ask` and :meth:`_tell`, which is told the first result of every trial in the
    order of trials; a strategy that learns from later rungs overrides :meth:`tell` and :meth:`stop`.

    Args:
        sizes: the number of choices of each decision.
        seed: seed of its random numbers.
        settings: its hyperparameters; the defaults of ``settings_type`` if None.
        problem: objectives, rungs and what is known of candidates.

    Raises:
        ValueError: if a decision has no choice, or several objectives are given to a strategy of one.
    """

    #: The dataclass of its settings.
    settings_type: ClassVar[type[Any]] = NoSettings
    #: Whether results may be told in any order of trials.
    any_order: ClassVar[bool] = False
    #: Whether it searches the Pareto front of several objectives.
    multi_objective: ClassVar[bool] = False

    def __init__(
        self, sizes: Sequence[int], seed: int, settings: Settings | None = None, problem: Problem = Problem()
    ) -> None:
        if not sizes or min(sizes) < 1:
            raise ValueError(f"a search needs decisions with at least one choice each, not {list(sizes)}")
        if len(problem.objectives) > 1 and not self.multi_objective:
            raise ValueError(
                f"{type(self).__name__} searches one objective, not {', '.join(problem.objectives)}: choose random, "
                "nsga2, tpe or another multi-objective sampler of Optuna"
            )
        self.sizes, self.seed, self.problem = tuple(sizes), seed, problem
        self.settings: Settings = self.settings_type() if settings is None else settings
        self.rng = random.Random(seed)
        #: The architectures without a result, by trial number; these count what was asked for and not refused.
        self.asked: dict[int, Decisions] = {}
        self.trials = 0
        #: Counts the steps that another machine may not repeat to the last bit (floating-point arithmetic, not random
        #: numbers): the state is saved whenever it has changed, before anything that follows from it is recorded.
        self.updates = 0
        #: Whether every architecture was asked for: the search then ends before it has all its trials.
        self.exhausted = False
        self._begin()

    def ask(self) -> Decisions:
        """Return the next architecture to evaluate."""
        decisions = self._ask()
        self.asked[self.trials] = decisions
        self.trials += 1
        return decisions

    def refuse(self) -> None:
        """Take back the last ask: its architecture misses a limit and becomes no trial."""
        self.trials -= 1
        del self.asked[self.trials]

    def tell(self, number: int, result: Result) -> None:
        """Learn a result of a trial; with rungs a trial has several, of growing ``epochs``.

        Raises:
            ValueError: if the first results do not come in the order of trials, as this strategy needs them.
        """
        if number not in self.asked:
            return
        if not self.any_order and number != min(self.asked):
            raise ValueError(f"the next result is that of trial {min(self.asked)}, not {number}")
        self._tell(self.asked.pop(number), float(result.reward))

    def stop(self, number: int) -> None:
        """Learn that a trial will not be continued to its next rung."""

    def state_dict(self) -> dict[str, Any]:
        """Return all it needs to continue: numbers, text, lists, dictionaries and NumPy arrays."""
        asked = [[number, list(decisions)] for number, decisions in self.asked.items()]
        return {"asked": asked, "asks": self.trials, "updates": self.updates, **self._state()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a :meth:`state_dict` of a strategy of the same settings and sizes."""
        self.asked = {number: tuple(decisions) for number, decisions in state["asked"]}
        self.trials, self.updates = state["asks"], state["updates"]
        self._load({key: value for key, value in state.items() if key not in ("asked", "asks", "updates")})

    def _begin(self) -> None:
        """Make what it learns with; nothing by default."""

    @abstractmethod
    def _ask(self) -> Decisions: ...

    def _tell(self, decisions: Decisions, reward: float) -> None:
        raise NotImplementedError(f"{type(self).__name__} overrides neither tell nor _tell")

    @abstractmethod
    def _state(self) -> dict[str, Any]: ...

    @abstractmethod
    def _load(self, state: Mapping[str, Any]) -> None: ...


def uniform(sizes: Sequence[int], rng: random.Random) -> Decisions:
    """Return uniformly random decisions, as in the paper's random search (section 2)."""
    return tuple(rng.randrange(size) for size in sizes)


def mutate(decisions: Decisions, sizes: Sequence[int], changes: int, rng: random.Random) -> Decisions:
    """Return decisions with ``changes`` random changes to another choice, one after the other."""
    changed = list(decisions)
    open_ones = [i for i, size in enumerate(sizes) if size > 1]
    for _ in range(changes if open_ones else 0):
        i = rng.choice(open_ones)
        changed[i] = (changed[i] + rng.randrange(1, sizes[i])) % sizes[i]
    return tuple(changed)


def set_random_state(rng: random.Random, state: Sequence[Any]) -> None:
    """Set a state of ``getstate``, whose tuples are lists where it was read from JSON."""
    version, words, gauss = state
    rng.setstate((version, tuple(words), gauss))


class RandomSearch(Strategy[NoSettings]):
    """Uniformly random decisions (paper section 2)."""

    any_order = multi_objective = True

    def _ask(self) -> Decisions:
        return uniform(self.sizes, self.rng)

    def _tell(self, decisions: Decisions, reward: float) -> None:
        pass

    def _state(self) -> dict[str, Any]:
        return {"rng": self.rng.getstate()}

    def _load(self, state: Mapping[str, Any]) -> None:
        set_random_state(self.rng, state["rng"])


@dataclass(frozen=True)
class EvolutionSettings:
    """Settings of regularized evolution.

    Args:
        population: P, the number of results in the population: the last P told.
        sample: S, the number of them that compete to be a parent.
        second_change: probability that a child differs from its parent in two decisions instead of one.

    Raises:
        ValueError: if ``sample`` exceeds ``population``.
    """

    population: Count = 30
    sample: Count = 15
    second_change: Annotated[float, Field(ge=0, le=1)] = 0.5

    def __post_init__(self) -> None:
        if self.sample > self.population:
            raise ValueError(f"sample must be at most population ({self.population}), got {self.sample}")


class RegularizedEvolution(Strategy[EvolutionSettings]):
    """Regularized evolution (Real et al., arXiv:1802.01548, algorithm 1).

    The best of a random sample of the population has a mutated child; the oldest member is removed. Architectures are
    random until the population is complete.
    """

    settings_type = EvolutionSettings
    any_order = True

    def _begin(self) -> None:
        self.population: deque[tuple[Decisions, float]] = deque(maxlen=self.settings.population)

    def _ask(self) -> Decisions:
        if len(self.population) < self.settings.population:
            return uniform(self.sizes, self.rng)
        competitors = self.rng.sample(list(self.population), self.settings.sample)
        parent, _ = max(competitors, key=lambda member: member[1])
        changes = 1 + (self.rng.random() < self.settings.second_change)
        return mutate(parent, self.sizes, changes, self.rng)

    def _tell(self, decisions: Decisions, reward: float) -> None:
        self.population.append((decisions, reward))

    def _state(self) -> dict[str, Any]:
        return {"rng": self.rng.getstate(), "population": [[list(d), reward] for d, reward in self.population]}

    def _load(self, state: Mapping[str, Any]) -> None:
        set_random_state(self.rng, state["rng"])
        self.population.clear()
        self.population.extend((tuple(d), reward) for d, reward in state["population"])
