"""Top-1 and top-5 of a network on an ImageNet folder (DATA/val/CLASS/*, DATA/validation/CLASS/* or DATA/CLASS/*).

The published figures, with timm's preprocessing and with TF-slim's::

    nasnet-det validate DATA --model nasnet_a_large
    nasnet-det validate DATA --model nasnet_a_mobile --preprocessing slim

What was trained here::

    nasnet-det validate DATA --model local-dir:runs/mobile/model

The classes are matched by the folders' names: with a model of ImageNet's 1000 classes these are the synsets (n01440764,
...), and a folder of some of them will do.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import timm
from timm.data import resolve_data_config
from tqdm import tqdm

import nasnet_det
from nasnet_det.cli.errors import command
from nasnet_det.safe_io.files import write_text
from nasnet_det.training.command import add_execution_options, execution_asked
from nasnet_det.training.data.image_folder import Preprocessing
from nasnet_det.training.models import ModelChoice, ModelError
from nasnet_det.training.validation import label_names, validate, with_image_size


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, metavar="DATA", help="the ImageNet folder")
    parser.add_argument("--model", required=True, help="a timm name, or local-dir:FOLDER")
    parser.add_argument("--weights", type=Path, metavar="FILE", help="published weights, fetched before")
    parser.add_argument("--preprocessing", default="timm", choices=["timm", "slim"], help="(timm)")
    parser.add_argument("--image-size", type=int, help="default: the model's")
    parser.add_argument("--crop-pct", type=float, help="with timm's preprocessing; default: the model's")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--workers", type=int, default=4, help="processes that read images (4)")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write the figures there")
    add_execution_options(parser)
    return parser.parse_args(argv)


def measure(options: argparse.Namespace) -> int:
    """Measure the model and print what was found."""
    execution = execution_asked(options)
    choice = ModelChoice.named(options.model)
    try:
        overlay: dict[str, Any] = {"pretrained_cfg_overlay": {"file": str(options.weights)}} if options.weights else {}
        model: Any = timm.create_model(options.model, pretrained=True, **overlay)
    except (RuntimeError, OSError, ValueError) as error:
        raise ModelError(f"the weights of {options.model} cannot be had: {error}") from None
    config = model.pretrained_cfg
    preprocessing = Preprocessing.of(resolve_data_config(pretrained_cfg=config))
    preprocessing = with_image_size(preprocessing, options.image_size, options.crop_pct)
    names = label_names(config, model.num_classes)
    began = time.monotonic()
    with tqdm(unit="image", disable=None) as bar:
        found = validate(
            model,
            options.data,
            preprocessing,
            execution,
            names,
            options.preprocessing == "slim",
            options.batch_size,
            options.workers,
            bar.update,
        )
    seconds = time.monotonic() - began
    size = preprocessing.input_size[-1]
    print(
        f"{choice.architecture} at {size}, {options.preprocessing} preprocessing, {found.images} images: "
        f"top-1 {100 * found.top1:.3f} %, top-5 {100 * found.top5:.3f} %, loss {found.loss:.4f}, "
        f"{found.images / seconds:.1f} images/s on {execution.describe()}"
    )
    if options.json is not None:
        figures = {"model": options.model, "preprocessing": options.preprocessing, "image_size": size, **asdict(found)}
        write_text(options.json, json.dumps({**figures, "version": nasnet_det.__version__}, indent=2) + "\n")
    return 0


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    return measure(parse(argv))


if __name__ == "__main__":
    sys.exit(main())
