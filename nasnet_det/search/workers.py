"""Training of children: the interface of workers, and the worker that is this process itself."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from nasnet_det.genotypes.genotype import Genotype
from nasnet_det.search.child import DeviceLost, Trained, check_child_config, train_to
from nasnet_det.search.child_config import ChildConfig
from nasnet_det.training.progress import StepLines


class WorkersError(RuntimeError):
    """Why no child can be trained, and what to do about it."""


@dataclass(frozen=True)
class Job:
    """A child to train.

    Args:
        number: the task's number.
        trial: the trial's number.
        genotype: the child's cells.
        seed: what its weights and batches are drawn from.
        epochs: how far to train it in all; None for its end.
        checkpoint: where an earlier job left it; without one it is trained from the beginning, to the same result.
    """

    number: int
    trial: int
    genotype: Genotype
    seed: int
    epochs: int | None = None
    checkpoint: bytes | None = None


class Evaluator(Protocol):
    """Trains children on a worker; picklable."""

    def check(self) -> None:
        """Raise what would keep every child from being trained: wrong data, an unknown device."""

    def __call__(self, job: Job) -> Trained:
        """Train a child. A child's failure is a result; what is raised ends the search, except
        :class:`nasnet_det.search.child.DeviceLost`, which asks for another worker."""


@dataclass(frozen=True)
class ChildEvaluator:
    """Trains children on images.

    Args:
        config: how.
        device: where; a GPU if there is one.
        log: called with a line about a child in training now and then.
    """

    config: ChildConfig
    device: str | None = None
    log: Callable[[str], None] | None = None

    def check(self) -> None:
        check_child_config(self.config, self.device)

    def __call__(self, job: Job) -> Trained:
        config, log = self.config, self.log
        lines = StepLines(
            (job.epochs or config.epochs) * (config.train_images // config.batch_size),
            config.batch_size,
            lambda line: None if log is None else log(f"child {job.trial}: {line}"),
        )
        return train_to(job.genotype, config, job.seed, self.device, job.epochs, job.checkpoint, tick=lines)


@dataclass(frozen=True)
class Outcome:
    """The end of a job: a trained child, or None and the reason if its worker was lost."""

    number: int
    trained: Trained | None
    message: str = ""


class Workers(Protocol):
    """A set of workers that train children."""

    #: How many children are trained at once.
    slots: int

    def check(self) -> None:
        """Raise what would keep every child from being trained."""

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
            return [Outcome(job.number, self.evaluator(job))]
        except DeviceLost as error:
            raise WorkersError(
                f"the device failed in trial {job.trial} ({error}); the same command continues the search"
            ) from None

    def close(self) -> None:
        self._jobs.clear()
