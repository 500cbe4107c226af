"""Options that the search commands share. Nothing here imports PyTorch, so that help is shown at once."""

from __future__ import annotations

import argparse
from pathlib import Path

from nasnet_det.cli.shared.options import add_settings, amount, whole
from nasnet_det.genotypes.genotype import COMBINERS
from nasnet_det.search.space import SPACES, Space


def add_worker_options(parser: argparse.ArgumentParser) -> None:
    """Add who trains children."""
    group = parser.add_argument_group("workers")
    group.add_argument(
        "--workers", type=whole(0), metavar="N", help="processes, on Ray; 0: this one (default: one for each GPU, or 0)"
    )
    group.add_argument("--ray", metavar="ADDRESS", help="a running Ray cluster: HOST:PORT or auto")
    group.add_argument("--gpus-per-worker", type=amount, metavar="X", help="or a fraction (default: 1 where there are)")
    group.add_argument("--cpus-per-worker", type=amount, default=1.0, metavar="X", help="default: 1")
    group.add_argument("--retries", type=whole(0), default=3, help="of a child whose worker was lost (default: 3)")
    group.add_argument("--device", help="where a worker trains (default: its GPU if it has one)")


def add_child_options(parser: argparse.ArgumentParser) -> None:
    """Add the children's data and training."""
    group = parser.add_argument_group("children")
    group.add_argument(
        "--data",
        required=True,
        metavar="FOLDER",
        help="CIFAR-10 (nasnet-det prepare-cifar10), a folder of class folders, with or without train/ and val/, or "
        "the name of a data set of torchvision, downloaded to datasets/ (or NAME@FOLDER)",
    )
    meaning = "any setting of nasnet_det.search.child_config.ChildConfig: epochs=5 num_filters=16 train_images=10000"
    add_settings(group, meaning, "--child")


def add_rung_options(parser: argparse.ArgumentParser) -> None:
    """Add the epochs at which children are judged."""
    group = parser.add_argument_group("rungs")
    group.add_argument(
        "--rungs",
        nargs="+",
        type=int,
        default=[],
        metavar="EPOCHS",
        help="judge children after so many epochs: the best continue, the others wait or stop (2 6 18)",
    )
    group.add_argument(
        "--pruner", default="asha", metavar="NAME", help="asha (the default), or a pruner of Optuna: MedianPruner ..."
    )
    add_settings(group, "settings of the pruner; of asha: reduction (3), keep (10)", "--pruner-set")


def add_demand_options(parser: argparse.ArgumentParser) -> None:
    """Add limits and objectives."""
    group = parser.add_argument_group("limits and objectives")
    meaning = "refuse larger candidates before training: params=1.5M macs=200M latency=20ms@224"
    add_settings(group, meaning, "--limit", "NAME=VALUE")
    group.add_argument(
        "--objectives",
        nargs="+",
        default=["accuracy"],
        metavar="NAME",
        help="search the Pareto front of accuracy and params, macs or latency@224",
    )
    meaning = (
        "the network that is measured, where it is not the child's: num_cells=4 num_filters=44 stem=imagenet "
        "stem_channels=32 num_classes=1000 image_size=224"
    )
    add_settings(group, meaning, "--measured-network")
    group.add_argument(
        "--latency-runtime",
        choices=("eager", "fused", "onnxruntime", "openvino"),
        default="eager",
        help="how latency is measured on this machine, one image at a time (default: eager)",
    )


def add_space_options(parser: argparse.ArgumentParser) -> None:
    """Add what may be decided."""
    group = parser.add_argument_group("space")
    group.add_argument("--space", choices=SPACES, default="nasnet_a", help="of the paper (default: nasnet_a)")
    group.add_argument("--blocks", type=int, metavar="B", help="of each cell, instead of the space's")
    group.add_argument("--operations", nargs="+", metavar="NAME", help="instead of the space's")
    group.add_argument("--combiners", nargs="+", metavar="NAME", help=f"of {', '.join(COMBINERS)}")


def space_asked(options: argparse.Namespace) -> Space:
    """Return the space with the changes of the options."""
    changes = {"blocks": options.blocks, "operations": options.operations, "combiners": options.combiners}
    given = {key: value for key, value in changes.items() if value is not None}
    return Space.from_dict({**SPACES[options.space].to_dict(), **given})


def existing_folder(text: str) -> Path:
    """Return a command's argument that is the folder of a search."""
    path = Path(text)
    if not path.is_dir():
        raise argparse.ArgumentTypeError(f"{text} is not a folder")
    return path
