"""Every search strategy on a surrogate of NAS-Bench-301 (Zela et al., arXiv:2008.09777): DARTS's space of 10^18 cells.

python benchmarks/nasbench301.py FOLDER --seeds 20 --budgets 100 300 1000 --json results.json --plot results.png

FOLDER holds the surrogate of YAHPO Gym (Pfisterer et al., arXiv:2109.03670), Apache-2.0: `model_v2.onnx` and
`encoding_v2.json`, from the folder `nb301` of https://github.com/slds-lmu/yahpo_data (commit 0e28806). It predicts the
accuracy on CIFAR-10 of any cell after 1 to 98 epochs, without noise.

A query is one full training of 98 epochs. After each budget a strategy's pick, the best architecture that it saw
trained in full, is judged by its predicted accuracy. A row `NAME_rungs` trains in rungs (ASHA); its budgets are epochs,
98 to a query. docs/search.md says on which tables and seeds settings were chosen.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import cache, lru_cache, partial
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch
from strategy_scores import CURVE, Run, Scores, add_outputs, as_json, as_text, check_outputs, measure, plot, write_csv

from nasnet_det.cli.shared.errors import command
from nasnet_det.genotypes.genotype import Block, CellGenotype, Genotype
from nasnet_det.safe_io.files import write_text
from nasnet_det.safe_io.values import first_line
from nasnet_det.search.rungs import make_pruner
from nasnet_det.search.strategies.base import Decisions, Part, Problem, Result
from nasnet_det.search.strategies.registry import DEFAULT, NAMES, make_strategy

EPOCHS = 98
SOURCE = "https://github.com/slds-lmu/yahpo_data, folder nb301 (model_v2.onnx and encoding_v2.json)"
STRATEGIES = ("ppo", "ppo_paper", "reinforce", "random", "evolution", "default", "default_rungs")
METRICS = {"accuracy": (0, 1.0), "cross_entropy": (1, -1.0)}

#: The surrogate's operations in the order of its encoding, and this project's names of them.
OPERATIONS = {
    "avg_pool_3x3": "avg_pool_3x3",
    "dil_conv_3x3": "dil_sep_conv_3x3_once",
    "dil_conv_5x5": "dil_sep_conv_5x5_once",
    "max_pool_3x3": "max_pool_3x3",
    "sep_conv_3x3": "sep_conv_3x3",
    "sep_conv_5x5": "sep_conv_5x5",
    "skip_connect": "identity",
}
_CELLS = {"normal": "normal", "reduction": "reduce"}
_PAIRS = {node: list(combinations(range(node), 2)) for node in range(2, 6)}


class DartsSpace:
    """DARTS's space as 22 decisions: in each cell two operations of node 2, then for nodes 3 to 5 the pair of inputs
    and two operations."""

    sizes = (7, 7, 3, 7, 7, 6, 7, 7, 10, 7, 7) * 2

    def genotype(self, decisions: Decisions) -> Genotype:
        """Return the cells of decisions; DARTS numbers a cell's two inputs the other way round."""
        cells = []
        for cell in (decisions[:11], decisions[11:]):
            blocks = [
                Block(_own_state(left), _own_state(right), *(_OWN[operation] for operation in operations))
                for (left, right), operations in nodes(cell)
            ]
            cells.append(CellGenotype(tuple(blocks), (2, 3, 4, 5)))
        return Genotype(normal=cells[0], reduction=cells[1])


_OWN = list(OPERATIONS.values())


def _own_state(state: int) -> int:
    return 1 - state if state < 2 else state


def nodes(cell: Decisions) -> list[tuple[tuple[int, int], Decisions]]:
    """Return the pair of inputs and the two operations of each node of a cell, of its 11 decisions."""
    pairs = (0, *cell[2::3])
    operations = [cell[0:2], *(cell[i : i + 2] for i in (3, 6, 9))]
    return [(_PAIRS[node][pair], ops) for node, pair, ops in zip(range(2, 6), pairs, operations, strict=True)]


