"""A strategy that tries given architectures one after the other: the second phase (paper appendix A.3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nasnet_det.search.strategies.base import Decisions, Problem, Strategy


@dataclass(frozen=True)
class ListedSettings:
    """Of a list.

    Args:
        architectures: what to try, in this order.
    """

    architectures: tuple[Decisions, ...] = ()


class Listed(Strategy[ListedSettings]):
    """Given architectures, each once."""

    settings_type = ListedSettings

    def __init__(self, sizes: Sequence[int], seed: int, settings: ListedSettings, problem: Problem = Problem()) -> None:
        super().__init__(sizes, seed, settings, problem)
        self.place = 0

    def _ask(self) -> Decisions:
        self.place += 1
        return self.settings.architectures[self.place - 1]

    def _tell(self, decisions: Decisions, reward: float) -> None:
        pass

    def _state(self) -> dict[str, Any]:
        return {"place": self.place}

    def _load(self, state: Mapping[str, Any]) -> None:
        self.place = state["place"]
