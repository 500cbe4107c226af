"""Time and memory of a search's driver with the paper's 450 workers and 20,000 children.

python benchmarks/search_driver.py --trials 20000 --workers 450 --json benchmarks/results/search_driver.json

Children take no time: their workers are simulated with a clock of their own, on which each runs for a random while, so
that results arrive out of order. Everything else is real: the strategy with its updates, the study in an SQLite file,
the saved state. It reports seconds a trial (over all, the first and the last thousand) and the memory of the process.
"""

from __future__ import annotations

import argparse
import heapq
import json
import platform
import random
import sys
import tempfile
import time
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from save_results import keep

from nasnet_det.search.candidates import SpaceCandidates
from nasnet_det.search.child import ChildResult, Trained
from nasnet_det.search.driver import Progress, Search
from nasnet_det.search.space import SPACES
from nasnet_det.search.strategies.registry import make_strategy
from nasnet_det.search.study import Study
from nasnet_det.search.workers import Job, Outcome


@dataclass
class SimulatedWorkers:
    """Workers whose children take between half and twice their usual time, on a clock that is moved on by hand."""

    slots: int
    now: float = 0.0
    rng: random.Random = field(default_factory=lambda: random.Random(0))
    running: list[tuple[float, int, Job]] = field(default_factory=list)

    def check(self) -> None:
        pass

    def submit(self, job: Job) -> None:
        heapq.heappush(self.running, (self.now + self.rng.uniform(0.5, 2.0), job.number, job))

    def wait(self) -> list[Outcome]:
        self.now, number, job = heapq.heappop(self.running)
        # A reward that can be learned: the share of separable convolutions, and some noise.
        blocks = [block for cell in job.genotype.cells.values() for block in cell.blocks]
        share = np.mean([operation.startswith("sep_conv") for block in blocks for _, operation in block.sides])
        noise = zlib.crc32(str(job.seed).encode()) % 1000 / 1000
        reward = 0.6 + 0.3 * float(share) + 0.05 * noise
        accuracies = tuple(reward * (i + 1) / 20 for i in range(20))
        result = ChildResult("ok", reward, accuracies, accuracies, 3_000_000, 1.0, "simulated", job.seed)
        return [Outcome(number, Trained(result))]

    def close(self) -> None:
        self.running.clear()


def memory() -> float:
    """The resident memory of this process, in MiB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 2**20


@dataclass
class Meter:
    """Notes the time and memory at every thousandth trial."""

    every: int
    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    mebibytes: list[float] = field(default_factory=list)
    rewards: list[float] = field(default_factory=list)

    def __call__(self, progress: Progress) -> None:
        if progress.result is not None:
            self.rewards.append(progress.result.reward)
        if progress.finished % self.every == 0:
            self.wall.append(time.monotonic())
            self.cpu.append(time.process_time())
            self.mebibytes.append(memory())
            if len(self.wall) > 1:
                wall, cpu = (1000 * (t[-1] - t[-2]) / self.every for t in (self.wall, self.cpu))
                text = f"{progress.finished:6} trials  {wall:6.1f} ms a trial, {cpu:6.1f} ms of processor time"
                print(f"{text}  {self.mebibytes[-1]:6.0f} MiB", flush=True)


def measure(strategy: str, trials: int, workers: int, storage: str | Path, state: Path) -> dict[str, Any]:
    """Run the search; gives the figures."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    space = SPACES["nasnet_a"]
    study = Study.open(storage, f"driver-{strategy}", {"space": space.to_dict(), "strategy": strategy})
    meter = Meter(min(1000, trials // 2))
    simulated = SimulatedWorkers(workers)
    Search(
        study,
        make_strategy(strategy, space.sizes, 0),
        SpaceCandidates(space),
        simulated,
        pending=2 * workers,
        state=state,
        report=meter,
    ).run(trials)
    study.close()
    wall, cpu = (np.diff(clock) / meter.every for clock in (meter.wall, meter.cpu))
    return {
        "strategy": strategy,
        "trials": trials,
        "workers": workers,
        "seconds_per_trial": float(wall.mean()),
        "seconds_per_trial_first": float(wall[0]),
        "seconds_per_trial_last": float(wall[-1]),
        "cpu_seconds_per_trial": float(cpu.mean()),
        "cpu_seconds_per_trial_first": float(cpu[0]),
        "cpu_seconds_per_trial_last": float(cpu[-1]),
        "cpu_seconds_per_trial_by_thousand": [round(float(value), 5) for value in cpu],
        "memory_mib_by_thousand": [round(value, 1) for value in meter.mebibytes],
        "mean_reward_first": float(np.mean(meter.rewards[: meter.every])),
        "mean_reward_last": float(np.mean(meter.rewards[-meter.every :])),
        "machine": f"{platform.machine()}, Python {platform.python_version()}, Optuna {optuna.__version__}",
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=20_000)
    parser.add_argument("--workers", type=int, default=450)
    parser.add_argument("--strategy", default="ppo_paper", help="default: ppo_paper")
    parser.add_argument("--storage", metavar="URL", help="default: an SQLite file in --folder")
    parser.add_argument("--folder", type=Path, help="where study and state go (default: a temporary one)")
    parser.add_argument("--json", type=Path, metavar="OUT")
    options = parser.parse_args(argv)
    if options.trials < 4:
        parser.error("--trials is at least 4")
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        storage = options.storage or folder / "study.db"
        state = folder / "state.safetensors"
        figures = measure(options.strategy, options.trials, options.workers, storage, state)
    print(json.dumps(figures, indent=2))
    if options.json:
        keep(options.json, figures)
    return 0


if __name__ == "__main__":
    sys.exit(main())