class Surrogate:
    """The surrogate's predictions, each made once.

    Args:
        folder: where ``model_v2.onnx`` and ``encoding_v2.json`` are.
        column, sign: the output to return, and what makes larger better.

    Raises:
        FileNotFoundError: if they are not there.
        ValueError: if they are others.
    """

    def __init__(self, folder: Path, column: int = 0, sign: float = 1.0) -> None:
        import onnxruntime

        for name in ("model_v2.onnx", "encoding_v2.json"):
            if not (folder / name).is_file():
                raise FileNotFoundError(f"{folder / name} is missing; both files are in {SOURCE}")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        path = str(folder / "model_v2.onnx")
        self._column, self._sign = column, sign
        self._known: dict[tuple[Decisions, int], float] = {}
        try:
            self._session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
            names = json.loads((folder / "encoding_v2.json").read_text(encoding="utf-8"))
            self._values = {key.rsplit("_COLON_", 1)[-1]: (i, values) for i, (key, values) in enumerate(names.items())}
            self((0,) * len(DartsSpace.sizes))
        except Exception as error:  # ONNX Runtime's are of many classes
            raise ValueError(f"{folder} has not the files of {SOURCE}: {first_line(error)}") from None

    def __call__(self, decisions: Decisions, epoch: int = EPOCHS) -> float:
        """Return the prediction for an architecture after ``epoch`` epochs."""
        key = tuple(decisions), epoch
        if key not in self._known:
            inputs = {"x_cat": self.encode(decisions)[None], "x_cont": np.array([[epoch]], np.float32)}
            self._known[key] = self._sign * float(self._session.run(None, inputs)[0][0, self._column])
        return self._known[key]

    def encode(self, decisions: Decisions) -> np.ndarray:
        """Return the surrogate's 34 categories: the operation of each of a cell's 14 edges, or none, and the inputs of
        nodes 3 to 5."""
        row = np.zeros(len(self._values), np.int32)
        for cell, half in zip(_CELLS.values(), (decisions[:11], decisions[11:]), strict=True):
            for node, (pair, operations) in enumerate(nodes(half), start=2):
                first = sum(range(2, node))
                for state, operation in zip(pair, operations, strict=True):
                    self._set(row, f"edge_{cell}_{first + state}", list(OPERATIONS)[operation])
                if node > 2:
                    self._set(row, f"inputs_node_{cell}_{node}", "_".join(map(str, pair)))
        return row

    def _set(self, row: np.ndarray, key: str, value: str) -> None:
        column, values = self._values[key]
        row[column] = values[value]


@cache
def surrogate(folder: Path, metric: str) -> Surrogate:
    """Return a process's surrogate."""
    return Surrogate(folder, *METRICS[metric])


class Cells:
    """Knowledge of architectures before training: their edges, found without building the genotype.

    Its parameters and multiply-adds follow from these; as features of their own they measured as no gain.

    Args:
        told: functions from an architecture to more that is known of it, by name.
    """

    def __init__(self, told: Mapping[str, Callable[[Decisions], float]] | None = None) -> None:
        self._told = told or {}

    def parts(self, decisions: Decisions) -> tuple[Part, ...]:
        """Return the edges of both cells."""
        return _edges("normal", decisions[:11]) + _edges("reduction", decisions[11:])

    def measures(self, decisions: Decisions) -> dict[str, float]:
        """Return what is told of an architecture."""
        return {name: function(decisions) for name, function in self._told.items()}

    def allowed(self, decisions: Decisions) -> bool:
        """Return True."""
        return True

    def network(self, decisions: Decisions) -> Any:
        """Raise: the surrogate has no networks."""
        raise NotImplementedError("the surrogate's cells are not trained")


@lru_cache(maxsize=100_000)
def _edges(kind: str, cell: Decisions) -> tuple[Part, ...]:
    return tuple(
        (kind, f"{_own_state(state)}>{node}", _OWN[operation])
        for node, sides in enumerate(nodes(cell), start=2)
        for state, operation in zip(*sides, strict=True)
    )


def run(
    seed: int,
    name: str,
    folder: Path,
    metric: str,
    budgets: Sequence[int],
    settings: dict[str, Any],
    told: Sequence[int] = (),
) -> Run:
    """Return the predicted accuracy, in percent, of a strategy's pick after each number of queries."""
    torch.set_num_threads(1)
    predict = surrogate(folder, metric)
    cells = Cells({f"after {epoch} epochs": partial(predict, epoch=epoch) for epoch in told})
    strategy = make_strategy(name, DartsSpace.sizes, seed, settings, Problem(candidates=cells))
    best, scores = -np.inf, {}
    for query in range(1, max(budgets) + 1):
        reward = predict(strategy.ask())
        strategy.tell(query - 1, Result((reward,)))
        best = max(best, reward)
        scores[query] = 100 * best
    return {budget: scores[budget] for budget in budgets}


