"""Does a training-free score help a model of rewards? naswot (Mellor et al., arXiv:2006.04647) in DARTS's space.

python benchmarks/training_free.py FOLDER --json benchmarks/results/training_free.json

naswot is the log-determinant of how often the ReLUs of an untrained network agree on pairs of images: here 32 of normal
noise, N = 1, F = 8, in one forward pass. Rewards are predictions of the surrogate in FOLDER (see nasbench301.py),
negated cross entropy by default. Printed are the rank correlations of the score and of the number of parameters with
the reward, and those of the search's Gaussian process on held-out cells, with and without them as features.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nasbench301 import METRICS, Cells, DartsSpace, surrogate
from rank_correlation import Floats, rank_correlation
from torch import Tensor, nn

from nasnet_det.genotypes.genotype import Genotype
from nasnet_det.models.network import NASNet
from nasnet_det.safe_io.files import write_text
from nasnet_det.search.strategies.base import uniform
from nasnet_det.search.strategies.features import CellFeatures
from nasnet_det.search.strategies.gaussian_process import GaussianProcess, normal_scores

#: Cells that the Gaussian process learns from, of those drawn; the others are predicted.
LEARNED = 60
REPEATS = 30


@torch.no_grad()
def naswot(network: nn.Module, images: Tensor) -> float:
    """Return the score of an untrained network on images ``(B, 3, H, W)``."""
    agreement = torch.zeros(len(images), len(images))

    def count(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        active = (inputs[0] > 0).flatten(1).float()
        agreement.add_(active @ active.T + (1 - active) @ (1 - active).T)

    for module in network.modules():
        if isinstance(module, nn.ReLU):
            module.register_forward_hook(count)
    network(images)
    return float(torch.linalg.slogdet(agreement).logabsdet)


def score(genotype: Genotype, images: Tensor) -> tuple[float, float]:
    """Return naswot and the logarithm of the number of parameters of a small network of a genotype."""
    network = NASNet(genotype=genotype, num_cells=1, num_filters=8, stem="cifar", num_classes=10)
    return naswot(network, images), float(np.log(sum(p.numel() for p in network.parameters())))


def held_out(features: Floats, widths: list[int], rewards: Floats) -> dict[str, float]:
    """Return the rank correlation of predictions with the rewards of held-out cells: its mean and standard error."""
    rng = np.random.default_rng(0)
    found = []
    for _ in range(REPEATS):
        order = rng.permutation(len(rewards))
        learned, rest = order[:LEARNED], order[LEARNED:]
        process = GaussianProcess(features[learned], normal_scores(rewards[learned]), widths)
        found.append(rank_correlation(process.predict(features[rest])[0], rewards[rest]))
    return {"mean": float(np.mean(found)), "standard_error": float(np.std(found) / np.sqrt(REPEATS))}


def measure(folder: Path, metric: str, cells: int) -> dict[str, Any]:
    """Return all correlations."""
    torch.manual_seed(0)
    images, rng = torch.randn(32, 3, 32, 32), random.Random(7)
    drawn = [uniform(DartsSpace.sizes, rng) for _ in range(cells)]
    rewards = np.array([surrogate(folder, metric)(decisions) for decisions in drawn])
    scores = np.array([score(DartsSpace().genotype(decisions), images) for decisions in drawn])
    columns = (scores - scores.mean(axis=0)) / scores.std(axis=0) / np.sqrt(2)
    features = CellFeatures(DartsSpace.sizes, Cells())
    edges = features(drawn)
    sets = {"edges": [], "edges, parameters": [1], "edges, naswot": [0], "edges, parameters, naswot": [0, 1]}
    return {
        "rank correlation with the reward": {
            "naswot": rank_correlation(scores[:, 0], rewards),
            "parameters": rank_correlation(scores[:, 1], rewards),
        },
        "rank correlation on held-out cells": {
            name: held_out(np.hstack([edges, columns[:, chosen]]), features.widths + [1] * len(chosen), rewards)
            for name, chosen in sets.items()
        },
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="the surrogate's")
    parser.add_argument("--cells", type=int, default=160, metavar="N", help=f"random cells, {LEARNED} of them learned")
    parser.add_argument("--metric", choices=METRICS, default="cross_entropy")
    parser.add_argument("--json", type=Path, metavar="OUT")
    args = parser.parse_args(argv)
    try:
        found = measure(args.folder, args.metric, args.cells)
    except FileNotFoundError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    text = json.dumps(found, indent=2)
    print(text)
    if args.json:
        write_text(args.json, text + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
