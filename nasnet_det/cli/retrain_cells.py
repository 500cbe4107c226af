"""Train the best architectures of a search longer, and rank them by that: its second phase.

    nasnet-det retrain-cells runs/s1 --data datasets/cifar10 --top 250 --child epochs=600

The recipe is the search's with the changes of --child. Stopped or killed, the same command continues. Results are a
study of its own beside the search's, which nasnet-det export-cell and nasnet-det search-report read.
"""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Callable, Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Any

from nasnet_det.cli.shared.errors import command
from nasnet_det.cli.shared.options import new_parser, seed, whole
from nasnet_det.cli.shared.search_context import search_context
from nasnet_det.cli.shared.search_options import add_child_options, add_worker_options, existing_folder

if TYPE_CHECKING:
    from nasnet_det.search.child_config import ChildConfig
    from nasnet_det.search.run_folder import SearchFolder
    from nasnet_det.search.study import Study
    from nasnet_det.search.workers import Workers


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = new_parser(__doc__)
    parser.add_argument("folder", type=existing_folder, metavar="FOLDER", help="a search's --output")
    parser.add_argument("--top", type=whole(1), default=250, metavar="K", help="how many (default: 250, the paper's)")
    parser.add_argument("--seed", type=seed, default=0, help="of the weights and batches (default: 0)")
    parser.add_argument("--storage", metavar="URL", help="the search's, where it needs a password")
    add_child_options(parser)
    add_worker_options(parser)
    return parser.parse_args(argv)


def retrain(options: argparse.Namespace, should_stop: Callable[[], bool]) -> int:
    """Run the second phase."""
    from nasnet_det.search import command as shared
    from nasnet_det.search.run_folder import RETRAINED, SearchFolder
    from nasnet_det.search.space import Space

    folder = SearchFolder(options.folder)
    with folder.locked():
        first, best = best_of_search(folder, options)
        config = shared.child_config(options, first["recipe"])
        identity = {
            "space": Space.from_dict(first["space"]).to_dict(),
            "recipe": shared.recipe_of(config),
            "data": shared.data_identity(config),
            "seed": options.seed,
            "top": options.top,
        }
        # The study keeps the architectures of its first start, even if the search continues.
        with (
            closing(shared.make_workers(options, config)) as workers,
            closing(folder.make_study(RETRAINED, identity, {"architectures": best}, options.storage)) as study,
        ):
            train_all(options, study, workers, config, should_stop)
    print(f"done: nasnet-det search-report {shlex.quote(str(options.folder))} --output report")
    return 0


def best_of_search(folder: SearchFolder, options: argparse.Namespace) -> tuple[dict[str, Any], list[list[int]]]:
    """Return the identity of the search's study and the decisions of its best architectures.

    Raises:
        StudyError: if no child of the search has an accuracy yet.
    """
    from nasnet_det.search.records import best
    from nasnet_det.search.run_folder import SEARCH
    from nasnet_det.search.storage import StudyError

    with closing(folder.open_study(SEARCH, options.storage)) as study:
        found = best(study.findings(), options.top)
        identity = study.identity
    if not found:
        raise StudyError(f"no child of {options.folder} has an accuracy yet; search first")
    return identity, [list(finding.decisions) for finding in found]


def train_all(
    options: argparse.Namespace, study: Study, workers: Workers, config: ChildConfig, should_stop: Callable[[], bool]
) -> None:
    """Train the architectures that the study lists."""
    from nasnet_det.search.candidates import SpaceCandidates
    from nasnet_det.search.child_config import network_size, num_classes_of
    from nasnet_det.search.command import ShowProgress
    from nasnet_det.search.driver import Search
    from nasnet_det.search.space import Space
    from nasnet_det.search.strategies.fixed_list import Listed, ListedSettings

    space = Space.from_dict(study.identity["space"])
    listed = tuple(tuple(decisions) for decisions in study.identity["architectures"])
    count, epochs = len(listed), config.epochs
    print(f"{count} architecture{'s' * (count > 1)}, {epochs} epoch{'s' * (epochs > 1)} each", flush=True)
    search = Search(
        study,
        Listed(space.sizes, options.seed, ListedSettings(listed)),
        SpaceCandidates(space, network_size(config, num_classes_of(config))),
        workers,
        options.seed,
        len(listed),
        None,
        options.retries,
        ShowProgress("model"),
        should_stop=should_stop,
    )
    search.run(len(listed))


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return 2 for a mistake in what it was given, 130 if it was stopped."""
    options = parse(argv)
    with search_context() as should_stop:
        return retrain(options, should_stop)
