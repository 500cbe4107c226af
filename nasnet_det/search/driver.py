"""The search itself: asks the strategy, records, hands out children, records what came of them.

Every step leaves the study such that the same search, started again, goes on: a trial is recorded before its child is
started, and its result before the strategy learns of it. A child that was running when the search was killed runs
again, and counts once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from nasnet_det.genotypes.genotype import Genotype
from nasnet_det.search.child import ChildResult
from nasnet_det.search.schedule import Schedule
from nasnet_det.search.strategies.base import Decisions, Strategy
from nasnet_det.search.study import Study
from nasnet_det.search.workers import Job, Workers


class Architectures(Protocol):
    """What makes a genotype of decisions."""

    def genotype(self, decisions: Decisions) -> Genotype: ...


@dataclass(frozen=True)
class Progress:
    """A child was finished, or (``result`` is None) the search found out where it stands; ``best`` is the best reward
    so far and its trial."""

    number: int
    result: ChildResult | None
    finished: int
    total: int
    running: int
    best: tuple[float, int] | None = None


def child_seed(seed: int, number: int) -> int:
    """The seed of a trial's child: the same whoever trains it, another for every trial."""
    return int(np.random.SeedSequence((seed, number)).generate_state(1)[0] >> 1)


@dataclass
class Search:
    """A search under way.

    Args:
        study: where it is recorded.
        strategy: fresh, as its seed makes it.
        architectures: the space.
        workers: who trains the children.
        seed: the children's seeds are made of it.
        pending: see :mod:`nasnet_det.search.schedule`.
        state: the file of the strategy's state.
        retries: how often a lost worker's child is tried again.
        report: told of every finished child.
    """

    study: Study
    strategy: Strategy[Any]
    architectures: Architectures
    workers: Workers
    seed: int = 0
    pending: int = 1
    state: Path | None = None
    retries: int = 3
    report: Callable[[Progress], None] = lambda progress: None
    finished: int = 0
    best: tuple[float, int] | None = None
    schedule: Schedule = field(init=False)
    _ids: dict[int, int] = field(default_factory=dict)
    _jobs: dict[int, Job] = field(default_factory=dict)
    _attempts: dict[int, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.schedule = Schedule(self.strategy, self.pending, self.state)

    def run(self, trials: int) -> None:
        """Go on until the study holds ``trials`` finished trials (or more, if it does already).

        Raises:
            StudyError: if something cannot be recorded; what was, is kept.
            WorkersError: if nobody can train children any more.
        """
        waiting = self._restore()
        self.report(Progress(-1, None, self.finished, trials, 0, self.best))
        while self.finished < trials:
            while len(self._jobs) < self.workers.slots:
                job = waiting.pop(0) if waiting else self._next(trials)
                if job is None:
                    break
                self._jobs[job.number] = job
                self.workers.submit(job)
            for outcome in self.workers.wait():
                if outcome.result is not None:
                    self._finish(outcome.number, outcome.result, trials)
                else:
                    self._lost(outcome.number, outcome.message, trials)
        self.schedule.save()

    def _restore(self) -> list[Job]:
        """Bring the strategy to where the study is; gives the children that are recorded but not done."""
        records = self.study.records()
        missing = self.schedule.restore(records)
        self.finished = sum(record.reward is not None for record in records)
        waiting = []
        for record in records:
            if record.reward is not None:
                self._note(record.number, record.reward)
            else:
                self._ids[record.number] = record.trial_id
                waiting.append(Job(record.number, self.architectures.genotype(record.decisions), record.seed))
        return waiting + [self._record(number, decisions) for number, decisions in missing]

    def _next(self, trials: int) -> Job | None:
        """The next trial, if there is to be one and its turn has come."""
        if self.schedule.asked >= trials or not self.schedule.ready:
            return None
        return self._record(*self.schedule.ask())

    def _record(self, number: int, decisions: Decisions) -> Job:
        job = Job(number, self.architectures.genotype(decisions), child_seed(self.seed, number))
        self._ids[number] = self.study.create(number, decisions, job.genotype, job.seed)
        return job

    def _finish(self, number: int, result: ChildResult, trials: int) -> None:
        reward = self.study.finish(self._ids.pop(number), result, self._attempts.pop(number, 0) + 1)
        del self._jobs[number]
        self.schedule.result(number, reward)
        self.finished += 1
        self._note(number, reward)
        self.report(Progress(number, result, self.finished, trials, len(self._jobs), self.best))

    def _note(self, number: int, reward: float) -> None:
        if self.best is None or reward > self.best[0]:
            self.best = reward, number

    def _lost(self, number: int, message: str, trials: int) -> None:
        """Try a lost worker's child again, or record that it cannot be trained."""
        attempts = self._attempts[number] = self._attempts.get(number, 0) + 1
        if attempts <= self.retries:
            self.workers.submit(self._jobs[number])
            return
        self._attempts[number] = self.retries  # and the last one, which _finish counts
        words = f"its worker was lost {attempts} times, last: {message}"
        self._finish(number, ChildResult("crashed", 0.0, seed=self._jobs[number].seed, message=words), trials)
