"""The loop of a search: asks the strategy for candidates, records them, hands them to workers and records the results.

Every step leaves the study such that the same search, started again, continues: a task is recorded before its child is
started, and its result before the strategy learns of it. A child that was running when the search was killed runs
again, and counts once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from nasnet_det.search.candidates import SpaceCandidates
from nasnet_det.search.checkpoints import Checkpoints
from nasnet_det.search.child import ChildResult, Trained
from nasnet_det.search.limits import ACCURACY, oriented
from nasnet_det.search.records import MEASURED, Record, Task, measured
from nasnet_det.search.rungs import Pruner, SingleRung
from nasnet_det.search.schedule import Outcome, Schedule
from nasnet_det.search.storage import StudyError
from nasnet_det.search.strategies.base import Decisions, Result, Strategy
from nasnet_det.search.study import Study
from nasnet_det.search.workers import Job, Workers
from nasnet_det.training.seeds import derive_seed


class Best(NamedTuple):
    """The best child so far: of those at the highest rung, that with the highest reward."""

    epochs: int
    reward: float
    number: int


@dataclass(frozen=True)
class Progress:
    """A child's result, or (``result`` is None) the state of the study at the start.

    Args:
        number: the trial's number in the study.
        result: its child's.
        finished: how many trials have a result.
        total: how many trials there are to be.
        best: the best child so far.
    """

    number: int
    result: ChildResult | None
    finished: int
    total: int
    best: Best | None = None


def child_seed(seed: int, number: int) -> int:
    """Return the seed of a trial's child, 31 bits: independent of the worker and different for every trial."""
    return derive_seed(seed, number) >> 1


@dataclass
class _Trial:
    """A trial that has not ended."""

    trial_id: int
    number: int
    seed: int
    values: tuple[float, ...] = ()


