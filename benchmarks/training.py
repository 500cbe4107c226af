"""Throughput of training steps: ours on CIFAR and ImageNet, beside timm's ``nasnetalarge`` and DARTS-style eager code.

    python benchmarks/training.py --json OUT                       # every row that this machine has a device for
    python benchmarks/training.py --rows imagenet --steps 3 --json OUT

A row is a network, an image size, a batch and an execution. All rows run in one process, on made images on the device:
reading and augmentation are not measured. Each is warmed up, then measured in ``--repeats`` turns of ``--steps`` steps;
the figure is the median over the turns. On a CPU the rows of one image size and batch take turns, so that their ratios
hold on a machine whose speed varies, and the processor's time is given as well, which other work on the machine
disturbs less. The comparisons: ``darts_v2_cifar`` with DARTS's own kind
of code (20 cells, 36 channels, auxiliary head, drop path); ``nasnet_a_large`` with ``nasnetalarge`` (neither with
auxiliary head or drop path, the same optimizer and step). A row that fails, for example
for lack of memory, is reported as such; the others are still measured.
"""

from __future__ import annotations

import argparse
import gc
import os
import platform
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import timm
import torch
from darts_style import DartsStyleStep
from save_results import keep

import nasnet_det
from nasnet_det.training.engine import Trainer
from nasnet_det.training.execution import Execution
from nasnet_det.training.models import ModelChoice
from nasnet_det.training.recipe import load_recipe

DARTS_STYLE = "darts_style"
CIFAR = ("nasnet_a_cifar_6_at_768", "darts_v2_cifar", DARTS_STYLE)
IMAGENET = ("nasnet_a_mobile", "nasnet_a_large", "nasnetalarge")


