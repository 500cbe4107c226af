"""Runs of search strategies on a benchmark, and their scores as text, JSON, CSV and a picture."""

from __future__ import annotations

import argparse
import csv
import io
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from nasnet_det.safe_io.files import check_writable, expect_folder, replacing, write_text

#: Budgets at which curves are recorded, besides those asked for.
CURVE = (10, 20, 30, 50, 70, 100, 150, 200, 250, 300, 400, 500, 600, 700, 800, 900, 1000)
#: A run's scores by budget; then those of all runs.
Run = dict[int, float]
Scores = dict[int, np.ndarray]


def add_outputs(parser: argparse.ArgumentParser, form: str) -> None:
    """Add ``--json``, ``--csv`` and ``--plot``; ``form`` is what the first holds."""
    parser.add_argument("--json", type=Path, metavar="OUT", help=form)
    parser.add_argument("--csv", type=Path, metavar="OUT", help="the whole curves")
    parser.add_argument("--plot", type=Path, metavar="OUT", help="a picture of them")


def check_outputs(args: argparse.Namespace) -> None:
    """Raise an error for an output that cannot be written, before hours are spent on it.

    Raises:
        OSError, ValueError: naming it.
    """
    for path in filter(None, (args.json, args.csv, args.plot)):
        check_writable(path)
        expect_folder(path.parent)
    if args.plot and (ending := args.plot.suffix.lstrip(".")):
        from matplotlib.backend_bases import FigureCanvasBase

        if ending.lower() not in (known := FigureCanvasBase.get_supported_filetypes()):
            raise ValueError(f"--plot {args.plot} ends in none of {', '.join(known)}")


def measure(name: str, job: Callable[[int], Run], seeds: Sequence[int], jobs: int) -> Scores:
    """Return the scores of one run for each seed, by budget; progress goes to standard error."""
    began = time.monotonic()

    def gather(results: Iterable[Run]) -> Scores:
        runs = []
        for run in results:
            runs.append(run)
            elapsed = time.monotonic() - began
            print(f"\r{name:16} {len(runs):4}/{len(seeds)} runs {elapsed:6.0f} s", end="", file=sys.stderr, flush=True)
        print(file=sys.stderr)
        return {budget: np.array([run[budget] for run in runs]) for budget in runs[0]}

    if jobs <= 1:
        return gather(map(job, seeds))
    with ProcessPoolExecutor(jobs) as pool:
        return gather(pool.map(job, seeds))


def as_text(scores: Mapping[str, Scores], budgets: Sequence[int]) -> str:
    """Return a table of mean and deviation at each budget."""
    lines = [f"{'strategy':16}" + "".join(f"{budget:>16}" for budget in budgets)]
    for name, row in scores.items():
        cells = [f"{row[b].mean():10.3f} ± {row[b].std():.2f}" if b in row else " " * 16 for b in budgets]
        lines.append(f"{name:16}" + "".join(cells))
    return "\n".join(lines)


def as_json(scores: Mapping[str, Scores], budgets: Sequence[int]) -> dict[str, Any]:
    """Return ``{strategy: {budget: {"mean": m, "std": s}}}``."""
    return {
        name: {str(b): {"mean": float(row[b].mean()), "std": float(row[b].std())} for b in budgets if b in row}
        for name, row in scores.items()
    }


def write_csv(path: Path, scores: Mapping[str, Scores], unit: str = "evaluations") -> None:
    """Write every strategy's curve: ``strategy``, ``unit``, ``mean``, ``std``."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("strategy", unit, "mean", "std"))
    for name, row in scores.items():
        for budget, values in row.items():
            writer.writerow((name, budget, f"{values.mean():.4f}", f"{values.std():.4f}"))
    write_text(path, text.getvalue())


def plot(path: Path, scores: Mapping[str, Scores], title: str, label: str, best: float | None = None) -> None:
    """Draw the curves: mean over the runs, a quarter of the deviation shaded.

    Args:
        path: the picture; its suffix is its format.
        label: of the vertical axis.
        best: the best score possible, if it is known.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 5), layout="constrained")
    for name, row in scores.items():
        mean, band = (np.array([f(values) for values in row.values()]) for f in (np.mean, lambda v: np.std(v) / 4))
        (line,) = axes.plot(list(row), mean, marker="o", markersize=3, label=name)
        axes.fill_between(list(row), mean - band, mean + band, color=line.get_color(), alpha=0.15, linewidth=0)
    middle = np.array([values.mean() for row in scores.values() for values in row.values()])
    low, high = np.percentile(middle, 8), middle.max() if best is None else best
    if best is not None:
        axes.axhline(best, color="black", linewidth=0.8, linestyle=":", label=f"best cell, {best:.2f}")
    axes.set_ylim(low, high + 0.1 * (high - low))
    columns = sorted({budget for row in scores.values() for budget in row})
    axes.set(xscale="log", xlabel="architectures evaluated", ylabel=label, title=title)
    axes.set_xticks([c for c in (10, 30, 100, 300, 500, 1000) if c in columns], minor=False)
    axes.xaxis.set_major_formatter("{x:.0f}")
    axes.xaxis.set_minor_formatter("")
    axes.legend()
    with replacing(path) as part:
        figure.savefig(part, format=path.suffix.lstrip(".") or "png", dpi=120)
    plt.close(figure)
