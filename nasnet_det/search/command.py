"""What the search commands share: their options, their workers, and what they show."""

from __future__ import annotations

import argparse
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from nasnet_det.genotypes.genotype import COMBINERS
from nasnet_det.safe_io.values import format_value, parse_json
from nasnet_det.search.child import ChildConfig
from nasnet_det.search.driver import Progress
from nasnet_det.search.space import SPACES, Space
from nasnet_det.search.study import MEASURED
from nasnet_det.search.workers import ChildEvaluator, Evaluator, InProcess, Workers, WorkersError


def add_worker_options(parser: argparse.ArgumentParser) -> None:
    """Who trains children."""
    group = parser.add_argument_group("workers")
    group.add_argument(
        "--workers", type=int, metavar="N", help="processes, on Ray; 0: this one (default: one for each GPU, or 0)"
    )
    group.add_argument("--ray", metavar="ADDRESS", help="a running Ray cluster: HOST:PORT or auto")
    group.add_argument("--gpus-per-worker", type=float, metavar="X", help="may be a fraction (default: 1 if there are)")
    group.add_argument("--cpus-per-worker", type=float, default=1.0, metavar="X", help="default: 1")
    group.add_argument("--retries", type=int, default=3, help="of a child whose worker was lost (default: 3)")
    group.add_argument("--device", help="where a worker trains (default: its GPU if it has one)")


def add_child_options(parser: argparse.ArgumentParser) -> None:
    """How children are trained."""
    group = parser.add_argument_group("children")
    group.add_argument("--data", required=True, metavar="FOLDER", help="CIFAR-10 (nasnet-det prepare-cifar10)")
    group.add_argument(
        "--child",
        nargs="+",
        action="extend",
        default=[],
        metavar="KEY=VALUE",
        help="any setting of nasnet_det.search.child.ChildConfig: epochs=5 num_filters=16 train_images=10000",
    )


def add_space_options(parser: argparse.ArgumentParser) -> None:
    """What may be decided."""
    group = parser.add_argument_group("space")
    group.add_argument("--space", choices=SPACES, default="nasnet_a", help="of the paper (default: nasnet_a)")
    group.add_argument("--blocks", type=int, metavar="B", help="of each cell, instead of the space's")
    group.add_argument("--operations", nargs="+", metavar="NAME", help="instead of the space's")
    group.add_argument("--combiners", nargs="+", metavar="NAME", help=f"of {', '.join(COMBINERS)}")


def space_asked(options: argparse.Namespace) -> Space:
    """The space with what the options change."""
    changes = {
        "blocks": options.blocks,
        "operations": options.operations,
        "combiners": options.combiners,
    }
    return Space.from_dict(
        {**SPACES[options.space].to_dict(), **{key: value for key, value in changes.items() if value is not None}}
    )


def assignments(words: Sequence[str]) -> dict[str, Any]:
    """``KEY=VALUE`` words as a dictionary; values are JSON where they can be, else text.

    Raises:
        ValueError: for a word without ``=``.
    """
    found = {}
    for word in words:
        key, equals, text = word.partition("=")
        if not (key and equals):
            raise ValueError(f"{format_value(word)} is not of the form KEY=VALUE")
        try:
            found[key] = parse_json(text)
        except ValueError:
            found[key] = text
    return found


def child_config(options: argparse.Namespace, defaults: Mapping[str, Any] | None = None) -> ChildConfig:
    """The children's recipe with what the options change."""
    changes = assignments(options.child)
    if "data" in changes:
        raise ValueError("the data are given by --data")
    try:
        return ChildConfig.from_dict({**(defaults or {}), **changes, "data": options.data})
    except TypeError as error:
        raise ValueError(f"--child: {error}") from None


def recipe_of(config: ChildConfig) -> dict[str, Any]:
    """What of a recipe must not change during a search: all but where its data lie."""
    return {key: value for key, value in config.to_dict().items() if key != "data"}


def count_workers(options: argparse.Namespace) -> int | None:
    """How many workers to start; 0 for this process, None for as many as a cluster has room for."""
    if options.workers is not None:
        if options.workers < 0:
            raise ValueError(f"--workers is 0 or more, not {options.workers}")
        if options.ray and options.workers == 0:
            raise ValueError("--workers 0 is this process alone: leave --ray out")
        return int(options.workers)
    if options.ray:
        return None
    gpus = torch.cuda.device_count()
    share = options.gpus_per_worker or 1.0
    count = int(gpus / share + 1e-9)
    return count if count > 1 else 0


def make_workers(options: argparse.Namespace, evaluator: Evaluator) -> Workers:
    """Start the workers asked for and let them find out whether children can be trained.

    Raises:
        WorkersError, DataError, ValueError: if they cannot.
    """
    count = count_workers(options)
    workers: Workers
    if count == 0:
        workers = InProcess(evaluator)
    else:
        try:
            from nasnet_det.search.ray_workers import RayWorkers
        except ImportError as error:
            raise WorkersError(
                f"Ray is not installed ({error}): pip install 'nasnet-det[search]', or --workers 0"
            ) from None
        gpus = options.gpus_per_worker
        if gpus is None:
            gpus = 1.0 if torch.cuda.device_count() or options.ray else 0.0
        workers = RayWorkers(evaluator, count, options.ray, gpus, options.cpus_per_worker)
    try:
        workers.check()
    except BaseException:
        workers.close()
        raise
    return workers


def child_evaluator(options: argparse.Namespace, config: ChildConfig) -> Evaluator:
    """What trains a child."""
    return ChildEvaluator(config, options.device)


class ShowProgress:
    """A line for every finished child."""

    def __init__(self, what: str = "trial") -> None:
        self.what = what
        self._began = time.monotonic()
        self._first = 0

    def __call__(self, progress: Progress) -> None:
        if progress.result is None:
            self._first = progress.finished
            self._began = time.monotonic()
            if progress.finished:
                print(f"{progress.finished} of {progress.total} {self.what}s were done before", flush=True)
            return
        result = progress.result
        words = f"{result.reward:.4f}" if result.status in MEASURED else result.status
        best = f"best {progress.best[0]:.4f} ({self.what} {progress.best[1]})" if progress.best else ""
        seconds = (time.monotonic() - self._began) / max(progress.finished - self._first, 1)
        left = seconds * (progress.total - progress.finished)
        note = f"  {' '.join(result.message.split())[:100]}" if result.message else ""
        print(
            f"{self.what} {progress.number:5}  {words:>13}  {progress.finished}/{progress.total}  {best}  "
            f"{result.num_params / 1e6:.2f} M parameters, {result.seconds:.0f} s  {_duration(left)} left{note}",
            flush=True,
        )


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


@contextmanager
def searching() -> Iterator[None]:
    """What the search commands work in: Optuna says little, and SIGTERM stops them as Ctrl-C does."""
    import optuna

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    except KeyboardInterrupt:
        raise KeyboardInterrupt("stopped; the same command goes on from here") from None
    finally:
        signal.signal(signal.SIGTERM, before)


def existing_folder(text: str) -> Path:
    """A command's argument that is the folder of a search."""
    path = Path(text)
    if not path.is_dir():
        raise argparse.ArgumentTypeError(f"{text} is not a folder")
    return path
