"""A search's best cell beside NASNet-A's and random ones, all trained under one recipe on the whole of real CIFAR-10.

    python benchmarks/found_cells.py runs/found datasets/cifar10 --output runs/compared --seeds 0 1 \
        --num-cells 1 --num-filters 8 --recipe cifar_small --epochs 10

SEARCH is the folder of a search. Its found cell is the best of the second phase (``nasnet-det retrain-cells``) where
there was one. The random cells are drawn from its space within its limits. Every cell is trained with every seed by
``nasnet-det train-cifar``, which gets all other options, in a folder of its own below --output; the test accuracy is
that of the last epoch. NASNet-A and the random cells are then trained as the search's children are, for the rank
correlation of the search's rewards with the accuracies. The same command continues a stopped run. At the
end --output has cells.json, cells.csv and cells.png.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from rank_correlation import rank_correlation
from save_results import keep

from nasnet_det.cli import train_cifar
from nasnet_det.cli.shared.errors import command
from nasnet_det.cli.shared.options import add_output, new_parser
from nasnet_det.cli.shared.search_context import search_context
from nasnet_det.cli.shared.training_options import selected_recipe
from nasnet_det.draw.figures import COLORS, save_figure, style_axes
from nasnet_det.genotypes.genotype import Genotype
from nasnet_det.genotypes.published import as_genotype
from nasnet_det.safe_io.files import write_text
from nasnet_det.search.candidates import SpaceCandidates
from nasnet_det.search.child import train_child
from nasnet_det.search.child_config import ChildConfig, network_size
from nasnet_det.search.limits import Demands, Limit
from nasnet_det.search.records import Finding, best, by_architecture
from nasnet_det.search.report import read_run
from nasnet_det.search.run_folder import SearchFolder
from nasnet_det.search.space import Space
from nasnet_det.search.strategies.base import uniform


@dataclass(frozen=True)
class Contender:
    """A genotype to train.

    Args:
        name: the name of its folder and in tables.
        kind: ``found``, ``published`` or ``random``.
        genotype: its cells.
        reward: the search's reward, where the search trained it.
    """

    name: str
    kind: str
    genotype: Genotype
    reward: float | None = None


@dataclass(frozen=True)
class Source:
    """A search: its space, its limits, how it trains children, and its child of the found cell."""

    space: Space
    demands: Demands
    config: ChildConfig
    best: Finding

    @classmethod
    def read(cls, folder: Path, data: str) -> Source:
        """Read a search's folder.

        Raises:
            StudyError: if it is not a search's.
        """
        run = read_run(SearchFolder(folder))
        identity = run.identity
        recipe = {key: value for key, value in identity["recipe"].items() if value is not None}
        limits = (identity.get("demands") or {}).get("limits", {})
        demands = Demands(tuple(Limit(name, value) for name, value in limits.items()))
        config = ChildConfig.from_dict({**recipe, "data": data})
        [chosen] = best(run.children(run.phase), 1)
        child = by_architecture(run.findings)[chosen.decisions]
        return cls(Space.from_dict(identity["space"]), demands, config, child)

    def contenders(self, count: int, seed: int) -> list[Contender]:
        """Return the found cell, NASNet-A, and ``count`` random cells within the limits."""
        found = self.best
        chosen = [
            Contender("found", "found", replace(found.genotype, name=f"trial {found.number}"), found.reward),
            Contender("nasnet_a", "published", as_genotype("nasnet_a")),
        ]
        candidates, rng = SpaceCandidates(self.space, network_size(self.config), self.demands), random.Random(seed)
        for number in range(count):
            decisions = uniform(self.space.sizes, rng)
            while not candidates.allowed(decisions):
                decisions = uniform(self.space.sizes, rng)
            chosen.append(Contender(f"random_{number}", "random", candidates.genotype(decisions)))
        return chosen


def run(options: argparse.Namespace, training: Sequence[str]) -> int:
    """Train what is not trained yet, then write and print the table."""
    source = Source.read(options.search, options.data)
    contenders = source.contenders(options.random, options.random_seed)
    accuracies: dict[str, dict[int, float]] = {contender.name: {} for contender in contenders}
    for seed in options.seeds:
        for contender in contenders:
            accuracies[contender.name][seed] = train(contender, options, training, seed)
    size = network_size(source.config)
    rows = [
        {
            "name": contender.name,
            "kind": contender.kind,
            **size.cost(contender.genotype)._asdict(),
            "reward": reward_of(contender, source.config, options.output / contender.name),
            "accuracies": list(accuracies[contender.name].values()),
            "accuracy": fmean(accuracies[contender.name].values()),
            "genotype": json.dumps(contender.genotype.to_dict()),
        }
        for contender in contenders
    ]
    keep(options.output / "cells.json", {"seeds": options.seeds, **compare(rows), "rows": rows})
    draw(rows, options.output / "cells.png")
    print(table(rows))
    return 0


def train(contender: Contender, options: argparse.Namespace, training: Sequence[str], seed: int) -> float:
    """Train or continue a contender's run; return its test accuracy."""
    folder = options.output / contender.name
    path = folder / "genotype.json"
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        contender.genotype.save(path)
    asked = train_cifar.parse([options.data, "--output", str(folder), "--genotype", str(path), *training])
    return train_cifar.train_seed(asked, selected_recipe(asked, "cifar"), seed)


