"""Train a network on an ImageNet folder (DATA/train/CLASS/*, DATA/val/CLASS/*).

The paper's recipe for the mobile network, on one GPU and on eight:

    nasnet-det train-imagenet DATA --output runs/mobile --batch-size 128
    torchrun --nproc-per-node 8 --no-python nasnet-det train-imagenet DATA --output runs/mobile

The large network, a modern recipe, and a backbone of a found cell (nasnet-det build-backbone):

    nasnet-det train-imagenet DATA --output runs/large --model nasnet_a_large --recipe imagenet_paper_large
    nasnet-det train-imagenet DATA --output runs/modern --recipe imagenet_modern
    nasnet-det train-imagenet DATA --output runs/mine --model local-dir:my_backbone

--batch-size is summed over all processes and scales the learning rate in proportion. A stopped run is continued by the
same command at the next step. OUTPUT has run.json, checkpoint.pt, metrics.csv, tensorboard/, run.png, and at the end
the trained model (its averaged weights, if the recipe averages) as OUTPUT/model
(timm.create_model("local-dir:OUTPUT/model", pretrained=True)).
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nasnet_det.cli.shared.errors import command
from nasnet_det.cli.shared.options import add_image_size, add_output, new_parser, seed, whole
from nasnet_det.cli.shared.training_options import (
    add_execution_options,
    add_model_options,
    add_recipe_options,
    model_choice,
    selected_execution,
    selected_recipe,
)
from nasnet_det.training.recipe import RecipeError, recipe_names

if TYPE_CHECKING:
    from nasnet_det.training.data.image_folder import FolderBatches
    from nasnet_det.training.session import Session
    from nasnet_det.training.world import World


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = new_parser(__doc__)
    parser.add_argument("data", type=Path, metavar="DATA", help="the ImageNet folder")
    add_output(parser, "the folder of the run", required=True)
    parser.add_argument("--seed", type=seed, default=0, help="of weights, order and augmentation (0)")
    add_image_size(parser)
    parser.add_argument("--workers", type=whole(0), default=4, help="processes that read images, for each GPU (4)")
    add_model_options(parser, "nasnet_a_mobile", num_cells=4, num_filters=44)
    names = [name for name in recipe_names() if name.startswith("imagenet")]
    add_recipe_options(parser, "imagenet_paper_mobile", names)
    add_execution_options(parser)
    return parser.parse_args(argv)


def train(options: argparse.Namespace, world: World) -> int:
    """Train or resume the run."""
    from nasnet_det.training.session import log_above_bars

    session, data = make_session(options, world)
    log = log_above_bars if world.is_main_process else lambda line: None
    where = session.execution.describe() + (f", {world.size} processes" if world.size > 1 else "")
    counts = f"{len(data.train)} + {len(data.validation)} images of {data.num_classes} classes"
    log(f"{session.describe(data)}, {counts}, on {where}")
    last = session.run(data, log)[-1]
    log(f"top-1 {100 * last.top1:.2f} %, top-5 {100 * last.top5:.2f} %; the model is {options.output / 'model'}")
    return 0


def make_session(options: argparse.Namespace, world: World) -> tuple[Session, FolderBatches]:
    """Return the run and this process's share of the images.

    Raises:
        ValueError: for data, a model, a recipe or a device that does not exist or is invalid.
    """
    import torch
    from timm.data import resolve_data_config

    from nasnet_det.training.data.image_folder import FolderBatches, Preprocessing
    from nasnet_det.training.session import Session

    execution = selected_execution(options, f"cuda:{world.local_rank}" if torch.cuda.is_available() else None)
    choice, recipe = model_choice(options, "imagenet"), selected_recipe(options, "imagenet")
    if recipe.batch_size % world.size:
        raise RecipeError(f"batch_size must be a multiple of the {world.size} processes, got {recipe.batch_size}")
    preprocessing = Preprocessing.of(resolve_data_config(pretrained_cfg=choice.data_config()), options.image_size)
    data = FolderBatches(
        options.data,
        preprocessing,
        recipe.augmentation,
        recipe.batch_size // world.size,
        execution.device,
        options.seed,
        options.workers,
        world.rank,
        world.size,
    )
    described = {
        "classes": data.num_classes,
        "training_images": len(data.train),
        "validation_images": len(data.validation),
        "image_size": list(preprocessing.input_size[1:]),
    }
    session = Session(
        options.output,
        choice,
        recipe,
        execution,
        options.seed,
        data_config=preprocessing.to_dict(),
        described={"data": described},
        pretrained=options.model if options.pretrained else None,
        world=world,
        label_names=tuple(data.train.classes),
    )
    return session, data


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return the exit status."""
    options = parse(argv)
    from nasnet_det.training.world import World

    world = World.join()
    try:
        return train(options, world)
    finally:
        world.leave()
