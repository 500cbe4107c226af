"""Train a network on CIFAR-10, once for each seed, and report the mean of the test accuracies.

The paper's recipe, and with cutout as its best result:

    nasnet-det train-cifar DATA --output runs/nasnet_a
    nasnet-det train-cifar DATA --output runs/nasnet_a_cutout --cutout 16 --seeds 0 1 2 3 4

A found cell, and as many epochs as one GPU trains in eight minutes:

    nasnet-det train-cifar DATA --output runs/mine --genotype my_cell.json --num-cells 6 --num-filters 32
    nasnet-det train-cifar DATA --output runs/quick --recipe cifar_quick --minutes 8

DATA is a folder filled by nasnet-det prepare-cifar10. A stopped run is continued by the same command. OUTPUT/seed_S has
the files of a run: run.json, checkpoint.pt, metrics.csv, tensorboard/, run.png, and the trained model as
OUTPUT/seed_S/model (timm.create_model("local-dir:OUTPUT/seed_S/model", pretrained=True)). OUTPUT/summary.json has the
mean.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from nasnet_det.cli.shared.errors import command
from nasnet_det.cli.shared.options import add_image_size, add_output, amount, new_parser, seed
from nasnet_det.cli.shared.training_options import (
    add_execution_options,
    add_model_options,
    add_recipe_options,
    model_choice,
    selected_execution,
    selected_recipe,
)
from nasnet_det.safe_io.files import write_text
from nasnet_det.training.recipe import Recipe, RecipeError, recipe_names

if TYPE_CHECKING:
    import torch

    from nasnet_det.training.data.cifar_batches import CifarAugmentation, CifarBatches
    from nasnet_det.training.session import Session


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = new_parser(__doc__)
    parser.add_argument("data", metavar="DATA", help="the folder of CIFAR-10's batches")
    add_output(parser, "the folder of the runs", required=True)
    parser.add_argument("--seeds", type=seed, nargs="+", default=[0], help="one run for each (0)")
    parser.add_argument(
        "--validation-images", type=int, metavar="N", help="hold out N training images instead of using the test set"
    )
    add_image_size(parser, "at most 32 (the default); with fewer, augmentation.sizes has no effect")
    parser.add_argument("--unofficial", action="store_true", help="accept other data in CIFAR-10's binary form")
    add_model_options(parser, "nasnet_a_cifar_6_at_768", num_cells=6, num_filters=32)
    add_recipe_options(parser, "cifar_paper", [name for name in recipe_names() if name.startswith("cifar")])
    parser.add_argument("--cutout", type=int, metavar="SIDE", help="the side of the square cut out; the paper's is 16")
    parser.add_argument("--minutes", type=amount, help="as many epochs in a run as this device trains in that time")
    add_execution_options(parser)
    return parser.parse_args(argv)


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Train every seed and write the summary; return the exit status."""
    options = parse(argv)

    from nasnet_det.training.session import log_above_bars

    recipe = selected_recipe(options, "cifar")
    if options.cutout is not None:
        recipe = recipe.with_settings([f"augmentation.cutout={options.cutout}"])
    accuracies = {number: train_seed(options, recipe, number) for number in options.seeds}
    summary = summarize(accuracies)
    write_text(options.output / "summary.json", json.dumps(summary, indent=2) + "\n")
    log_above_bars(
        f"mean top-1 {100 * summary['mean']:.2f} % (deviation {100 * summary['std']:.2f}): "
        + ", ".join(f"seed {seed} {100 * value:.2f}" for seed, value in accuracies.items())
    )
    return 0


def train_seed(options: argparse.Namespace, recipe: Recipe, seed: int) -> float:
    """Train or resume the run of a seed; return the last epoch's top-1 accuracy."""
    from nasnet_det.training.session import log_above_bars

    session, batches = make_session(options, recipe, seed)
    log_above_bars(f"{session.describe(batches)}, on {session.execution.describe()}")
    if options.minutes is not None:
        log_above_bars("measuring the time of an epoch")
        session = replace(session, recipe=session.epochs_in(60 * options.minutes, batches))
        batches.epochs = session.recipe.epochs
        log_above_bars(f"{session.recipe.epochs} epochs in {options.minutes:g} minutes")
    history = session.run(batches, log_above_bars, more=seed != options.seeds[-1])
    log_above_bars(f"seed {seed}: top-1 {100 * history[-1].top1:.2f} %; the model is {session.folder / 'model'}")
    return history[-1].top1


def make_session(options: argparse.Namespace, recipe: Recipe, seed: int) -> tuple[Session, CifarBatches]:
    """Return the run of a seed and its images.

    Raises:
        ValueError: for data, a model, a recipe or a device that does not exist or is invalid.
    """
    from nasnet_det.training.data.cifar10 import CLASSES, MEAN, STD
    from nasnet_det.training.data.cifar_batches import CifarAugmentation
    from nasnet_det.training.session import Session

    augmentation = CifarAugmentation.from_mapping(recipe.augmentation)
    one_size = len(set(augmentation.sizes)) == 1
    if options.mode == "graph" and not one_size:
        raise RecipeError("--mode graph needs images of one size; choose eager, or one size in augmentation.sizes")
    execution, choice = selected_execution(options, graphs=one_size), model_choice(options, "cifar")
    batches = make_batches(options, recipe, augmentation, seed, execution.device)
    # timm cannot express whitening per image; run.json records it.
    size = {"input_size": batches.input_size, "crop_pct": 1.0, "interpolation": "bilinear"}
    session = Session(
        options.output / f"seed_{seed}",
        choice,
        recipe,
        execution,
        seed,
        data_config={**size, "mean": MEAN, "std": STD},
        described={"data": "cifar10", "validation_images": options.validation_images},
        pretrained=options.model if options.pretrained else None,
        label_names=() if options.unofficial else CLASSES,
    )
    return session, batches


def make_batches(
    options: argparse.Namespace, recipe: Recipe, augmentation: CifarAugmentation, seed: int, device: torch.device
) -> CifarBatches:
    """Return all 50,000 images for training and the test set for validation, or hold out a part of the former for it.

    Raises:
        DataError, RecipeError: if the images are missing, damaged or too few, or do not fit the recipe.
    """
    from nasnet_det.training.data.cifar10 import SIDE, DataError, split
    from nasnet_det.training.data.cifar_batches import CifarBatches, read_once

    if recipe.aux_weight and set(augmentation.sizes) != {SIDE}:
        raise RecipeError("augmentation.sizes needs aux_weight=0: the auxiliary head is built for images of one size")
    height, width = options.image_size or (SIDE, SIDE)
    if not height == width <= SIDE:
        raise DataError(f"--image-size must be one side of at most {SIDE} pixels, got {height} x {width}")
    data = read_once(options.data, not options.unofficial, height)
    train = validation = None
    if (held_out := options.validation_images) is not None:
        train, validation = split(len(data.train), held_out, len(data.train) - held_out, seed=0)
    return CifarBatches(data, train, validation, recipe.batch_size, augmentation, device, seed, epochs=recipe.epochs)


def summarize(accuracies: dict[int, float]) -> dict[str, Any]:
    """Return the mean and the sample standard deviation of the seeds' accuracies."""
    values = list(accuracies.values())
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return {"metric": "top1", "seeds": accuracies, "mean": statistics.fmean(values), "std": deviation}
