"""Search for cells: sample architectures, train a child of each, learn from its accuracy.

    nasnet-det search --data datasets/cifar10 --trials 200 --output runs/s1
    nasnet-det search --data my_pictures --trials 100 --rungs 2 6 18 --output runs/s2
    nasnet-det search --data CIFAR100 --trials 100 --limit params=1.5M latency=20ms@224 --output runs/s3
    nasnet-det search --data my_pictures --trials 200 --objectives accuracy params --output runs/s4
    nasnet-det search --data datasets/cifar10 --trials 20000 --output runs/s5 --ray auto --gpus-per-worker 0.5

It can be stopped or killed at any moment: the same command continues. A larger --trials continues a finished search.
The study is Optuna's: OUTPUT/study.db, or a server's with --storage. docs/search.md has the details.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing
from decimal import Decimal
from typing import TYPE_CHECKING, Any, NamedTuple

from nasnet_det.cli.shared.errors import command
from nasnet_det.cli.shared.options import add_output, add_settings, new_parser, seed, whole
from nasnet_det.cli.shared.search_context import search_context
from nasnet_det.cli.shared.search_options import (
    add_child_options,
    add_demand_options,
    add_rung_options,
    add_space_options,
    add_worker_options,
    space_asked,
)

if TYPE_CHECKING:
    from nasnet_det.search.candidates import SpaceCandidates
    from nasnet_det.search.child_config import ChildConfig
    from nasnet_det.search.rungs import Pruner
    from nasnet_det.search.strategies.base import Strategy
    from nasnet_det.search.study import Study


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = new_parser(__doc__)
    add_output(parser, "where everything goes", required=True)
    parser.add_argument("--trials", type=whole(1), required=True, metavar="N", help="architectures to evaluate in all")
    parser.add_argument(
        "--strategy",
        default="default",
        metavar="NAME",
        help="guided, ppo, ppo_paper, reinforce, evolution, random, or a sampler of Optuna such as tpe and nsga2 "
        "(default: guided; for several objectives nsga2)",
    )
    add_settings(parser, "settings of the strategy")
    parser.add_argument("--seed", type=seed, default=0, help="of everything random (default: 0)")
    parser.add_argument(
        "--pending",
        type=whole(1),
        metavar="P",
        help="tasks chosen before the first one's result (default: 2 x workers)",
    )
    parser.add_argument(
        "--order",
        choices=("task", "arrival"),
        default="task",
        help="tell results in the order of tasks, so that the outcome does not depend on timing (the default), or as "
        "they arrive, where the strategy allows it",
    )
    group = parser.add_argument_group("study")
    group.add_argument("--storage", metavar="URL", help="a database (default: OUTPUT/study.db)")
    group.add_argument("--study", metavar="NAME", help="its name there (default: the folder's)")
    add_rung_options(parser)
    add_demand_options(parser)
    add_space_options(parser)
    add_child_options(parser)
    add_worker_options(parser)
    return parser.parse_args(argv)


class SearchSetup(NamedTuple):
    """The parts of a search, as a command line describes them.

    Args:
        config: the settings of children.
        candidates: the space with its limits.
        pruner: the pruner of rungs, before its first result.
        name: the strategy's name.
        strategy: the strategy, before its first result.
        identity: what a study records, so that it is continued with the same settings only.
    """

    config: ChildConfig
    candidates: SpaceCandidates
    pruner: Pruner
    name: str
    strategy: Strategy[Any]
    identity: dict[str, Any]


def search_asked(options: argparse.Namespace) -> SearchSetup:
    """Return the parts of the search that the options describe.

    Raises:
        ValueError: for settings that are unknown or do not go together.
    """
    from nasnet_det.safe_io.settings import parse_assignments
    from nasnet_det.search import command as shared
    from nasnet_det.search.rungs import make_pruner, resolve_pruner
    from nasnet_det.search.strategies.base import Problem
    from nasnet_det.search.strategies.registry import make_strategy, resolve_name, settings_of

    space = space_asked(options)
    rungs, config = shared.rungs_asked(options, shared.child_config(options))
    candidates, demands, demanded = shared.candidates_asked(options, space, config)
    pruner_settings = parse_assignments(options.pruner_set)
    pruner = make_pruner(options.pruner, rungs, pruner_settings)
    parameters = {name: choices for name, (_, choices) in space.parameters((0,) * len(space.sizes)).items()}
    problem = Problem(demands.objectives, rungs, candidates, parameters)
    name = resolve_name(options.strategy, problem)
    strategy = make_strategy(name, space.sizes, options.seed, parse_assignments(options.set), problem)
    if options.order == "arrival" and not strategy.any_order:
        raise ValueError(f"strategy {name} takes results in the order of tasks only: leave --order out")
    by_rungs = {"epochs": list(rungs), "pruner": resolve_pruner(options.pruner), "settings": pruner_settings}
    identity: dict[str, Any] = {
        "space": space.to_dict(),
        "recipe": shared.recipe_of(config),
        "strategy": {"name": name, "settings": settings_of(strategy)},
        "seed": options.seed,
        "data": shared.data_identity(config),
        "rungs": by_rungs if rungs else None,
        "demands": demanded,
        "order": None if options.order == "task" else options.order,
    }
    return SearchSetup(config, candidates, pruner, name, strategy, identity)


def search(options: argparse.Namespace, should_stop: Callable[[], bool]) -> int:
    """Run the search."""
    from nasnet_det.search import command as shared
    from nasnet_det.search.driver import Search
    from nasnet_det.search.run_folder import SEARCH, SearchFolder

    asked = search_asked(options)
    if shared.has_own_images(asked.config.data):
        print(shared.describe_data(asked.config), flush=True)
    folder = SearchFolder(options.output)
    with folder.locked(), closing(shared.make_workers(options, asked.config)) as workers:
        pending = {"pending": options.pending or (2 * workers.slots if workers.slots > 1 else 1)}
        identity = asked.identity | (pending if options.pending else {})
        with closing(folder.make_study(SEARCH, identity, pending, options.storage, options.study)) as study:
            print(
                f"{asked.name} in a space of {Decimal(asked.candidates.space.num_architectures):,.4g} architectures; "
                f"{workers.slots} worker{'s' * (workers.slots > 1)}, {study.identity['pending']} pending",
                flush=True,
            )
            Search(
                study,
                asked.strategy,
                asked.candidates,
                workers,
                options.seed,
                study.identity["pending"],
                folder.state(SEARCH),
                options.retries,
                shared.ShowProgress(epochs=asked.config.epochs if options.rungs else None),
                asked.pruner,
                options.order == "task",
                folder.checkpoints,
                should_stop,
            ).run(options.trials)
            if asked.strategy.exhausted:
                print(f"{asked.name} has tried all architectures")
            return conclude(options, study)


def conclude(options: argparse.Namespace, study: Study) -> int:
    """Print what was found and the command that exports it; draw the Pareto front of several objectives.

    Returns:
        0, or 1 if no child has an accuracy.
    """
    from nasnet_det.search.records import front
    from nasnet_det.search.report import describe_front, draw_front_of

    objectives, findings = study.objectives, study.findings()
    if not findings:
        counts = ", ".join(f"{count} {status}" for status, count in sorted(Counter(study.statuses()).items()))
        print(f"done, but no child has an accuracy ({counts or 'none was trained'})", file=sys.stderr)
        return 1
    export = f"done: nasnet-det export-cell {shlex.quote(str(options.output))}"
    if len(objectives) > 1 and (found := front(findings, objectives)):
        print(describe_front(found, objectives))
        for path in draw_front_of(findings, objectives, options.output):
            print(path)
        print(f"{export} --trial {found[0].number} --output my_cell.json")
        return 0
    print(f"{export} --top 1 --output my_cell.json")
    return 0


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return 1 if no child has an accuracy, 2 for a mistake in what it was given, 130 if it was
    stopped."""
    options = parse(argv)
    with search_context() as should_stop:
        return search(options, should_stop)
