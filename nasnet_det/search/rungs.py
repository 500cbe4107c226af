"""Rungs: the epochs after which children are judged, and who stops, waits or continues.

A child that reaches a rung has one of three fates. It is *continued* to the next rung from its checkpoint, *kept* with
its checkpoint until better ones have been seen, or *stopped*. :class:`Asha` decides so as asynchronous successive
halving does (Li et al., arXiv:1810.05934, algorithm 2); every pruner of Optuna, which knows only stopping and
continuing, is available by its name. A decision follows from the results told so far and their order, so it can be
replayed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from nasnet_det.safe_io.values import first_line, format_value

Values = tuple[float, ...]
#: The pruner of this project.
ASHA = "asha"
#: Made-up children with which a pruner of Optuna is tried: more than any continues before its first decision.
_TRIED = 8


class Pruner(Protocol):
    """The judge of children at their rungs."""

    rungs: tuple[int, ...]

    def tell(self, trial: int, rung: int, values: Values, history: Values = (), final: bool = False) -> list[int]:
        """Learn a result; return the trials that are stopped because of it.

        Args:
            trial: the trial's number.
            rung: the index of the rung that it has reached.
            values: its objectives, larger is better; the validation accuracy first.
            history: the validation accuracy after every epoch so far.
            final: whether it failed, or has been trained to its end.
        """

    def next(self) -> int | None:
        """Return the trial to continue now, None if a new one is to be started instead."""


@dataclass
class SingleRung:
    """Children that are trained to their end at once."""

    rungs: tuple[int, ...] = ()

    def tell(self, trial: int, rung: int, values: Values, history: Values = (), final: bool = False) -> list[int]:
        """Ignore the result: there is nothing to decide."""
        return []

    def next(self) -> int | None:
        return None


@dataclass
class Asha:
    """Asynchronous successive halving (Li et al., arXiv:1810.05934).

    A child is continued when it is among the best ``n // reduction`` of the ``n`` results of its rung; higher rungs
    first. Several objectives are ranked by Pareto fronts, then by accuracy (Schmucker et al., arXiv:2106.12639).

    Args:
        rungs: the epochs after which children are judged, the last one being their end.
        reduction: of so many children one is continued.
        keep: how many of the best children that wait at a rung keep their checkpoint; the others are stopped.

    Raises:
        ValueError: if ``reduction`` is below 2 or ``keep`` below 1.
    """

    rungs: tuple[int, ...]
    reduction: int = 3
    keep: int = 10
    _results: list[list[tuple[int, Values]]] = field(init=False, repr=False)
    _waiting: list[set[int]] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        for name, least in (("reduction", 2), ("keep", 1)):
            value = getattr(self, name)
            if type(value) is not int or value < least:
                raise ValueError(f"{name} must be an int of at least {least}, got {format_value(value)}")
        self._results = [[] for _ in self.rungs]
        self._waiting = [set() for _ in self.rungs]

    def tell(self, trial: int, rung: int, values: Values, history: Values = (), final: bool = False) -> list[int]:
        """Learn a result; see :meth:`Pruner.tell`."""
        self._results[rung].append((trial, values))
        self._results[rung] = ranked(self._results[rung])
        if final or rung == len(self.rungs) - 1:
            return []
        waiting = self._waiting[rung]
        waiting.add(trial)
        excess = [number for number, _ in self._results[rung] if number in waiting][self.keep :]
        waiting.difference_update(excess)
        return excess

    def next(self) -> int | None:
        """Return the best trial that may be continued, of the highest rung."""
        for results, waiting in zip(reversed(self._results), reversed(self._waiting), strict=True):
            for trial, _ in results[: len(results) // self.reduction]:
                if trial in waiting:
                    waiting.remove(trial)
                    return trial
        return None


class OptunaPruner:
    """A pruner of Optuna, asked after every rung whether to stop; it is shown the accuracy of every epoch.

    Args:
        name: its class in ``optuna.pruners``.
        rungs: the epochs after which it is asked.
        options: its arguments.

    Raises:
        ValueError: if Optuna has no such pruner, does not take these arguments, fails or never stops with them.
    """

    def __init__(self, name: str, rungs: tuple[int, ...], options: Mapping[str, Any]) -> None:
        self.name, self.rungs, self.options = name, rungs, options
        for option in ("min_resource", "n_warmup_steps"):  # the epochs before which pruners do not stop
            if type(first := options.get(option)) is int and first > rungs[-2]:
                raise ValueError(
                    f"pruner {name} is last asked after epoch {rungs[-2]}, before {option} = {first}: lower it"
                )
        self._start()
        try:
            self._try()
        except Exception as error:  # of whatever package the pruner is
            words = f"{type(error).__name__}: {first_line(error)}"
            raise ValueError(
                f"pruner {name} fails with {format_value(dict(options))} ({words}): change or leave out these arguments"
            ) from None
        self._start()

    def _start(self) -> None:
        import optuna

        from nasnet_det.search.optuna_plugins import make_plugin, quiet

        pruner = make_plugin("Pruner", self.name, self.options)
        with quiet():
            # Hyperband takes a trial's bracket from the study's name.
            self._study = optuna.create_study(study_name="rungs", direction="maximize", pruner=pruner)
        self._trials: dict[int, optuna.Trial] = {}
        self._continued: deque[int] = deque()

    def _try(self) -> None:
        """Judge made-up children: some pruners look at their arguments when they first decide."""
        for trial in range(_TRIED):
            history = tuple((trial + epoch) % _TRIED / _TRIED for epoch in range(self.rungs[-1]))
            for rung, epochs in enumerate(self.rungs):
                self.tell(trial, rung, history[epochs - 1 : epochs], history[:epochs])
                if self.next() is None:
                    break

    def tell(self, trial: int, rung: int, values: Values, history: Values = (), final: bool = False) -> list[int]:
        """Learn a result and ask; see :meth:`Pruner.tell`."""
        import optuna

        mirrored = self._trials.pop(trial) if trial in self._trials else self._study.ask()
        begun = self.rungs[rung - 1] if rung else 0
        epochs = list(enumerate(history, start=1))[begun:] or [(self.rungs[rung], values[0])]
        for epoch, accuracy in epochs:
            mirrored.report(accuracy, epoch)
        if final or rung == len(self.rungs) - 1:
            self._study.tell(mirrored, values[0])
        elif mirrored.should_prune():
            self._study.tell(mirrored, state=optuna.trial.TrialState.PRUNED)
            return [trial]
        else:
            self._trials[trial] = mirrored
            self._continued.append(trial)
        return []

    def next(self) -> int | None:
        """Return the trial that has waited longest since it was decided to continue it."""
        return self._continued.popleft() if self._continued else None


def ranked(results: Sequence[tuple[int, Values]]) -> list[tuple[int, Values]]:
    """Sort trials from best to worst: by Pareto front, then by the first objective; of equals the earlier told."""
    left, order = list(results), list[tuple[int, Values]]()
    if left and len(left[0][1]) == 1:
        return sorted(left, key=lambda result: -result[1][0])
    while left:
        front = pareto_front([values for _, values in left])
        order += sorted((left[i] for i in front), key=lambda result: -result[1][0])
        left = [result for i, result in enumerate(left) if i not in front]
    return order


def pareto_front(points: Sequence[Values]) -> set[int]:
    """Return the indices of the points that no other dominates; larger is better.

    A point dominates another if it is at least as good in every objective and better in one.
    """
    return {i for i, point in enumerate(points) if not any(_dominates(other, point) for other in points)}


def _dominates(one: Values, other: Values) -> bool:
    return one != other and all(a >= b for a, b in zip(one, other, strict=True))


def resolve_pruner(name: str) -> str:
    """Return a pruner's name as it is recorded: ``asha``, or a class of ``optuna.pruners``.

    Raises:
        ValueError: for an unknown name.
    """
    if name.lower() == ASHA:
        return ASHA
    from nasnet_det.search.optuna_plugins import plugin_name

    try:
        return plugin_name("Pruner", name)
    except ValueError as error:
        raise ValueError(f"unknown pruner {format_value(name)}; known: {ASHA}. {error}") from None


def make_pruner(name: str, rungs: Sequence[int], overrides: Mapping[str, Any] | None = None) -> Pruner:
    """Return a pruner by name.

    Args:
        name: ``asha``, or the class of a pruner of Optuna.
        rungs: the epochs after which children are judged, growing, the last one being their end; one or none for
            children that are trained to their end at once.
        overrides: its settings.

    Raises:
        ValueError: for an unknown pruner or setting, one without rungs, or rungs that do not grow.
    """
    name, rungs = resolve_pruner(name), tuple(rungs)
    if any(type(epochs) is not int or epochs < 1 for epochs in rungs) or sorted(set(rungs)) != list(rungs):
        raise ValueError(f"rungs are growing numbers of epochs, got {format_value(list(rungs))}")
    settings = dict(overrides or {})
    if len(rungs) < 2:
        if name != ASHA or settings:
            raise ValueError(f"pruner {name} needs epochs to judge at: --rungs 2 6 18")
        return SingleRung(rungs)
    if name != ASHA:
        return OptunaPruner(name, rungs, settings)
    if unknown := set(settings) - {"reduction", "keep"}:
        raise ValueError(f"asha has no setting {format_value(min(unknown))}; known: reduction, keep")
    return Asha(rungs, **settings)