def run_rungs(
    seed: int,
    name: str,
    folder: Path,
    metric: str,
    budgets: Sequence[int],
    settings: dict[str, Any],
    rungs: tuple[int, ...],
    asha: dict[str, Any],
) -> Run:
    """Return the predicted accuracy, in percent, of a strategy's pick after each number of epochs of training.

    The pick is the best architecture trained for all 98 epochs.
    """
    torch.set_num_threads(1)
    predict = surrogate(folder, metric)
    problem = Problem(rungs=rungs, candidates=Cells())
    strategy, pruner = make_strategy(name, DartsSpace.sizes, seed, settings, problem), make_pruner("asha", rungs, asha)
    trials: list[Decisions] = []
    reached: list[int] = []
    spent, best, scores = 0, -np.inf, dict.fromkeys(budgets, float("nan"))
    while True:
        trial = pruner.next()
        if trial is None:
            trial = len(trials)
            trials.append(strategy.ask())
            reached.append(-1)
        reached[trial] += 1
        rung = reached[trial]
        spent += rungs[rung] - (rungs[rung - 1] if rung else 0)
        if spent > max(budgets):
            return scores
        final = rung == len(rungs) - 1
        reward = predict(trials[trial], rungs[rung])
        stopped = pruner.tell(trial, rung, (reward,), (), final)
        strategy.tell(trial, Result((reward,), rungs[rung], final))
        for number in stopped:
            strategy.stop(number)
        best = max(best, reward) if final else best
        scores.update({budget: 100 * best for budget in budgets if spent <= budget})


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = ("default", *NAMES)
    rows = (*names, *(f"{name}_rungs" for name in names))
    parser.add_argument("folder", type=Path, metavar="FOLDER", help=f"the surrogate's, from {SOURCE}")
    parser.add_argument("--seeds", type=int, default=20, metavar="N", help="runs of each strategy (default: 20)")
    parser.add_argument("--first-seed", type=int, default=0, metavar="N", help="default: 0")
    parser.add_argument("--budgets", type=int, nargs="+", default=[100, 300, 1000], metavar="N", help="in queries")
    parser.add_argument("--epochs", type=int, nargs="+", default=[9800], metavar="N", help="budgets of rows with rungs")
    parser.add_argument("--rungs", type=int, nargs="+", default=[11, EPOCHS], metavar="EPOCH")
    parser.add_argument("--reduction", type=int, default=3, help="of so many trials ASHA continues one (default: 3)")
    parser.add_argument(
        "--told",
        type=int,
        nargs="+",
        default=[],
        metavar="EPOCH",
        help="tell rows without rungs, at no cost, what every architecture reaches after these epochs: the most that "
        "training in rungs could tell them",
    )
    parser.add_argument("--strategies", nargs="+", default=STRATEGIES, choices=rows, metavar="NAME")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="settings of the strategies")
    parser.add_argument("--metric", choices=METRICS, default="accuracy", help="cross_entropy: for choosing settings")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="processes (default: 1)")
    add_outputs(parser, "{strategy: {budget: {'mean': m, 'std': s}}}")
    args = parser.parse_args(argv)
    if args.seeds < 1 or min(*args.budgets, *args.epochs) < 1:
        parser.error("--seeds, --budgets and --epochs must be at least 1")
    if not all(1 <= epoch <= EPOCHS for epoch in args.told):
        parser.error(f"--told takes epochs from 1 to {EPOCHS}")
    if args.rungs[-1] != EPOCHS:
        parser.error(f"the last of --rungs must be {EPOCHS}, the epochs of a full training")
    return args


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    from nasnet_det.safe_io.settings import parse_assignments

    args = parse(argv)
    check_outputs(args)
    surrogate(args.folder, args.metric)
    settings = parse_assignments(args.set)
    seeds = range(args.first_seed, args.first_seed + args.seeds)
    columns = sorted({*args.budgets, *(c for c in CURVE if c < max(args.budgets))})
    epochs = sorted({*args.epochs, *(EPOCHS * c for c in CURVE if EPOCHS * c < max(args.epochs))})
    scores: dict[str, Scores] = {}
    for row in args.strategies:
        same = row.replace("default", DEFAULT) if row.startswith("default") else row.replace(DEFAULT, "default", 1)
        name = row.removesuffix("_rungs")
        fixed: dict[str, Any] = {"name": name, "folder": args.folder, "metric": args.metric, "settings": settings}
        if row.endswith("_rungs"):
            asha = {"reduction": args.reduction}
            job = partial(run_rungs, **fixed, budgets=epochs, rungs=tuple(args.rungs), asha=asha)
        else:
            job = partial(run, **fixed, budgets=columns, told=tuple(args.told))
        scores[row] = scores[same] if same in scores else measure(row, job, seeds, args.jobs)
    print(as_text(scores, sorted({*args.budgets, *args.epochs})))
    print(f"default is {DEFAULT}; {args.seeds} runs; {args.metric} of the pick in percent; rows with rungs in epochs")
    if args.json:
        write_text(args.json, json.dumps(as_json(scores, [*args.budgets, *args.epochs]), indent=2) + "\n")
    if args.csv:
        write_csv(args.csv, scores, "budget")
    if args.plot:
        curves = {name: row for name, row in scores.items() if not name.endswith("_rungs")}
        title = f"A surrogate of NAS-Bench-301, {args.seeds} runs each; shaded: a quarter of the deviation"
        plot(args.plot, curves, title, f"predicted {args.metric} of the pick (%)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
