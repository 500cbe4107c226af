"""The second phase of a search: train its best architectures longer, and rank them by that.

    nasnet-det retrain runs/s1 --data datasets/cifar10 --top 250 --child epochs=600

The recipe is the search's but for what --child changes. Stopped or killed, the same command continues. Results are a
study of its own beside the search's; nasnet-det export-cell and nasnet-det report take them from there.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from nasnet_det.cli.errors import command, needs

with needs():
    from nasnet_det.search.command import (
        ShowProgress,
        add_child_options,
        add_worker_options,
        child_config,
        child_evaluator,
        existing_folder,
        make_workers,
        recipe_of,
        searching,
    )


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=existing_folder, metavar="FOLDER", help="a search's --out")
    parser.add_argument("--top", type=int, default=250, metavar="K", help="how many (default: 250, the paper's)")
    parser.add_argument("--seed", type=int, default=0, help="of the weights and batches (default: 0)")
    parser.add_argument("--storage", metavar="URL", help="the search's, where it needs a password")
    add_child_options(parser)
    add_worker_options(parser)
    options = parser.parse_args(argv)
    if options.top < 1:
        parser.error("--top is at least 1")
    return options


def retrain(options: argparse.Namespace) -> int:
    """Run the second phase."""
    from nasnet_det.search.candidates import SpaceCandidates
    from nasnet_det.search.child import network_size
    from nasnet_det.search.driver import Search
    from nasnet_det.search.run_folder import RETRAINED, SEARCH, RunFolder
    from nasnet_det.search.space import Space
    from nasnet_det.search.strategies.fixed_list import Listed, ListedSettings
    from nasnet_det.search.study import StudyError, best

    folder = RunFolder(options.folder)
    with folder.locked():
        first = folder.open_study(SEARCH, options.storage)
        try:
            found = best(first.findings(), options.top)
            space, recipe = Space.from_dict(first.identity["space"]), first.identity["recipe"]
        finally:
            first.close()
        if not found:
            raise StudyError(f"no child of {options.folder} has an accuracy yet; search first")
        config = child_config(options, recipe)
        identity = {"space": space.to_dict(), "recipe": recipe_of(config), "seed": options.seed, "top": options.top}
        # Which ones they are is settled when the phase begins, even if the search goes on.
        chosen = {"architectures": [list(finding.decisions) for finding in found]}
        workers = make_workers(options, child_evaluator(options, config))
        try:
            study = folder.make_study(RETRAINED, identity, chosen, options.storage)
            try:
                listed = tuple(tuple(decisions) for decisions in study.identity["architectures"])
                strategy = Listed(space.sizes, options.seed, ListedSettings(listed))
                print(f"{len(listed)} architectures, {config.epochs} epochs each", flush=True)
                Search(
                    study,
                    strategy,
                    SpaceCandidates(space, network_size(config)),
                    workers,
                    options.seed,
                    len(listed),
                    None,
                    options.retries,
                    ShowProgress("model"),
                ).run(len(listed))
            finally:
                study.close()
        finally:
            workers.close()
    print(f"done: nasnet-det report {options.folder} --out report")
    return 0


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; 2 if what it was given is at fault, 130 if it was stopped."""
    options = parse(argv)
    with searching():
        return retrain(options)


if __name__ == "__main__":
    sys.exit(main())
