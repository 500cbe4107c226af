"""The order in which a strategy is asked and told, so that a search can be killed at any moment.

The unit of work is a *task*: a new trial up to its first rung, or a trial continued to its next rung. Task k is chosen
when exactly the results of tasks 0 to k - P have been told, in this order; P is the number of tasks *pending*. What
strategy and pruner do then follows from seeds and results alone: not from which worker was faster, nor from how often
the search was killed. With P = 1 every result is known before the next task is chosen; W workers are kept busy by
P = 2 W, unless one child takes as long as all the others' next. Where a strategy allows it, results may instead be told
as they arrive: that order is then recorded, and replayed.

The strategy's state is saved beside the study, before anything is recorded that follows from new arithmetic. What came
after it (everything, without that file) is recomputed by replaying what the study records.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nasnet_det.search.candidates import Refusals, SpaceCandidates
from nasnet_det.search.records import Task
from nasnet_det.search.rungs import Pruner, SingleRung
from nasnet_det.search.storage import StudyError
from nasnet_det.search.strategies.base import Decisions, Result, Strategy
from nasnet_det.search.strategy_state import MALFORMED, damaged, read_state, write_state

#: Tasks after which the state is saved though nothing forces it: a restart replays at most so many.
_SAVE_EVERY = 200


@dataclass(frozen=True)
class Outcome:
    """A task's result: what the strategy is told, and the accuracies of all epochs, which the pruner may see."""

    result: Result
    history: tuple[float, ...] = ()


