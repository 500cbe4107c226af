"""A strategy that evaluates a list of architectures: the search's second phase (paper appendix A.3)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nasnet_det.search.strategies.base import Decisions, Strategy


@dataclass(frozen=True)
class ListedSettings:
    """Settings of :class:`Listed`.

    Args:
        architectures: the architectures to evaluate, in this order.
    """

    architectures: tuple[Decisions, ...] = ()


class Listed(Strategy[ListedSettings]):
    """Each of a list of architectures once."""

    settings_type = ListedSettings
    any_order = multi_objective = True

    def _begin(self) -> None:
        self.position = 0

    def _ask(self) -> Decisions:
        self.position += 1
        return self.settings.architectures[self.position - 1]

    def _tell(self, decisions: Decisions, reward: float) -> None:
        pass

    def _state(self) -> dict[str, Any]:
        return {"place": self.position}

    def _load(self, state: Mapping[str, Any]) -> None:
        self.position = state["place"]