@dataclass
class Search:
    """A running search.

    Args:
        study: where it is recorded.
        strategy: new, as its seed makes it.
        candidates: the space, with limits and measures.
        workers: who trains the children.
        seed: what the children's seeds are derived from.
        pending: see :mod:`nasnet_det.search.schedule`.
        state: the file of the strategy's state.
        retries: how often a lost worker's child is tried again.
        report: called with every child's result.
        pruner: new; decides who continues at a rung.
        in_order: whether results are told in the order of tasks; else as they arrive.
        checkpoints: where children wait for their next rung; without it they are trained from the beginning.
        should_stop: asked after every result whether to raise KeyboardInterrupt.
    """

    study: Study
    strategy: Strategy[Any]
    candidates: SpaceCandidates
    workers: Workers
    seed: int = 0
    pending: int = 1
    state: Path | None = None
    retries: int = 3
    report: Callable[[Progress], None] = lambda progress: None
    pruner: Pruner = field(default_factory=SingleRung)
    in_order: bool = True
    checkpoints: Checkpoints | None = None
    should_stop: Callable[[], bool] = lambda: False
    finished: int = 0
    schedule: Schedule = field(init=False)
    best: Best | None = None
    _open: dict[int, _Trial] = field(default_factory=dict)
    _ended: dict[int, _Trial] = field(default_factory=dict)
    _running: dict[int, Task] = field(default_factory=dict)
    _attempts: dict[int, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.schedule = Schedule(self.strategy, self.pending, self.state, self.pruner, self.candidates, self.in_order)

    def run(self, trials: int) -> None:
        """Continue until the study holds ``trials`` trials, and none is to be continued to another rung.

        Raises:
            StudyError: if recording fails; everything recorded so far is kept.
            LimitError: if the strategy finds no candidate that meets the limits.
            WorkersError: if nobody can train children any more.
        """
        waiting = self._restore()
        self.report(Progress(-1, None, self.finished, trials, self.best))
        if self.finished >= trials and len(self.pruner.rungs) < 2:
            return
        while True:
            while len(self._running) < self.workers.slots:
                task = waiting.pop(0) if waiting else self._next(trials)
                if task is None:
                    break
                self._running[task.number] = task
                self.workers.submit(self._job(task))
            if not self._running:
                break
            for outcome in self.workers.wait():
                if outcome.trained is not None:
                    self._finish(outcome.number, outcome.trained, trials)
                else:
                    self._lost(outcome.number, outcome.message, trials)
            if self.should_stop():
                raise KeyboardInterrupt
        self.schedule.save()

    def _restore(self) -> list[Task]:
        """Replay the study into strategy and pruner; return the tasks that are recorded but not done."""
        records = self.study.records(self.pending)
        for record in records:
            self.candidates.remember(record.decisions, record.attributes)
        tasks, outcomes, arrived = self._recorded(records)
        for record in records:
            done = [step for step in record.steps if step.status is not None]
            self.finished += bool(done)
            for rung, step in enumerate(done):
                self._note(record.number, rung, step.status, step.reward)
            values = self._values(record.decisions, done[-1].reward) if done else ()
            if done and self._is_final(len(done) - 1, done[-1].status):
                # A search killed between the last result and the trial's state has not recorded the state.
                if not record.finished:
                    self.study.end(record.trial_id, done[-1].status in MEASURED, values)
                continue
            trial = _Trial(record.trial_id, record.number, record.seed, values)
            if record.finished:  # stopped at its rung, or ended by another program
                self._ended[record.trial] = trial
                continue
            self._open[record.trial] = trial
            # A search killed right after it created the trial has not recorded them.
            self.study.set_parameters(record.trial_id, self.candidates.space.parameters(record.decisions))
        missing = self.schedule.restore(tasks, outcomes, arrived)
        self._record_stopped()
        if self.checkpoints is not None:
            self.checkpoints.keep_only(self._open)
        for task in missing:
            self._create(task)
        return [task for task in tasks if task.number not in outcomes] + missing

    def _recorded(self, records: Sequence[Record]) -> tuple[list[Task], dict[int, Outcome], list[int]]:
        """Return the tasks of all trials in order, their results, and the order in which these arrived."""
        tasks: list[Task] = []
        outcomes: dict[int, Outcome] = {}
        arrived: dict[int, int] = {}
        for record in records:
            for rung, step in enumerate(record.steps):
                refused = 0 if rung else record.refused
                task = Task(step.task, record.trial, rung, record.decisions, step.told, refused)
                tasks.append(task)
                if step.status is not None:
                    accuracies = record.attributes.get("accuracies", ())
                    outcomes[step.task] = self._outcome(task, step.status, step.reward, accuracies)
                if step.arrived is not None:
                    arrived[step.arrived] = step.task
        tasks.sort(key=lambda task: task.number)
        if [task.number for task in tasks] != list(range(len(tasks))):
            raise StudyError("the study lacks tasks that later ones follow from: trials were removed from it")
        return tasks, outcomes, [arrived[i] for i in sorted(arrived)]

    def _next(self, trials: int) -> Task | None:
        """Record and return the next task, if there is one and its turn has come."""
        task = self.schedule.choose(trials)
        self._record_stopped()
        if task is None:
            return None
        if task.rung:
            self.study.proceed(self._trial(task).trial_id, task)
        else:
            self._create(task)
        return task

    def _create(self, task: Task) -> None:
        genotype, seed = self.candidates.genotype(task.decisions), child_seed(self.seed, task.trial)
        self.candidates.exceeded(task.decisions)  # a search killed before this has lost the latency it measured
        measures = self.candidates.measures(task.decisions)
        parameters = self.candidates.space.parameters(task.decisions)
        self._open[task.trial] = _Trial(*self.study.create(task, genotype, seed, measures, parameters), seed)

    def _job(self, task: Task) -> Job:
        rungs = self.pruner.rungs
        checkpoint = self.checkpoints.read(task.trial) if task.rung and self.checkpoints is not None else None
        genotype, seed = self.candidates.genotype(task.decisions), self._trial(task).seed
        return Job(task.number, task.trial, genotype, seed, rungs[task.rung] if rungs else None, checkpoint)

    def _trial(self, task: Task) -> _Trial:
        """Return the trial of a task; one that another program has ended is reopened."""
        if task.trial not in self._open:
            trial = self._open[task.trial] = self._ended.pop(task.trial)
            self.study.reopen(trial.trial_id, trial.number)
        return self._open[task.trial]

    def _finish(self, number: int, trained: Trained, trials: int) -> None:
        task, result = self._running.pop(number), trained.result
        trial = self._open[task.trial]
        trial.values = self._values(task.decisions, result.reward if measured(result) else 0.0)
        outcome = self._outcome(task, result.status, trial.values[0], result.accuracies)
        final = outcome.result.final
        if self.checkpoints is not None and trained.checkpoint is not None and not final:
            self.checkpoints.write(task.trial, trained.checkpoint)
        arrived = self.schedule.result(number, outcome)
        attempts = self._attempts.pop(number, 0) + 1
        self.study.finish(trial.trial_id, result, trial.values, attempts, final, arrived)
        if final:
            self._close(task.trial)
        self.finished += not task.rung
        self._note(trial.number, task.rung, result.status, trial.values[0])
        self.report(Progress(trial.number, result, self.finished, trials, self.best))

    def _outcome(self, task: Task, status: str, reward: float, accuracies: Sequence[float]) -> Outcome:
        rungs, objectives = self.pruner.rungs, self.study.objectives
        values = oriented(objectives, self._values(task.decisions, reward))
        epochs = rungs[task.rung] if rungs else 0
        result = Result(values, epochs, self._is_final(task.rung, status), failed=status not in MEASURED)
        return Outcome(result, tuple(accuracies[:epochs]))

    def _is_final(self, rung: int, status: str | None) -> bool:
        """Return whether a trial ends with a result."""
        return rung >= len(self.pruner.rungs) - 1 or status != "ok"

    def _values(self, decisions: Decisions, reward: float) -> tuple[float, ...]:
        """Return a trial's objectives."""
        objectives = self.study.objectives
        measures = self.candidates.measures(decisions) if len(objectives) > 1 else {}
        return tuple(reward if name == ACCURACY else measures[name] for name in objectives)

    def _record_stopped(self) -> None:
        for number in self.schedule.stopped:
            if number in self._open:
                self.study.stop(self._open[number].trial_id, self._open[number].values)
                self._close(number)
        self.schedule.stopped.clear()

    def _close(self, number: int) -> None:
        del self._open[number]
        if self.checkpoints is not None:
            self.checkpoints.remove(number)

    def _note(self, number: int, rung: int, status: str | None, reward: float) -> None:
        """Take note of a trial with an accuracy if it is the best so far."""
        epochs = self.pruner.rungs[rung] if self.pruner.rungs else 0
        if status not in MEASURED:
            return
        if self.best is None or (epochs, reward) > self.best[:2]:
            self.best = Best(epochs, reward, number)

    def _lost(self, number: int, message: str, trials: int) -> None:
        """Try a lost worker's child again, or give the child up."""
        attempts = self._attempts[number] = self._attempts.get(number, 0) + 1
        if attempts <= self.retries:
            self.workers.submit(self._job(self._running[number]))
            return
        self._attempts[number] = self.retries  # and the last one, which _finish counts
        words = f"its worker was lost {attempts} times, last: {message}"
        seed = self._open[self._running[number].trial].seed
        self._finish(number, Trained(ChildResult("crashed", 0.0, seed=seed, message=words)), trials)
