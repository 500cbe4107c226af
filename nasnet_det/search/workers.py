"""Who trains the children: what every kind of worker has in common, and the one that is this process itself."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Protocol

from nasnet_det.genotypes.genotype import Genotype
from nasnet_det.search.child import ChildConfig, ChildResult, DeviceLost, check_child_config, train_child


class WorkersError(RuntimeError):
    """Why no child can be trained, and what to do about it."""


class Evaluator(Protocol):
    """What a worker does with a child. It must be picklable."""

    def check(self) -> None:
        """Raise what would keep every child from being trained: wrong data, an unknown device."""

    def __call__(self, genotype: Genotype, seed: int) -> ChildResult:
        """Train a child. A child's failure is a result; what it raises ends the search, but for
        :class:`nasnet_det.search.child.DeviceLost`, which asks for another worker."""


@dataclass(frozen=True)
class ChildEvaluator:
    """Trains a child on CIFAR-10.

    Args:
        config: how.
        device: where; a GPU if there is one.
    """

    config: ChildConfig
    device: str | None = None

    def check(self) -> None:
        check_child_config(self.config, self.device)

    def __call__(self, genotype: Genotype, seed: int) -> ChildResult:
        return train_child(genotype, self.config, seed, self.device)


@dataclass(frozen=True)
class Job:
    """A child to train."""

    number: int
    genotype: Genotype
    seed: int


@dataclass(frozen=True)
class Outcome:
    """What became of a job: a result, or none if its worker was lost, and why."""

    number: int
    result: ChildResult | None
    message: str = ""


class Workers(Protocol):
    """Trains children, several at once perhaps."""

    #: How many at once.
    slots: int

    def check(self) -> None:
        """Raise if children cannot be trained, before any is."""

    def submit(self, job: Job) -> None:
        """Start a child; there must be a free slot."""

    def wait(self) -> list[Outcome]:
        """Wait until a child is done or lost. What the evaluator raised is raised here."""

    def close(self) -> None:
        """Stop all workers at once."""


class InProcess:
    """One child at a time, in this process (``--workers 0``)."""

    slots = 1

    def __init__(self, evaluator: Evaluator) -> None:
        self.evaluator = evaluator
        self._jobs: deque[Job] = deque()

    def check(self) -> None:
        self.evaluator.check()

    def submit(self, job: Job) -> None:
        self._jobs.append(job)

    def wait(self) -> list[Outcome]:
        job = self._jobs.popleft()
        try:
            return [Outcome(job.number, self.evaluator(job.genotype, job.seed))]
        except DeviceLost as error:
            raise WorkersError(
                f"the device failed in trial {job.number} ({error}); the same command continues the search"
            ) from None

    def close(self) -> None:
        self._jobs.clear()
