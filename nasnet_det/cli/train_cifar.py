"""Train a network on CIFAR-10, once for each seed, and give the mean of their test accuracies.

The paper's recipe, and with cutout as its best result::

    nasnet-det train-cifar DATA --out runs/nasnet_a
    nasnet-det train-cifar DATA --out runs/nasnet_a_cutout --cutout 16 --seeds 0 1 2 3 4

A found cell, and what one GPU does in ten minutes (the epochs are fitted to the time)::

    nasnet-det train-cifar DATA --out runs/mine --genotype my_cell.json --num-cells 6 --num-filters 32
    nasnet-det train-cifar DATA --out runs/quick --recipe cifar_quick --minutes 8

DATA is what nasnet-det prepare-cifar10 filled. Stop it at any time; the same command continues. OUT/seed_S holds a run:
run.json, checkpoint.pt, metrics.csv, tensorboard/, run.png, and the trained model as OUT/seed_S/model
(timm.create_model("local-dir:OUT/seed_S/model", pretrained=True)). OUT/summary.json holds the mean.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from nasnet_det.cli.errors import command
from nasnet_det.safe_io.files import write_text
from nasnet_det.training.command import (
    add_execution_options,
    add_model_options,
    add_recipe_options,
    execution_asked,
    model_choice,
    recipe_asked,
)
from nasnet_det.training.data.cifar10 import MEAN, SIDE, STD, split
from nasnet_det.training.data.cifar_batches import CifarAugmentation, CifarBatches, read_once
from nasnet_det.training.execution import Execution
from nasnet_det.training.models import ModelChoice
from nasnet_det.training.recipe import Recipe, RecipeError
from nasnet_det.training.session import Session, say_beside_bars

#: timm's description of the trained model's input. Whitening per image is beyond it: such models say so in their run.
DATA_CONFIG = {"input_size": (3, SIDE, SIDE), "mean": MEAN, "std": STD, "crop_pct": 1.0, "interpolation": "bilinear"}


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", metavar="DATA", help="the folder of CIFAR-10's batches")
    parser.add_argument("--out", type=Path, required=True, help="the folder of the runs")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="one run for each (0)")
    parser.add_argument(
        "--validation-images", type=int, metavar="N", help="hold out N training images, not the test set"
    )
    parser.add_argument("--unofficial", action="store_true", help="take data in CIFAR-10's form with other MD5 sums")
    add_model_options(parser, "nasnet_a_cifar_6_at_768", num_cells=6, num_filters=32)
    add_recipe_options(parser, "cifar_paper", ["cifar_paper", "cifar_quick", "cifar_small"])
    parser.add_argument("--cutout", type=int, metavar="SIDE", help="the side of the square cut out; the paper's is 16")
    parser.add_argument("--minutes", type=float, help="as many epochs a run as this device can do in that time")
    add_execution_options(parser)
    return parser.parse_args(argv)


def train(options: argparse.Namespace) -> int:
    """Train every seed, then summarize."""
    execution, choice = execution_asked(options), model_choice(options, "cifar")
    recipe = recipe_asked(options, "cifar")
    if options.cutout is not None:
        recipe = recipe.with_settings([f"augmentation.cutout={options.cutout}"])
    say_beside_bars(f"{choice.architecture}, {recipe.name}, on {execution.describe()}")
    accuracies = {}
    for seed in options.seeds:
        accuracies[seed] = train_seed(options, seed, choice, recipe, execution)
    summary = summarize(accuracies)
    write_text(options.out / "summary.json", json.dumps(summary, indent=2) + "\n")
    say_beside_bars(
        f"top-1 {100 * summary['mean']:.2f} % (deviation {100 * summary['std']:.2f}) over {len(accuracies)} runs: "
        + ", ".join(f"seed {seed} {100 * value:.2f}" for seed, value in accuracies.items())
    )
    return 0


def train_seed(
    options: argparse.Namespace, seed: int, choice: ModelChoice, recipe: Recipe, execution: Execution
) -> float:
    """Train one seed, or take it up; gives the last epoch's top-1 accuracy."""
    batches = batches_of(options, recipe, execution, seed)
    folder = options.out / f"seed_{seed}"
    described = {"data": "cifar10", "validation_images": options.validation_images}
    session = Session(folder, choice, recipe, execution, seed, DATA_CONFIG, described)
    if options.pretrained:
        session = replace(session, pretrained=options.model)
    if options.minutes is not None:
        session = replace(session, recipe=session.epochs_in(60 * options.minutes, batches))
        batches.epochs = session.recipe.epochs
        say_beside_bars(f"{session.recipe.epochs} epochs in {options.minutes:g} minutes")
    history = session.run(batches, say_beside_bars)
    say_beside_bars(f"seed {seed}: top-1 {100 * history[-1].top1:.2f} %; the model is {folder / 'model'}")
    return history[-1].top1


def batches_of(options: argparse.Namespace, recipe: Recipe, execution: Execution, seed: int) -> CifarBatches:
    """The images of one run: all 50,000 to train and the test set to measure on, or a part held out."""
    data = read_once(options.data, not options.unofficial)
    train_images = validation = None
    if options.validation_images is not None:
        number = len(data.train)
        held_out = options.validation_images
        train_images, validation = split(number, held_out, number - held_out, seed=0)
    augmentation = CifarAugmentation.from_mapping(recipe.augmentation)
    if recipe.aux_weight and set(augmentation.sizes) != {SIDE}:
        raise RecipeError("augmentation.sizes needs aux_weight=0: the auxiliary head is built for images of one size")
    return CifarBatches(
        data,
        train_images,
        validation,
        recipe.batch_size,
        augmentation,
        execution.device,
        seed,
        epochs=recipe.epochs,
    )


def summarize(accuracies: dict[int, float]) -> dict[str, Any]:
    """Mean and sample deviation of the seeds' accuracies."""
    values = list(accuracies.values())
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return {"metric": "top1", "seeds": accuracies, "mean": statistics.fmean(values), "std": deviation}


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    return train(parse(argv))


if __name__ == "__main__":
    sys.exit(main())
