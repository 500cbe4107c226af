"""Train a network on an ImageNet folder (DATA/train/CLASS/*, DATA/val/CLASS/*).

The paper's recipe for the mobile network, on one GPU and on eight::

    nasnet-det train-imagenet DATA --out runs/mobile --batch-size 128
    torchrun --nproc-per-node 8 --no-python nasnet-det train-imagenet DATA --out runs/mobile

The large network, a modern recipe, and a backbone made of a found cell (nasnet-det build-backbone)::

    nasnet-det train-imagenet DATA --out runs/large --model nasnet_a_large --recipe imagenet_paper_large
    nasnet-det train-imagenet DATA --out runs/modern --recipe imagenet_modern
    nasnet-det train-imagenet DATA --out runs/mine --model local-dir:my_backbone

--batch-size is over all processes and scales the learning rate in proportion. Stop it at any time; the same command
continues at the very step. OUT holds run.json, checkpoint.pt, metrics.csv, tensorboard/, run.png, and at the end the
trained model, its weights averaged if the recipe says so, as OUT/model
(timm.create_model("local-dir:OUT/model", pretrained=True)).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from timm.data import resolve_data_config

from nasnet_det.cli.errors import command
from nasnet_det.training.command import (
    add_execution_options,
    add_model_options,
    add_recipe_options,
    execution_asked,
    model_choice,
    recipe_asked,
)
from nasnet_det.training.data.cifar10 import DataError
from nasnet_det.training.data.image_folder import FolderBatches, Preprocessing
from nasnet_det.training.recipe import Recipe, recipe_names
from nasnet_det.training.session import Session, say_beside_bars
from nasnet_det.training.world import World


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, metavar="DATA", help="the ImageNet folder")
    parser.add_argument("--out", type=Path, required=True, help="the folder of the run")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--image-size", type=int, help="side of the square input (default: the model's)")
    parser.add_argument("--workers", type=int, default=4, help="processes that read images, for each GPU (4)")
    add_model_options(parser, "nasnet_a_mobile", num_cells=4, num_filters=44)
    names = [name for name in recipe_names() if name.startswith("imagenet")]
    add_recipe_options(parser, "imagenet_paper_mobile", names)
    add_execution_options(parser)
    return parser.parse_args(argv)


def train(options: argparse.Namespace, world: World) -> int:
    """Train, or take up, one run."""
    execution = execution_asked(options, f"cuda:{world.local_rank}" if torch.cuda.is_available() else None)
    choice, recipe = model_choice(options, "imagenet"), recipe_asked(options, "imagenet")
    preprocessing = Preprocessing.of(resolve_data_config(pretrained_cfg=choice.data_config()), options.image_size)
    data = batches_of(options, recipe, preprocessing, execution.device, world)
    images = {"training_images": len(data.train), "validation_images": len(data.validation)}
    described = {"classes": data.num_classes, **images, "image_size": preprocessing.input_size[-1]}
    session = Session(
        options.out,
        choice,
        recipe,
        execution,
        options.seed,
        preprocessing.to_dict(),
        {"data": described},
        pretrained=options.model if options.pretrained else None,
        world=world,
        label_names=tuple(data.train.classes),
    )
    log = say_beside_bars if world.is_main_process else lambda line: None
    where = execution.describe() + (f", {world.size} processes" if world.size > 1 else "")
    counts = f"{len(data.train)} + {len(data.validation)} images of {data.num_classes} classes"
    log(f"{choice.architecture}, {recipe.name}, {counts}, on {where}")
    last = session.run(data, log)[-1]
    log(f"top-1 {100 * last.top1:.2f} %, top-5 {100 * last.top5:.2f} %; the model is {options.out / 'model'}")
    return 0


def batches_of(
    options: argparse.Namespace, recipe: Recipe, preprocessing: Preprocessing, device: torch.device, world: World
) -> FolderBatches:
    """This process's share of the images."""
    if recipe.batch_size % world.size:
        raise DataError(f"a batch of {recipe.batch_size} cannot be shared by {world.size} processes")
    return FolderBatches(
        options.data,
        preprocessing,
        recipe.augmentation,
        recipe.batch_size // world.size,
        device,
        options.seed,
        options.workers,
        world.rank,
        world.size,
    )


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    options = parse(argv)
    world = World.join()
    try:
        return train(options, world)
    finally:
        world.leave()


if __name__ == "__main__":
    sys.exit(main())
