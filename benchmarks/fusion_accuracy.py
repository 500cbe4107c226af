"""Measure how far ``optimize_for_inference`` is from the plain network, over random genotypes, in float64 and float32.

    python benchmarks/fusion_accuracy.py --genotypes 2000 --json OUT

Each genotype has one to five blocks a cell, any operations, combiners and concatenated states, and a network of two
stages with random weights and batch-norm statistics. The images have random sizes, odd or even, every tenth 97 x 131
pixels. Errors are the largest difference of the last feature map, relative to its largest value:
``float64`` and ``float32`` compare the fused network with the plain one in that precision; ``plain`` and ``fused``
compare each network in float32 with the plain one in float64; ``excess`` is ``fused - 2 * plain``. Genotypes whose
blocks normalize sums (``add_layer_norm``, ``add_instance_norm``) are reported apart: division by the deviation of a
nearly constant sum amplifies the rounding of either network.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from save_results import keep
from torch import Tensor, nn

from nasnet_det.fusion import optimize_for_inference
from nasnet_det.genotypes.genotype import COMBINERS, OPERATIONS, Genotype
from nasnet_det.models.network import NASNet

ERRORS = ("float64", "float32", "plain", "fused", "excess")


def random_genotype(rng: random.Random) -> Genotype:
    """Draw a genotype: every state is read by a later block or concatenated."""

    def cell() -> dict[str, Any]:
        combiners = list(COMBINERS) if rng.random() < 0.5 else ["add", "concat"]
        blocks: list[list[Any]] = []
        for state in range(2, 2 + rng.randint(1, 5)):
            sides = [rng.randrange(state) for _ in range(2)]
            blocks.append([*sides, *(rng.choice(list(OPERATIONS)) for _ in range(2)), rng.choice(combiners)])
        read = {state for left, right, *_ in blocks for state in (left, right)}
        states = range(2, 2 + len(blocks))
        return {"blocks": blocks, "concat": [s for s in states if s not in read or rng.random() < 0.3]}

    return Genotype.from_dict({"normal": cell(), "reduction": cell()})


@torch.no_grad()
def build(genotype: Genotype, seed: int) -> NASNet:
    """Return a small network with random weights and batch-norm statistics, in double precision."""
    torch.manual_seed(seed)
    network = NASNet(genotype, num_cells=(1, 1), num_filters=8, num_classes=3, stem="cifar").double().eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor, low, high in (
                (module.running_mean, -0.5, 0.5),
                (module.running_var, 0.5, 2.0),
                (module.weight, 0.5, 1.5),
                (module.bias, -0.5, 0.5),
            ):
                nn.init.uniform_(tensor, low, high)
    return network


def relative(found: Tensor, expected: Tensor) -> float:
    """Return the largest difference relative to the largest value."""
    found, expected = found.double(), expected.double()
    return float((found - expected).abs().max() / expected.abs().max().clamp_min(1e-30))


@torch.no_grad()
def measure(seed: int) -> dict[str, Any]:
    """Measure one random genotype."""
    rng = random.Random(seed)
    genotype = random_genotype(rng)
    network = build(genotype, seed)
    size = (rng.randint(9, 33), rng.randint(9, 33)) if seed % 10 else (97, 131)
    x = torch.randn(1, 3, *size).double()
    exact, exact_fused = (model.forward_features(x) for model in (network, optimize_for_inference(network)))
    network, x = network.float(), x.float()
    plain, fused = (model.forward_features(x) for model in (network, optimize_for_inference(network)))
    plain_error, fused_error = relative(plain, exact), relative(fused, exact)
    blocks = [block for cell in (genotype.normal, genotype.reduction) for block in cell.blocks]
    return {
        "seed": seed,
        "normalizes_sums": any("norm" in block.combine for block in blocks),
        "float64": relative(exact_fused, exact),
        "float32": relative(fused, plain),
        "plain": plain_error,
        "fused": fused_error,
        "excess": fused_error - 2 * plain_error,
    }


def summarize(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return median, 99th percentile and maximum of each error, with and without blocks that normalize sums."""
    summary = []
    for normalizes in (False, True):
        chosen = [row for row in rows if row["normalizes_sums"] == normalizes]
        for name in ERRORS if chosen else ():
            chosen.sort(key=lambda row: row[name])
            errors = [row[name] for row in chosen]
            summary.append(
                {
                    "normalizes_sums": normalizes,
                    "genotypes": len(chosen),
                    "error": name,
                    "median": statistics.median(errors),
                    "percentile_99": errors[min(len(errors) - 1, int(0.99 * len(errors)))],
                    "largest": errors[-1],
                    "seed_of_largest": chosen[-1]["seed"],
                }
            )
    return summary


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--genotypes", type=int, default=2000, help="how many (2000)")
    parser.add_argument("--first", type=int, default=0, help="the first seed (0)")
    parser.add_argument("--json", type=Path, metavar="OUT")
    options = parser.parse_args(arguments)
    warnings.simplefilter("ignore")
    rows: list[dict[str, Any]] = []
    for seed in range(options.first, options.first + options.genotypes):
        rows.append(measure(seed))
        if options.json and len(rows) % 100 == 0:
            keep(options.json, summarize(rows))
    summary = summarize(rows)
    for row in summary:
        kind = "that normalize sums" if row["normalizes_sums"] else "with batch norms only"
        errors = "  ".join(f"{name} {row[name]:.1e}" for name in ("median", "percentile_99", "largest"))
        print(f"{row['genotypes']} genotypes {kind}, {row['error']}: {errors} (seed {row['seed_of_largest']})")
    if options.json:
        keep(options.json, summary)
    return 0


if __name__ == "__main__":
    sys.exit(main())
