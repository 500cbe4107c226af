"""Strategies on a small space, asked and told without an engine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from nasnet_det.search.strategies.base import Decisions, Part, Problem, Result, Strategy
from nasnet_det.search.strategies.registry import make_strategy

SIZES = (2, 3, 5, 4)
#: Of the guided strategy: small, so that tests are quick and its model is in use after a few results.
SMALL = {"initial": 8, "mutants": 30}


def reward_of(decisions: Decisions) -> float:
    """A reward that is best for the last choice of every decision."""
    return sum(d * (i + 1) for i, d in enumerate(decisions)) / 30


def make(name: str, seed: int = 1, sizes: Sequence[int] = SIZES, problem: Problem = Problem()) -> Strategy[Any]:
    """Return a strategy with quick settings."""
    return make_strategy(name, sizes, seed, SMALL if name in ("guided", "default") else None, problem)


def step(
    strategy: Strategy[Any], count: int, reward: Callable[[Decisions], float] = reward_of, behind: int = 3
) -> list[Decisions]:
    """Ask ``count`` times, ``behind`` results late; return what was asked for."""
    asked = []
    for _ in range(count):
        if len(strategy.asked) == behind:
            number, decisions = min(strategy.asked.items())
            strategy.tell(number, Result((reward(decisions),)))
        asked.append(strategy.ask())
    return asked


class Pairs:
    """Candidates whose cell does not depend on the order of the first two decisions."""

    def parts(self, decisions: Decisions) -> list[Part]:
        """Return an edge for each decision."""
        first = sorted(decisions[:2])
        return [("cell", str(i), str(d)) for i, d in enumerate((*first, *decisions[2:]))]

    def measures(self, decisions: Decisions) -> dict[str, float]:
        """Return a number of parameters."""
        return {"params": 1000.0 + sum(decisions)}

    def allowed(self, decisions: Decisions) -> bool:
        """Refuse the last choice of the last decision."""
        return decisions[-1] < 3

    def network(self, decisions: Decisions) -> Any:
        """Not used."""
        raise NotImplementedError
