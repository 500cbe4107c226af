"""Children that cost nothing, and searches of them that tests may kill."""

from __future__ import annotations

import json
import os
import random
import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import optuna

from nasnet_det.search.candidates import SpaceCandidates
from nasnet_det.search.checkpoints import Checkpoints
from nasnet_det.search.child import ChildResult, Trained
from nasnet_det.search.costs import NetworkSize
from nasnet_det.search.driver import Progress, Search
from nasnet_det.search.limits import parse_demands
from nasnet_det.search.rungs import make_pruner
from nasnet_det.search.space import Space
from nasnet_det.search.strategies.base import Problem
from nasnet_det.search.strategies.registry import make_strategy
from nasnet_det.search.strategy_state import read_state
from nasnet_det.search.study import Study
from nasnet_det.search.workers import Evaluator, InProcess, Job, Outcome, Workers

SPACE = Space(blocks=1, operations=("identity", "conv_1x1", "sep_conv_3x3"))
SIZE = NetworkSize(1, 4, "cifar", 12, 10, 32)


@dataclass(frozen=True)
class FakeChild:
    """An accuracy that follows from the genotype, the seed and the epoch; every ninth child or so fails.

    Args:
        seconds: how long it takes.
        processes: a folder where the process that evaluates leaves its id.
        epochs: of a child that is trained to its end.
    """

    seconds: float = 0.0
    processes: Path | None = None
    epochs: int = 2

    def check(self) -> None:
        pass

    def __call__(self, job: Job) -> Trained:
        if self.processes is not None:
            (self.processes / str(os.getpid())).touch()
        time.sleep(self.seconds)
        lot = zlib.crc32(job.genotype.to_json().encode()) ^ job.seed
        if lot % 9 == 0:
            return Trained(ChildResult("diverged", 0.0, seed=job.seed, message="the loss is not finite"))
        epochs = job.epochs or self.epochs
        curve = tuple(lot * (epoch + 7) % 1009 / 1009 for epoch in range(epochs))
        result = ChildResult("ok", curve[-1], accuracies=curve, num_params=lot % 997, seed=job.seed)
        if job.checkpoint is not None:
            trained, seed = job.checkpoint.split()
            assert int(trained) <= epochs and int(seed) == job.seed
        return Trained(result, None if epochs == self.epochs else b"%d %d" % (epochs, job.seed))


class Shuffled:
    """Workers that finish in any order, and are lost now and then."""

    def __init__(self, slots: int, seed: int, lost: float = 0.0, evaluator: Evaluator = FakeChild()) -> None:
        self.slots, self.lost, self.evaluator = slots, lost, evaluator
        self.rng = random.Random(seed)
        self.jobs: list[Job] = []
        self.evaluated: list[int] = []

    def check(self) -> None:
        pass

    def submit(self, job: Job) -> None:
        assert len(self.jobs) < self.slots
        self.jobs.append(job)

    def wait(self) -> list[Outcome]:
        job = self.jobs.pop(self.rng.randrange(len(self.jobs)))
        if self.rng.random() < self.lost:
            return [Outcome(job.number, None, "killed")]
        self.evaluated.append(job.number)
        return [Outcome(job.number, self.evaluator(job))]

    def close(self) -> None:
        self.jobs.clear()


def run_search(
    out: Path,
    strategy: str,
    trials: int,
    pending: int = 1,
    evaluator: Evaluator = FakeChild(),
    workers: Workers | None = None,
    storage: str | None = None,
    retries: int = 3,
    space: Space = SPACE,
    rungs: Sequence[int] = (),
    pruner: str = "asha",
    in_order: bool = True,
    limits: Sequence[str] = (),
    objectives: Sequence[str] = ("accuracy",),
    should_stop: Callable[[], bool] = lambda: False,
) -> list[Progress]:
    """Run a search to its end, or continue one; gives what it reported."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    demands = parse_demands(limits, objectives)
    identity = {
        "space": space.to_dict(),
        "strategy": strategy,
        "pending": pending,
        "rungs": list(rungs) or None,
        "order": None if in_order else "arrival",
        "demands": demands.to_dict() if limits or len(objectives) > 1 else None,
    }
    study = Study.open(storage or out / "study.db", "fake", identity)
    candidates = SpaceCandidates(
        space, SIZE, demands, lambda network: sum(p.numel() for p in network.parameters()) / 1e3
    )
    reports: list[Progress] = []
    problem = Problem(tuple(objectives), tuple(rungs), candidates)
    # Of hundreds of candidates for each choice a fifth will do.
    settings = {"mutants": 40, "refinements": 1} if strategy == "guided" else {}
    search = Search(
        study,
        make_strategy(strategy, space.sizes, 3, settings, problem),
        candidates,
        workers or InProcess(evaluator),
        seed=3,
        pending=pending,
        state=out / "state.safetensors",
        retries=retries,
        report=reports.append,
        pruner=make_pruner(pruner, rungs),
        in_order=in_order,
        checkpoints=Checkpoints(out / "children"),
        should_stop=should_stop,
    )
    try:
        search.run(trials)
    finally:
        study.close()
    return reports


def outcome(out: Path, storage: str | None = None) -> list[tuple[object, ...]]:
    """Return what a study records of every trial except times."""
    study = Study.open(storage or out / "study.db", "fake")
    try:
        return [
            (record.trial, record.decisions, record.seed, record.steps, record.finished) for record in study.records()
        ]
    finally:
        study.close()


def rewards(out: Path, storage: str | None = None) -> list[float | None]:
    """The last reward of every trial, or None."""
    study = Study.open(storage or out / "study.db", "fake")
    try:
        return [record.reward for record in study.records()]
    finally:
        study.close()


def same_state(one: Path, other: Path) -> bool:
    """Return whether two searches ended with bit-equal strategy states."""
    states = [read_state(out / "state.safetensors") for out in (one, other)]
    texts = [json.dumps(state, default=lambda array: array.tobytes().hex()) for state in states]
    return states[0] is not None and texts[0] == texts[1]
