"""Records of a search: tasks, trials and findings, and the best of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nasnet_det.genotypes.genotype import Genotype
from nasnet_det.search.child import ChildResult
from nasnet_det.search.limits import oriented
from nasnet_det.search.rungs import pareto_front
from nasnet_det.search.strategies.base import Decisions

#: Statuses that carry an accuracy; any other is recorded as Optuna's FAIL.
MEASURED = ("ok", "stopped_early")


@dataclass(frozen=True)
class Task:
    """A unit of work: a trial up to one of its rungs.

    Args:
        number: its position among all tasks.
        trial: the trial's position among those of the search.
        rung: the index of the rung to reach; 0 for a new trial.
        decisions: the trial's architecture.
        told: how many results had been told when it was chosen.
        refused: how many candidates had been refused before this trial was found.
    """

    number: int
    trial: int
    rung: int
    decisions: Decisions
    told: int
    refused: int = 0


@dataclass(frozen=True)
class Step:
    """A task as the study records it, with its result.

    Args:
        task: its position among all tasks.
        told: how many results had been told when it was chosen.
        status: of its result; None until then.
        reward: the validation accuracy; 0 where the child gave none.
        arrived: the position of its result among all results, where they are told as they arrive.
    """

    task: int
    told: int
    status: str | None = None
    reward: float = 0.0
    arrived: int | None = None


@dataclass(frozen=True)
class Record:
    """A trial as the search sees it.

    Args:
        trial: its position among the trials of the search.
        number: its number in the study: another one where others added trials.
        trial_id: its id in the storage.
        decisions: its architecture.
        seed: its child's seed.
        finished: whether it has ended.
        steps: its tasks, one for each rung that it was to reach.
        refused: how many candidates had been refused before it was found.
        attributes: everything recorded of it.
    """

    trial: int
    number: int
    trial_id: int
    decisions: Decisions
    seed: int
    finished: bool
    steps: tuple[Step, ...]
    refused: int
    attributes: Mapping[str, Any]

    @property
    def reward(self) -> float | None:
        """The reward of its last step, None while that is under way."""
        return None if self.steps[-1].status is None else self.steps[-1].reward


@dataclass(frozen=True)
class Finding:
    """A child with an accuracy.

    Args:
        number: the trial's number.
        genotype, decisions: its architecture.
        seed: its child's seed.
        reward: its last validation accuracy.
        values: the study's objectives, as recorded.
        complete: whether it was trained to its end.
        measures: everything else recorded of it.
    """

    number: int
    genotype: Genotype
    decisions: Decisions
    seed: int
    reward: float
    values: tuple[float, ...]
    complete: bool
    measures: Mapping[str, Any]

    @property
    def epochs(self) -> int:
        """The epochs that it was trained for."""
        return len(self.measures.get("accuracies", ()))


def measured(result: ChildResult) -> bool:
    """Return whether a child has an accuracy."""
    return result.status in MEASURED and math.isfinite(result.reward)


def by_architecture(findings: Sequence[Finding]) -> dict[Decisions, Finding]:
    """Return the best child of each architecture, the best first.

    Those trained for more epochs come first, then those of higher accuracy; of equals the earlier.
    """
    unique: dict[Decisions, Finding] = {}
    for finding in sorted(findings, key=lambda f: (-f.epochs, -f.reward, f.number)):
        unique.setdefault(finding.decisions, finding)
    return unique


def best(findings: Sequence[Finding], count: int) -> list[Finding]:
    """Return the best ``count`` of :func:`by_architecture`, as the paper's figure 6 counts models."""
    return list(by_architecture(findings).values())[:count]


def front(findings: Sequence[Finding], objectives: Sequence[str]) -> list[Finding]:
    """Return the Pareto front of children trained to their end, the most accurate first; of equals the earlier."""
    ended = [finding for finding in findings if finding.complete]
    points = [oriented(objectives, finding.values) for finding in ended]
    chosen: dict[tuple[float, ...], Finding] = {}
    for i in sorted(pareto_front(points)):
        chosen.setdefault(points[i], ended[i])
    return sorted(chosen.values(), key=lambda finding: (-finding.reward, finding.number))
