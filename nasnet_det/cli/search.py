"""Search for cells: sample architectures, train a child of each, learn from how good it is.

    nasnet-det search --strategy ppo --data datasets/cifar10 --trials 200 --out runs/s1
    nasnet-det search --data datasets/cifar10 --trials 20000 --out runs/s2 --ray auto --gpus-per-worker 0.5
    nasnet-det search --data datasets/cifar10 --trials 100 --out runs/s3 --child epochs=2 num_filters=8

It can be stopped or killed at any moment: the same command continues. A larger --trials continues a finished search.
The study is Optuna's: OUT/study.db, or a server's with --storage. docs/search.md tells the rest.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nasnet_det.cli.errors import command, needs

with needs():
    from nasnet_det.search.command import (
        ShowProgress,
        add_child_options,
        add_space_options,
        add_worker_options,
        assignments,
        child_config,
        child_evaluator,
        make_workers,
        recipe_of,
        searching,
        space_asked,
    )


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="where everything goes")
    parser.add_argument("--trials", type=int, required=True, metavar="N", help="architectures to evaluate in all")
    parser.add_argument(
        "--strategy",
        default="default",
        metavar="NAME",
        help="guided (the default), ppo, ppo_paper, reinforce, evolution, random, or Optuna's tpe, nsga2",
    )
    parser.add_argument("--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="of the strategy")
    parser.add_argument("--seed", type=int, default=0, help="of everything random (default: 0)")
    parser.add_argument(
        "--pending", type=int, metavar="P", help="trials sampled before the first one's result (default: 2 x workers)"
    )
    group = parser.add_argument_group("study")
    group.add_argument("--storage", metavar="URL", help="a database (default: OUT/study.db)")
    group.add_argument("--study", metavar="NAME", help="its name there (default: the folder's)")
    add_space_options(parser)
    add_child_options(parser)
    add_worker_options(parser)
    options = parser.parse_args(argv)
    if options.trials < 1:
        parser.error("--trials is at least 1")
    return options


def search(options: argparse.Namespace) -> int:
    """Run the search."""
    from nasnet_det.search.candidates import SpaceCandidates
    from nasnet_det.search.child import network_size
    from nasnet_det.search.driver import Search
    from nasnet_det.search.run_folder import SEARCH, RunFolder
    from nasnet_det.search.strategies.registry import DEFAULT, make_strategy, settings_of

    space, config = space_asked(options), child_config(options)
    name = DEFAULT if options.strategy == "default" else options.strategy
    strategy = make_strategy(name, space.sizes, options.seed, assignments(options.set))
    identity: dict[str, Any] = {
        "space": space.to_dict(),
        "recipe": recipe_of(config),
        "strategy": {"name": name, "settings": settings_of(strategy)},
        "seed": options.seed,
    }
    folder = RunFolder(options.out)
    with folder.locked():
        workers = make_workers(options, child_evaluator(options, config))
        try:
            pending = {"pending": options.pending or (2 * workers.slots if workers.slots > 1 else 1)}
            asked = {**identity, **pending} if options.pending else identity
            study = folder.make_study(SEARCH, asked, pending, options.storage, options.study)
            try:
                print(
                    f"{name} in a space of {space.num_architectures:.2e} architectures; "
                    f"{workers.slots} worker{'s' * (workers.slots > 1)}, {study.identity['pending']} pending",
                    flush=True,
                )
                Search(
                    study,
                    strategy,
                    SpaceCandidates(space, network_size(config)),
                    workers,
                    options.seed,
                    study.identity["pending"],
                    folder.state(SEARCH),
                    options.retries,
                    ShowProgress(),
                ).run(options.trials)
                print(f"done: nasnet-det export-cell {options.out} --top 1 --out my_cell.json")
            finally:
                study.close()
        finally:
            workers.close()
    return 0


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; 2 if what it was given is at fault, 130 if it was stopped."""
    options = parse(argv)
    with searching():
        return search(options)


if __name__ == "__main__":
    sys.exit(main())
