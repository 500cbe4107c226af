"""What every search strategy has in common, and the two that need no model: random search and regularized evolution.

A strategy sees an architecture as a tuple of decisions, numbers below the number of choices of each, and knows nothing
of cells. It is asked for architectures and told their rewards **in the order in which it was asked for them**, so that
what it does follows from its seed and the rewards alone, whichever worker was faster. Between ask and tell there may
be other asks: that is how many workers are kept busy.
"""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, TypeVar

Decisions = tuple[int, ...]


@dataclass(frozen=True)
class NoSettings:
    """Of a strategy that has nothing to set."""


Settings = TypeVar("Settings")


class Strategy(ABC, Generic[Settings]):
    """How architectures are chosen.

    Args:
        sizes: the number of choices of each decision.
        seed: of its random numbers.
        settings: its hyperparameters.
    """

    #: Makes the settings of names and values.
    settings_type: ClassVar[type] = NoSettings

    def __init__(self, sizes: Sequence[int], seed: int, settings: Settings) -> None:
        if not sizes or min(sizes) < 1:
            raise ValueError(f"a search needs decisions with at least one choice each, not {list(sizes)}")
        self.sizes, self.seed, self.settings = tuple(sizes), seed, settings
        self.asked: deque[Decisions] = deque()
        #: Counts what cannot be repeated to the last bit on another machine (arithmetic, not random numbers): the
        #: study saves the state whenever it has changed, before anything that follows from it is recorded.
        self.updates = 0

    def ask(self) -> Decisions:
        """The next architecture to evaluate."""
        decisions = self._ask()
        self.asked.append(decisions)
        return decisions

    def tell(self, decisions: Decisions, reward: float) -> None:
        """The reward of the architecture asked for the longest time ago.

        Raises:
            ValueError: if ``decisions`` is another one.
        """
        if not self.asked or self.asked[0] != tuple(decisions):
            raise ValueError("results are told in the order in which architectures were asked for")
        self._tell(self.asked.popleft(), float(reward))

    def state_dict(self) -> dict[str, Any]:
        """All it needs to go on as if it had never stopped: numbers, text, lists, dictionaries and NumPy arrays."""
        return {"asked": [list(d) for d in self.asked], "updates": self.updates, **self._state()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take on a state that :meth:`state_dict` gave, of a strategy of the same settings and sizes."""
        self.asked = deque(tuple(d) for d in state["asked"])
        self.updates = state["updates"]
        self._load({key: value for key, value in state.items() if key not in ("asked", "updates")})

    @abstractmethod
    def _ask(self) -> Decisions: ...

    @abstractmethod
    def _tell(self, decisions: Decisions, reward: float) -> None: ...

    @abstractmethod
    def _state(self) -> dict[str, Any]: ...

    @abstractmethod
    def _load(self, state: Mapping[str, Any]) -> None: ...


def uniform(sizes: Sequence[int], rng: random.Random) -> Decisions:
    """Decisions drawn uniformly, as in the paper's random search (section 2)."""
    return tuple(rng.randrange(size) for size in sizes)


def mutate(decisions: Decisions, sizes: Sequence[int], changes: int, rng: random.Random) -> Decisions:
    """Change decisions one after the other, each time a random one that has another choice to another choice."""
    changed = list(decisions)
    open_ones = [i for i, size in enumerate(sizes) if size > 1]
    for _ in range(changes if open_ones else 0):
        i = rng.choice(open_ones)
        changed[i] = (changed[i] + rng.randrange(1, sizes[i])) % sizes[i]
    return tuple(changed)


def random_state(rng: random.Random) -> list[Any]:
    """The state of Python's generator as plain lists."""
    version, words, gauss = rng.getstate()
    return [version, list(words), gauss]


def set_random_state(rng: random.Random, state: Sequence[Any]) -> None:
    """Set what :func:`random_state` gave."""
    version, words, gauss = state
    rng.setstate((version, tuple(words), gauss))


class RandomSearch(Strategy[NoSettings]):
    """Every decision from the uniform distribution (paper section 2)."""

    def __init__(self, sizes: Sequence[int], seed: int, settings: NoSettings = NoSettings()) -> None:
        super().__init__(sizes, seed, settings)
        self.rng = random.Random(seed)

    def _ask(self) -> Decisions:
        return uniform(self.sizes, self.rng)

    def _tell(self, decisions: Decisions, reward: float) -> None:
        pass

    def _state(self) -> dict[str, Any]:
        return {"rng": random_state(self.rng)}

    def _load(self, state: Mapping[str, Any]) -> None:
        set_random_state(self.rng, state["rng"])


@dataclass(frozen=True)
class EvolutionSettings:
    """Of regularized evolution.

    Args:
        population: P, the results that are alive: the last P told.
        sample: S, how many of them compete to be a parent.
        second_change: the probability that a child differs from its parent in two decisions instead of one.
    """

    population: int = 30
    sample: int = 15
    second_change: float = 0.5

    def __post_init__(self) -> None:
        if not 1 <= self.sample <= self.population:
            raise ValueError(f"of a population of {self.population}, {self.sample} cannot compete")


class RegularizedEvolution(Strategy[EvolutionSettings]):
    """Real et al., 'Regularized Evolution for Image Classifier Architecture Search' (arXiv:1802.01548), algorithm 1:
    the best of a random sample of the population has a child; the oldest dies.

    Until the population is complete, and for as long as its results are not in, architectures are random.
    """

    settings_type = EvolutionSettings

    def __init__(self, sizes: Sequence[int], seed: int, settings: EvolutionSettings = EvolutionSettings()) -> None:
        super().__init__(sizes, seed, settings)
        self.rng = random.Random(seed)
        self.population: deque[tuple[Decisions, float]] = deque(maxlen=settings.population)

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
        return {"rng": random_state(self.rng), "population": [[list(d), reward] for d, reward in self.population]}

    def _load(self, state: Mapping[str, Any]) -> None:
        set_random_state(self.rng, state["rng"])
        self.population.clear()
        self.population.extend((tuple(d), reward) for d, reward in state["population"])
