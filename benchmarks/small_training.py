"""Training steps of small NASNet-A networks on a CPU: this project's functions beside PyTorch's, step by step in turn.

OMP_NUM_THREADS=1 python benchmarks/small_training.py --json benchmarks/results/small_training.json

CIFAR stem, 32 x 32, channels_last, float32, eager, recipe cifar_small, kept memory as in every command. Images per
second of processor time, the best of the turns: with PyTorch's convolution, batch norm and pooling as they are; with
those of nasnet_det.models.cpu_training and eager_training where there is no C++ compiler; and with all of ours. Losses
are compared.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from pathlib import Path
from unittest import mock

import torch

from nasnet_det.genotypes.published import as_genotype
from nasnet_det.models import cpu_kernels, eager_training, network
from nasnet_det.safe_io.files import write_text
from nasnet_det.training.engine import Trainer
from nasnet_det.training.execution import choose_execution
from nasnet_det.training.models import ModelChoice
from nasnet_det.training.recipe import load_recipe


@contextmanager
def pytorchs_functions() -> Iterator[None]:
    """Leave the functions of cpu_training and eager_training out."""
    with ExitStack() as stack:
        for module in (eager_training, network):
            stack.enter_context(mock.patch.object(module, "is_training_eagerly", lambda x: False))
        yield


def uncompiled() -> AbstractContextManager[object]:
    """Leave the functions of cpu_kernels out."""
    return mock.patch.object(cpu_kernels, "load_library", lambda source: None)


WAYS = {"pytorch": pytorchs_functions, "uncompiled": uncompiled, "ours": nullcontext}


def make(num_cells: int, num_filters: int) -> Trainer:
    """Return a trainer of a small network."""
    torch.manual_seed(0)
    choice = ModelChoice.of_genotype(as_genotype("nasnet_a"), num_cells, num_filters, "cifar")
    model = choice.build_for_training(10, 32, 0, 0, False)
    return Trainer(model, load_recipe("cifar_small"), 1000, 10, choose_execution("cpu", "float32", True, "eager"))


def measure(num_cells: int, num_filters: int, batch_size: int, turns: int) -> dict[str, float]:
    """Return images per second of each way, ours to PyTorch's, and the largest relative difference of losses."""
    torch.manual_seed(1)
    images, labels = torch.randn(batch_size, 3, 32, 32), torch.randint(10, (batch_size,))
    trainers = {name: make(num_cells, num_filters) for name in WAYS}
    best, difference = dict.fromkeys(trainers, float("inf")), 0.0
    for turn in range(turns + 1):
        losses = []
        for name, trainer in trainers.items():
            with WAYS[name]():
                began = time.process_time()
                losses.append(float(trainer.step(images, labels)))
                seconds = time.process_time() - began
            if turn:  # the first step allocates
                best[name] = min(best[name], seconds)
        difference = max(difference, (max(losses) - min(losses)) / losses[0])
    rates = {name: batch_size / seconds for name, seconds in best.items()}
    return {"N": num_cells, "F": num_filters, **rates, "ratio": rates["ours"] / rates["pytorch"], "loss": difference}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--json", type=Path, metavar="OUT")
    args = parser.parse_args(argv)
    rows = []
    for num_cells, num_filters in ((1, 8), (1, 16), (1, 24), (2, 16)):
        rows.append(measure(num_cells, num_filters, args.batch_size, args.turns))
        print("  ".join(f"{key} {value:.4g}" for key, value in rows[-1].items()), flush=True)
    if args.json:
        machine = {"torch": torch.__version__, "threads": torch.get_num_threads(), "batch_size": args.batch_size}
        write_text(args.json, json.dumps({"machine": machine, "rows": rows}, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