class Schedule:
    """A strategy and a pruner, asked and told in order.

    Args:
        strategy: new, as its seed makes it.
        pending: P.
        path: the file of the strategy's state; None to keep none.
        pruner: new.
        candidates: those beyond a limit are refused; None for no limits.
        in_order: whether results are told in the order of tasks; else as they arrive.

    Raises:
        ValueError: if ``pending`` is below 1, or the strategy does not take results as they arrive.
    """

    def __init__(
        self,
        strategy: Strategy[Any],
        pending: int,
        path: Path | None = None,
        pruner: Pruner | None = None,
        candidates: SpaceCandidates | None = None,
        in_order: bool = True,
    ) -> None:
        if pending < 1:
            raise ValueError(f"pending must be at least 1, got {pending}")
        if not in_order and not strategy.any_order:
            raise ValueError(f"{type(strategy).__name__} takes results in the order of trials only")
        self.strategy, self.pending, self.path = strategy, pending, path
        self.pruner, self.candidates, self.in_order = pruner or SingleRung(), candidates, in_order
        self.tasks: list[Task] = []
        self.trials = self.told = 0
        #: Trials that the pruner stopped and the driver has not recorded yet.
        self.stopped: list[int] = []
        self._reached: list[Task] = []  # the last task of every trial
        self._results: dict[int, Outcome] = {}  # by task, not told yet
        self._arrived: list[int] = []
        self._digest = hashlib.sha256()
        self._saved = (0, 0)
        #: Tasks and results that the loaded state of the strategy knows already.
        self._known_tasks = self._known_results = 0

    def choose(self, trials: int) -> Task | None:
        """Return the next task, or None: a result must come first or, with no task under way, the search has ended.

        Args:
            trials: how many trials there are to be.

        Raises:
            StudyError: if the state cannot be written.
            LimitError: if the strategy finds no candidate that meets the limits.
        """
        rungs = len(self.pruner.rungs) > 1
        if self.trials >= trials and not rungs:
            return None
        while self.told < self._due:
            if not self._tell():
                return None
        while True:
            trial = self.pruner.next()
            if trial is not None:
                return self._add(self._continued(trial))
            if self.trials < trials and not self.strategy.exhausted and (task := self._start()) is not None:
                return task
            # No new trial is to follow: results told earlier than they would be can still lead to a continuation.
            if not self._tell():
                return None

    def result(self, task: int, outcome: Outcome) -> int | None:
        """Take a task's result, to be told when its turn comes; return its position where that depends on arrival."""
        self._results[task] = outcome
        if self.in_order:
            return None
        self._arrived.append(task)
        return len(self._arrived) - 1

    def save(self) -> None:
        """Save the state, if it is that in which the last task was chosen: only such a state can be replayed to.

        Raises:
            StudyError: if it cannot be written.
        """
        if self.path is None or not self.tasks or self.told != self.tasks[-1].told:
            return
        self._saved = (self.strategy.updates, len(self.tasks))
        last = self.tasks[-1]
        content = {
            "asked": len(self.tasks),
            "told": self.told,
            "trials": self._digest.hexdigest(),
            "last": [last.trial, last.rung, list(last.decisions), last.refused],
            "slow": [list(decisions) for decisions in sorted(self.candidates.slow)] if self.candidates else [],
            "strategy": self.strategy.state_dict(),
        }
        write_state(self.path, content)

    def restore(self, tasks: Sequence[Task], outcomes: dict[int, Outcome], arrived: Sequence[int] = ()) -> list[Task]:
        """Bring a new strategy and pruner to where the study is; return the task that was chosen but not recorded.

        Args:
            tasks: those recorded, in order.
            outcomes: the results, by task.
            arrived: the tasks in the order in which their results arrived, where that counts.

        Raises:
            StudyError: if the study holds other trials than this strategy asks for.
        """
        self._results, self._arrived = dict(outcomes), list(arrived)
        missing = self._load(tasks)
        for task in [*tasks, *missing]:
            self._replay(task)
        return missing

    @property
    def _due(self) -> int:
        """The number of results to tell before the next task is chosen."""
        return max(self.told, len(self.tasks) - self.pending + 1) if self.in_order else len(self._arrived)

    def _tell(self) -> bool:
        """Tell the next result, if it is in."""
        if not self.in_order and self.told >= len(self._arrived):
            return False
        number = self.told if self.in_order else self._arrived[self.told]
        outcome = self._results.pop(number, None)
        if outcome is None:
            return False
        task, result = self.tasks[number], outcome.result
        stopped = self.pruner.tell(task.trial, task.rung, result.values, outcome.history, result.final)
        self.stopped += stopped
        if self.told >= self._known_results:
            self.strategy.tell(task.trial, result)
            for trial in stopped:
                self.strategy.stop(trial)
        self.told += 1
        return True

    def _continued(self, trial: int) -> Task:
        before = self._reached[trial]
        return Task(len(self.tasks), trial, before.rung + 1, before.decisions, self.told)

    def _start(self) -> Task | None:
        """Return a new trial, None if the strategy has listed all architectures that meet the limits."""
        refusals = Refusals()
        decisions = self.strategy.ask()
        while self.candidates is not None and (limit := self.candidates.exceeded(decisions)) is not None:
            self._refuse(decisions)
            refusals.add(limit, self.candidates.measures(decisions).get(limit.name, math.inf))
            if self.strategy.exhausted:
                return None
            decisions = self.strategy.ask()
        task = self._add(Task(len(self.tasks), self.trials, 0, decisions, self.told, len(refusals)))
        if self._saved[0] != self.strategy.updates or len(self.tasks) >= self._saved[1] + _SAVE_EVERY:
            self.save()
        return task

    def _refuse(self, decisions: Decisions) -> None:
        self.strategy.refuse()
        if self.candidates is not None:
            self.candidates.refuse(decisions)

    def _add(self, task: Task) -> Task:
        self.tasks.append(task)
        if task.rung:
            self._reached[task.trial] = task
        else:
            self._reached.append(task)
            self.trials += 1
            self._digest.update(repr(task.decisions).encode())
        return task

    def _replay(self, task: Task) -> None:
        """Do what led to a recorded task."""
        while self.told < task.told:
            if not self._tell():
                raise StudyError(f"trial {task.trial} was made before the results that it follows from")
        trial = self.pruner.next()
        if trial is None and len(self.tasks) >= self._known_tasks:
            for _ in range(task.refused):
                self._refuse(self.strategy.ask())
            found = Task(len(self.tasks), self.trials, 0, self.strategy.ask(), self.told, task.refused)
        elif trial is None:  # the state's digest vouches for its decisions
            found = Task(len(self.tasks), self.trials, 0, task.decisions, self.told, task.refused)
        else:
            found = self._continued(trial)
        if found != task:
            raise StudyError(
                f"trial {task.trial} is not what this strategy would have tried: the study was made by another "
                f"version of it, or with other numerical libraries and {self.path} is lost"
            )
        self._add(task)

    def _load(self, tasks: Sequence[Task]) -> list[Task]:
        """Load the saved state if the study has all that it follows from; return the task that the study lacks."""
        state = None if self.path is None else read_state(self.path)
        if state is None or self.path is None:
            return []
        try:
            return self._load_strategy(state, tasks, self.path)
        except MALFORMED as error:
            raise damaged(self.path, error) from None

    def _load_strategy(self, state: Any, tasks: Sequence[Task], path: Path) -> list[Task]:
        asked, told = int(state["asked"]), int(state["told"])
        if not 0 <= told <= asked:
            raise ValueError(f"{asked} tasks and {told} results")
        order = list(range(len(tasks))) if self.in_order else self._arrived
        # After a power failure the study may lack what the state has seen: then all is replayed.
        if asked > len(tasks) + 1 or told > len(order) or any(number not in self._results for number in order[:told]):
            return []
        missing = []
        if asked == len(tasks) + 1:
            # Files of release 0.1 have the architectures that wait for a result, and no rungs.
            trial, rung, decisions, refused = state.get("last") or (asked - 1, 0, state["strategy"]["asked"][-1], 0)
            missing = [Task(asked - 1, trial, rung, tuple(decisions), told, refused)]
            if rung:  # a continuation saves no state: the study lost it
                return []
        digest = hashlib.sha256()
        for task in [*tasks, *missing][:asked]:
            if not task.rung:
                digest.update(repr(task.decisions).encode())
        if state.get("trials", digest.hexdigest()) != digest.hexdigest():
            raise StudyError(f"{path} is not of this study; remove it: its content is then recomputed")
        if "last" not in state:  # a file of release 0.1
            state["strategy"] |= {"asks": asked, "asked": list(enumerate(state["strategy"]["asked"], start=told))}
        self.strategy.load_state_dict(state["strategy"])
        if self.candidates is not None:
            self.candidates.slow.update(map(tuple, state.get("slow", [])))
        self._known_tasks, self._known_results = asked, told
        self._saved = (self.strategy.updates, asked)
        return missing
