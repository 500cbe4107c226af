"""Accuracy of found cells beside NASNet-A's and random ones, all trained under one recipe on real CIFAR-10.

    python benchmarks/found_cells.py runs/s1 --data datasets/cifar10 --child epochs=20 --seeds 0 1 --json OUT
    python benchmarks/found_cells.py benchmarks/results/cifar_search/best_*.json --data datasets/cifar10 --json OUT

CELLS are folders of searches, of which the best ``--top`` cells are taken, and genotypes in JSON. The networks, images
and schedule are a child's (docs/search.md): 45,000 images for 20 epochs, the accuracy that of the last epoch on the
5,000 held out, or what ``--child`` says.
A row is written as soon as its network is trained, and the same command continues a stopped run.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import random
import statistics
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from nasnet_det.cli.errors import command
from nasnet_det.cli.search_context import search_context
from nasnet_det.genotypes.genotype import Genotype
from nasnet_det.genotypes.published import as_genotype
from nasnet_det.safe_io.files import write_text
from nasnet_det.safe_io.settings import parse_assignments
from nasnet_det.search.child import check_child_config, train_child
from nasnet_det.search.child_config import ChildConfig
from nasnet_det.search.command import recipe_of
from nasnet_det.search.records import best
from nasnet_det.search.report import read_findings
from nasnet_det.search.run_folder import SEARCH, SearchFolder
from nasnet_det.search.space import SPACES
from nasnet_det.search.strategies.base import uniform


@dataclass(frozen=True)
class Contender:
    """A genotype and what to call it."""

    name: str
    kind: str
    genotype: Genotype


def contenders(options: argparse.Namespace) -> list[Contender]:
    """The found cells, NASNet-A, and random ones of the paper's space."""
    chosen: list[Contender] = []
    for place in options.cells:
        if Path(place).is_dir():
            _, findings, _ = read_findings(SearchFolder(Path(place)), SEARCH)
            found = [(f"{Path(place).name} trial {f.number}", f.genotype) for f in best(findings, options.top)]
        else:
            found = [(Path(place).stem, as_genotype(place))]
        chosen += [Contender(name, "found", genotype) for name, genotype in found]
    chosen.append(Contender("NASNet-A", "published", as_genotype("nasnet_a")))
    space, rng = SPACES["nasnet_a"], random.Random(options.random_seed)
    for number in range(options.random):
        chosen.append(Contender(f"random {number}", "random", space.genotype(uniform(space.sizes, rng))))
    return chosen


def run(options: argparse.Namespace) -> int:
    """Train what is not trained yet, then print and write the table."""
    config = ChildConfig.from_dict({**parse_assignments(options.child), "data": options.data})
    check_child_config(config)
    wanted = [(contender, seed) for seed in options.seeds for contender in contenders(options)]
    setting = {"recipe": recipe_of(config), "threads": torch.get_num_threads(), "torch": torch.__version__}
    rows = done_before(options.json, setting["recipe"])
    for number, (contender, seed) in enumerate(wanted, 1):
        key = (contender.name, seed, contender.genotype.to_dict())
        if any((row["name"], row["seed"], row["genotype"]) == key for row in rows):
            continue
        result = train_child(contender.genotype, config, seed)
        rows.append(
            {
                **{k: v for k, v in asdict(contender).items() if k != "genotype"},
                "seed": seed,
                "accuracy": result.reward,
                "status": result.status,
                "num_params": result.num_params,
                "seconds": round(result.seconds, 1),
                "device": result.device,
                "genotype": contender.genotype.to_dict(),
            }
        )
        words = f"{contender.name:28} seed {seed}  {100 * result.reward:6.2f} %  {result.num_params / 1e6:.3f} M"
        print(f"{number:3}/{len(wanted)}  {words}  {result.seconds:.0f} s  {result.status}", flush=True)
        write_text(options.json, json.dumps({**setting, "rows": rows}, indent=2) + "\n")
    print(table(rows))
    if options.csv:
        write_text(options.csv, as_csv(rows))
    return 0


def done_before(path: Path, recipe: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows of an earlier run under the same recipe.

    Raises:
        ValueError: if the file is of another recipe or no such file.
    """
    if not path.is_file():
        return []
    content = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(content, dict) or content.get("recipe") != json.loads(json.dumps(recipe)):
        raise ValueError(f"{path} is of another recipe; give another --json")
    rows: list[dict[str, Any]] = content["rows"]
    return rows


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Mean and deviation over the seeds, the best first; then the kinds."""
    lines = [f"{'cells':30}{'M params':>10}{'accuracy, %':>16}  seeds"]
    grouped: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        grouped.setdefault(row["name"], []).append(row)
    for name, group in sorted(grouped.items(), key=lambda item: -_mean(item[1])):
        seeds = " ".join(str(row["seed"]) for row in group)
        lines.append(f"{name:30}{group[0]['num_params'] / 1e6:10.3f}{_figure(group):>16}  {seeds}")
    for kind in dict.fromkeys(row["kind"] for row in rows):
        group = [row for row in rows if row["kind"] == kind]
        lines.append(f"{'all ' + kind:40}{_figure(group):>16}")
    return "\n".join(lines)


def _mean(rows: Sequence[dict[str, Any]]) -> float:
    return 100 * statistics.fmean(row["accuracy"] for row in rows)


def _figure(rows: Sequence[dict[str, Any]]) -> str:
    spread = 100 * statistics.stdev(row["accuracy"] for row in rows) if len(rows) > 1 else 0.0
    return f"{_mean(rows):.2f} ± {spread:.2f}" if spread else f"{_mean(rows):.2f}"


def as_csv(rows: Sequence[dict[str, Any]]) -> str:
    """All rows but their genotypes."""
    text = io.StringIO()
    columns = [key for key in rows[0] if key != "genotype"] if rows else []
    writer = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cells", nargs="*", metavar="CELLS", help="folders of searches, genotypes")
    parser.add_argument("--data", required=True, metavar="FOLDER", help="CIFAR-10 (tools/prepare_cifar10.py)")
    parser.add_argument("--top", type=int, default=3, metavar="K", help="cells of each search (3)")
    parser.add_argument("--random", type=int, default=5, metavar="N", help="random cells (5)")
    parser.add_argument("--random-seed", type=int, default=0, help="what they are drawn from (0)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="of weights and batches (0)")
    parser.add_argument("--child", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="the recipe")
    parser.add_argument("--json", type=Path, required=True, metavar="OUT")
    parser.add_argument("--csv", type=Path, metavar="OUT")
    options = parser.parse_args(argv)
    with search_context():
        return run(options)


if __name__ == "__main__":
    sys.exit(main())
