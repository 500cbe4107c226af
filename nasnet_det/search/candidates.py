"""Candidates of a search before they are trained: genotypes, costs, latency and limits."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import nn

from nasnet_det.genotypes.genotype import Genotype
from nasnet_det.safe_io.values import first_line
from nasnet_det.search.costs import NetworkSize
from nasnet_det.search.limits import Demands, Limit, format_measure
from nasnet_det.search.space import Space
from nasnet_det.search.strategies.base import Decisions, Part

#: Costs remembered; a search of 20,000 trials with as many refused candidates needs about this many.
_MOST_KNOWN = 100_000
#: The effort of refusing candidates in a row after which a search gives up, and after which it is told each time.
_MOST_REFUSED, _TOLD_EVERY = 1000, 200
logger = logging.getLogger(__name__)


class LimitError(ValueError):
    """Limits that no candidate meets."""


class SpaceCandidates:
    """The architectures of a space, as networks of one size.

    Args:
        space: makes genotypes of decisions.
        size: of the measured network; None where nothing is measured.
        demands: limits and objectives.
        meter: measures a network's latency in milliseconds.
        child: the size of the child network; that of the measured one if None.
    """

    def __init__(
        self,
        space: Space,
        size: NetworkSize | None = None,
        demands: Demands = Demands(),
        meter: Callable[[nn.Module], float] | None = None,
        child: NetworkSize | None = None,
    ) -> None:
        self.space, self.size, self.demands, self.meter = space, size, demands, meter
        self.child = child or size
        self._known: dict[Decisions, dict[str, float]] = {}
        self._unmeasured: dict[Decisions, Limit] = {}
        #: Those refused by their latency, which follows from no calculation: the strategy learns it when they are.
        self.slow: set[Decisions] = set()

    def genotype(self, decisions: Decisions) -> Genotype:
        """Return the genotype of decisions."""
        return self.space.genotype(decisions)

    def parts(self, decisions: Decisions) -> Sequence[Part]:
        """Return the cells' edges; the two sides of a block are not told apart."""
        return edges_of(self.genotype(decisions))

    def measures(self, decisions: Decisions) -> dict[str, float]:
        """Return ``params`` and ``macs``, and ``latency`` (ms) once it was measured; empty if nothing is measured."""
        known = self._known.get(decisions)
        if known is None:
            if self.size is None:
                return {}
            if len(self._known) >= _MOST_KNOWN:  # what is counted, unlike what was measured, is so again
                self._known = {kept: known for kept, known in self._known.items() if "latency" in known}
            known = self._known[decisions] = dict(self.size.cost(self.genotype(decisions))._asdict())
        return known

    def remember(self, decisions: Decisions, measures: Mapping[str, Any]) -> None:
        """Take a latency from the study, so that it is not measured again."""
        if "latency" in measures:
            self.measures(decisions)["latency"] = float(measures["latency"])

    def allowed(self, decisions: Decisions) -> bool:
        """Return whether parameters and multiply-adds meet the limits; latency counts only once it was refused."""
        return decisions not in self.slow and self._exceeded_cost(decisions) is None

    def refuse(self, decisions: Decisions) -> None:
        """Take note that an architecture becomes no trial."""
        if self._exceeded_cost(decisions) is None:
            self.slow.add(decisions)

    def exceeded(self, decisions: Decisions) -> Limit | None:
        """Return the first limit that an architecture exceeds, or what cannot be measured of it.

        Its latency is measured if it meets the other limits.

        Raises:
            ImportError: if the runtime that measures it is not installed.
        """
        limit = self._exceeded_cost(decisions)
        if limit is None and self.demands.measures_latency:
            if "latency" not in self.measures(decisions) and decisions not in self._unmeasured:
                self._measure_latency(decisions)
            limit = self._unmeasured.get(decisions) or self.demands.exceeded(self.measures(decisions))
        return limit

    def _exceeded_cost(self, decisions: Decisions) -> Limit | None:
        return self.demands.exceeded({**self.measures(decisions), "latency": 0.0})

    def _measure_latency(self, decisions: Decisions) -> None:
        assert self.size is not None and self.meter is not None
        try:
            self.measures(decisions)["latency"] = self.meter(self.size.build(self.genotype(decisions)))
        except ImportError:
            raise
        except Exception as error:  # any failure of a sampled network, in any runtime, is the candidate's
            problem = f"{type(error).__name__}: {first_line(error)}"
            if not self._unmeasured:
                logger.warning(f"candidates whose latency cannot be measured are refused, the first for {problem}")
            self._unmeasured[decisions] = Limit("latency", math.inf, problem)

    def network(self, decisions: Decisions) -> nn.Module:
        """Return the untrained child network."""
        if self.child is None:
            raise ValueError("these candidates have no network size")
        return self.child.build(self.genotype(decisions))


class Refusals:
    """Candidates in a row that exceed a limit, up to the effort at which a search gives up."""

    def __init__(self) -> None:
        self.effort = 0.0
        self._values: dict[Limit, list[float]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._values.values()))

    def __str__(self) -> str:
        return "; ".join(
            f"{len(values)} have no {limit}"
            if limit.problem
            else f"{len(values)} exceed {limit}, the smallest of them has {format_measure(limit.name, min(values))}"
            for limit, values in self._values.items()
        )

    def add(self, limit: Limit, value: float) -> None:
        """Add a candidate by its value of the limited measure; warn now and then.

        Raises:
            LimitError: if there are too many.
        """
        told = self.effort // _TOLD_EVERY
        self._values.setdefault(limit, []).append(value)
        self.effort += limit.effort(value)
        if self.effort >= _MOST_REFUSED:
            unmeasured = all(one.problem for one in self._values)
            remedy = "have another network measured, or no latency" if unmeasured else "loosen a limit"
            raise LimitError(f"of {len(self)} candidates in a row none meets the limits: {self}; {remedy}")
        if self.effort // _TOLD_EVERY > told:
            logger.warning(f"none of {len(self)} candidates in a row meets the limits: {self}")


def edges_of(genotype: Genotype) -> list[Part]:
    """Return every cell's edges, with the operation of each, and its blocks' combiners where one is not a sum."""
    parts = []
    for kind, cell in genotype.cells.items():
        for number, block in enumerate(cell.blocks, start=genotype.num_inputs):
            parts += [(kind, f"{state}>{number}", operation) for state, operation in block.sides]
            if block.combine != "add":
                parts.append((kind, f">{number}", block.combine))
    return parts