@dataclass(frozen=True)
class Row:
    """A step to be measured."""

    network: str
    image_size: int
    batch_size: int
    execution: Execution

    @property
    def is_cifar(self) -> bool:
        """True for the networks of CIFAR's size."""
        return self.network in CIFAR

    def prepare(self) -> Any:
        """Return an object with a method ``step(images, labels)``."""
        torch.manual_seed(0)
        if self.network == DARTS_STYLE:
            return DartsStyleStep(self.execution.device, self.execution.memory_format)
        recipe = load_recipe("cifar_paper" if self.is_cifar else "imagenet_paper_mobile")
        if not self.is_cifar:  # timm's nasnetalarge has neither
            recipe = recipe.with_settings(["aux_weight=0", "drop_rate=0", "ema_decay=0"])
        classes = 10 if self.is_cifar else 1000
        choice = ModelChoice.named(self.network)
        network = choice.build_for_training(
            classes, self.image_size, recipe.drop_rate, recipe.drop_path_rate, recipe.aux_weight > 0
        )
        return Trainer(network, recipe.scaled_to(self.batch_size), 1000, classes, self.execution)

    def batch(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return random images and labels on the device."""
        device, size = self.execution.device, self.image_size
        images = torch.randn(self.batch_size, 3, size, size, device=device)
        return images, torch.randint(0, 10, (self.batch_size,), device=device)


def rows(options: argparse.Namespace) -> list[Row]:
    """Every combination asked for. DARTS-style code runs eager and in float32 only, in both formats."""
    device = torch.device(options.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    cuda = device.type == "cuda"
    executions = [Execution(device), Execution(device, channels_last=True)]
    if cuda:
        executions += [Execution(device, "bfloat16", True), Execution(device, "bfloat16", False)]
        executions += [Execution(device, "bfloat16", last, "graph") for last in (True, False)]
    if options.compile:
        executions.append(Execution(device, "bfloat16" if cuda else "float32", True, "compile"))
    found = []
    for network in [*(CIFAR if "cifar" in options.rows else ()), *(IMAGENET if "imagenet" in options.rows else ())]:
        cifar, mobile = network in CIFAR, network == "nasnet_a_mobile"
        size = 32 if cifar else options.image_size or (224 if mobile else 331)
        batch = options.cifar_batch if cifar else options.imagenet_batch
        wanted = executions[:2] if network == DARTS_STYLE else executions
        found += [Row(network, size, batch or _default_batch(cifar, mobile, cuda), execution) for execution in wanted]
    return found


def _default_batch(cifar: bool, mobile: bool, cuda: bool) -> int:
    if cifar:
        return 128 if cuda else 8
    return (128 if mobile else 32) if cuda else (4 if mobile else 1)


class Measurement:
    """A row that is measured turn by turn.

    Args:
        row: the row.
        warmup: steps that are made at once, and not measured.
    """

    def __init__(self, row: Row, warmup: int) -> None:
        self.row, self.device = row, row.execution.device
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        self.trained, self.batch = row.prepare(), row.batch()
        self.preparation = self._steps(warmup)[0] * warmup
        self.turns: list[tuple[float, float]] = []

    def turn(self, steps: int) -> None:
        """Measure so many steps."""
        self.turns.append(self._steps(steps))

    def figures(self) -> dict[str, Any]:
        """Return milliseconds a step and images a second: the median over the turns."""
        seconds, worked = ([turn[number] for turn in self.turns] for number in (0, 1))
        network = self.trained.network if isinstance(self.trained, DartsStyleStep) else self.trained.model
        cuda = self.device.type == "cuda"
        return {
            "parameters": sum(parameter.numel() for parameter in network.parameters()),
            "milliseconds_per_step": 1000 * statistics.median(seconds),
            "images_per_second": self.row.batch_size / statistics.median(seconds),
            "processor_milliseconds_per_step": None if cuda else 1000 * statistics.median(worked),
            "slowest_over_fastest_turn": max(seconds) / min(seconds),
            "preparation_seconds": self.preparation,
            "peak_memory_gib": torch.cuda.max_memory_allocated(self.device) / 2**30 if cuda else None,
        }

    def _steps(self, steps: int) -> tuple[float, float]:
        """Return seconds a step by the clock and by the processor."""
        began, worked = time.perf_counter(), time.process_time()
        for _ in range(steps):
            self.trained.step(*self.batch)
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return (time.perf_counter() - began) / steps, (time.process_time() - worked) / steps


def measure(row: Row, steps: int, warmup: int, repeats: int) -> dict[str, Any]:
    """Return the figures of a row alone."""
    measurement = Measurement(row, warmup)
    for _ in range(repeats):
        measurement.turn(steps)
    return measurement.figures()


def run(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Measure the rows of one image size in turn on a CPU, one by one on a GPU, whose memory may hold one network only.

    A row that fails is a row that says why."""

    def group(row: Row) -> Any:
        return row if row.execution.device.type == "cuda" else (row.image_size, row.batch_size)

    for _, together in groupby(rows(options), group):
        measured: dict[Row, Measurement] = {}
        errors: dict[Row, str] = {}
        wanted = [*together]
        for turn in range(options.repeats + 1):
            for row in [row for row in wanted if row not in errors]:
                try:
                    if turn:
                        measured[row].turn(options.steps)
                    else:
                        measured[row] = Measurement(row, options.warmup)
                except RuntimeError as error:
                    errors[row] = str(error).splitlines()[0]
                    measured.pop(row, None)
        for row in wanted:
            described = {**asdict(row), "execution": row.execution.describe()}
            yield {**described, **({"error": errors[row]} if row in errors else measured[row].figures())}
        measured.clear()
        gc.collect()
        torch.cuda.empty_cache()


def machine() -> dict[str, Any]:
    """Return a description of the machine and the software."""
    cuda = torch.cuda.is_available()
    return {
        "device": torch.cuda.get_device_name() if cuda else platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "load": os.getloadavg()[0],
        "torch": torch.__version__,
        "timm": timm.__version__,
        "nasnet_det": nasnet_det.__version__,
    }


def _figures(row: dict[str, Any]) -> str:
    words = f"{row['images_per_second']:9.2f} images/s {row['milliseconds_per_step']:9.1f} ms a step"
    if row["peak_memory_gib"] is not None:
        return f"{words} {row['peak_memory_gib']:6.2f} GiB"
    return f"{words} ({row['processor_milliseconds_per_step']:.1f} of the processor)"


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", nargs="+", default=["cifar", "imagenet"], choices=["cifar", "imagenet"])
    parser.add_argument("--device", help="default: the GPU if there is one")
    parser.add_argument("--compile", action="store_true", help="also with torch.compile (minutes a network)")
    parser.add_argument("--cifar-batch", type=int, help="(GPU 128, CPU 8)")
    parser.add_argument("--imagenet-batch", type=int, help="(GPU 128 mobile and 32 large, CPU 4 and 1)")
    parser.add_argument("--image-size", type=int, help="of the ImageNet networks (theirs)")
    parser.add_argument("--steps", type=int, default=5, help="a turn (5)")
    parser.add_argument("--warmup", type=int, default=2, help="steps, at least 1 (2)")
    parser.add_argument("--repeats", type=int, default=3, help="turns (3)")
    parser.add_argument("--json", type=Path, metavar="OUT")
    options = parser.parse_args(arguments)
    torch.backends.cudnn.benchmark = True
    result: dict[str, Any] = {"machine": machine(), "steps": options.steps, "repeats": options.repeats, "rows": []}
    for row in run(options):
        result["rows"].append(row)
        name = f"{row['network']:24} {row['image_size']:4} px  batch {row['batch_size']:4}  {row['execution']:40}"
        print(f"{name} {row.get('error') or _figures(row)}")
        sys.stdout.flush()
        if options.json is not None:  # after every row, so that a limit on time costs the last one only
            keep(options.json, result)
    return 0


if __name__ == "__main__":
    sys.exit(main())