def reward_of(contender: Contender, config: ChildConfig, folder: Path) -> float:
    """Return the search's reward of a contender, trained as a child of seed 0 if the search did not."""
    if contender.reward is not None:
        return contender.reward
    path = folder / "reward.json"
    if not path.is_file():
        write_text(path, json.dumps(train_child(contender.genotype, config, seed=0).to_dict()) + "\n")
    return float(json.loads(path.read_text(encoding="utf-8"))["reward"])


def compare(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Return how much the found cell's mean accuracy is above the random cells' and NASNet-A's, the standard errors of
    these differences, and the rank correlation of rewards and accuracies.

    The variance between seeds is pooled over all cells; the random cells are a sample of cells.
    """
    [found], [published] = ([row for row in rows if row["kind"] == kind] for kind in ("found", "published"))
    others = [row["accuracy"] for row in rows if row["kind"] == "random"]
    runs = len(found["accuracies"])
    within = fmean(stdev(row["accuracies"]) ** 2 for row in rows) / runs if runs > 1 else float("nan")
    return {
        "found_minus_random": found["accuracy"] - fmean(others),
        "found_minus_random_error": (within + stdev(others) ** 2 / len(others)) ** 0.5,
        "found_minus_nasnet_a": found["accuracy"] - published["accuracy"],
        "found_minus_nasnet_a_error": (2 * within) ** 0.5,
        "rank_correlation": rank_correlation(*(np.array([row[key] for row in rows]) for key in ("reward", "accuracy"))),
    }


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Return the table of all cells, the best first, and the comparison."""
    lines = [f"{'cell':12}{'params':>9}{'macs':>11}{'reward':>9}  accuracy, % (seeds)"]
    for row in sorted(rows, key=lambda row: -row["accuracy"]):
        seeds = " ".join(f"{100 * value:.2f}" for value in row["accuracies"])
        counts = f"{row['params']:9,}{row['macs']:11,}{100 * row['reward']:9.2f}"
        lines.append(f"{row['name']:12}{counts}  {100 * row['accuracy']:.2f} ({seeds})")
    found = compare(rows)
    for name, kind in (("found_minus_random", "found - random"), ("found_minus_nasnet_a", "found - NASNet-A")):
        lines.append(f"{kind}: {100 * found[name]:.2f}, standard error {100 * found[f'{name}_error']:.2f}")
    lines.append(f"rank correlation of rewards and accuracies {found['rank_correlation']:.2f}")
    return "\n".join(lines)


def draw(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Draw each cell's mean accuracy, its seeds, and the standard error between them."""
    figure = Figure(figsize=(7.2, 4.2), facecolor="white", layout="constrained")
    axes = figure.add_subplot()
    style_axes(axes, "", "test accuracy, %")
    ordered = sorted(rows, key=lambda row: -row["accuracy"])
    colors = dict(zip(("found", "published", "random"), COLORS, strict=False))
    for place, row in enumerate(ordered):
        values = [100 * value for value in row["accuracies"]]
        error = stdev(values) / len(values) ** 0.5 if len(values) > 1 else 0.0
        axes.errorbar([place], [fmean(values)], [error], fmt="o", capsize=5, color=colors[row["kind"]])
        axes.scatter([place] * len(values), values, s=12, color=colors[row["kind"]], alpha=0.4)
    axes.set_xticks(range(len(ordered)), [row["name"].replace("_", " ") for row in ordered], rotation=20)
    save_figure(figure, path)


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = new_parser(__doc__)
    parser.add_argument("search", type=Path, metavar="SEARCH", help="the folder of a search")
    parser.add_argument("data", metavar="DATA", help="the folder of CIFAR-10's batches")
    add_output(parser, "the folder of runs and results", required=True)
    parser.add_argument("--random", type=int, default=5, metavar="N", help="random cells (5)")
    # Not a seed that searches have, which would draw the same cells.
    parser.add_argument("--random-seed", type=int, default=1000, help="what they are drawn from (1000)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1], help="of weights and batches (0 1)")
    options, training = parser.parse_known_args(argv)
    if options.random < 2:
        parser.error(f"--random must be at least 2 for a deviation, got {options.random}")
    with search_context():
        return run(options, training)


if __name__ == "__main__":
    sys.exit(main())
