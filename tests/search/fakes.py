"""Children that cost nothing, and searches of them that tests may kill."""

from __future__ import annotations

import os
import time
import zlib
from dataclasses import dataclass
from pathlib import Path

import optuna

from nasnet_det.genotypes.genotype import Genotype
from nasnet_det.search.child import ChildResult
from nasnet_det.search.driver import Progress, Search
from nasnet_det.search.space import Space
from nasnet_det.search.strategies.registry import make_strategy
from nasnet_det.search.study import Study
from nasnet_det.search.workers import Evaluator, InProcess, Workers

SPACE = Space(blocks=2, operations=("identity", "conv_1x1", "sep_conv_3x3"))


@dataclass(frozen=True)
class FakeChild:
    """A reward that follows from the genotype and the seed; every ninth child or so fails.

    Args:
        seconds: how long it takes.
        processes: a folder where the process that evaluates leaves its id.
    """

    seconds: float = 0.0
    processes: Path | None = None

    def check(self) -> None:
        pass

    def __call__(self, genotype: Genotype, seed: int) -> ChildResult:
        if self.processes is not None:
            (self.processes / str(os.getpid())).touch()
        time.sleep(self.seconds)
        lot = zlib.crc32(genotype.to_json().encode()) ^ seed
        if lot % 9 == 0:
            return ChildResult("diverged", 0.0, seed=seed, message="the loss is not finite")
        reward = lot % 1009 / 1009
        return ChildResult("ok", reward, accuracies=(reward / 2, reward), num_params=lot % 997, seed=seed)


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
) -> list[Progress]:
    """Run a search to its end, or continue one; gives what it reported."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    identity = {"space": space.to_dict(), "strategy": strategy, "pending": pending}
    study = Study.open(storage or out / "study.db", "fake", identity)
    reports: list[Progress] = []
    search = Search(
        study,
        make_strategy(strategy, space.sizes, seed=3),
        space,
        workers or InProcess(evaluator),
        seed=3,
        pending=pending,
        state=out / "state.safetensors",
        retries=retries,
        report=reports.append,
    )
    try:
        search.run(trials)
    finally:
        study.close()
    return reports


def outcome(out: Path, storage: str | None = None) -> list[tuple[int, tuple[int, ...], int, float | None]]:
    """What a study holds, but for times: number, decisions, seed and reward of every trial."""
    study = Study.open(storage or out / "study.db", "fake")
    try:
        return [(record.number, record.decisions, record.seed, record.reward) for record in study.records()]
    finally:
        study.close()
