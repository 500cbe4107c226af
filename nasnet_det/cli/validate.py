"""Measure the top-1 and top-5 accuracy of a network on an ImageNet folder or on CIFAR-10's test images.

The published figures on ImageNet (DATA/val/CLASS/*, DATA/validation/CLASS/* or DATA/CLASS/*), with timm's preprocessing
and with TF-slim's:

    nasnet-det validate DATA --model nasnet_a_large
    nasnet-det validate DATA --model nasnet_a_mobile --preprocessing slim

A network trained here, on ImageNet and on CIFAR-10 (DATA is then a folder filled by nasnet-det prepare-cifar10):

    nasnet-det validate DATA --model local-dir:runs/mobile/model
    nasnet-det validate DATA --model local-dir:runs/cifar/seed_0/model

Classes of an ImageNet folder are matched by name: with a model of ImageNet's 1000 classes they are the synsets
(n01440764, ...), of which the folder may have a subset.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nasnet_det.cli.shared.errors import command
from nasnet_det.cli.shared.models import RUNTIMES, names_package
from nasnet_det.cli.shared.options import add_image_size, new_parser
from nasnet_det.cli.shared.training_options import add_execution_options, selected_execution
from nasnet_det.safe_io.files import check_writable, write_text
from nasnet_det.safe_io.values import one_line

if TYPE_CHECKING:
    from nasnet_det.training.data.image_folder import Preprocessing
    from nasnet_det.training.engine import Evaluation
    from nasnet_det.training.execution import Execution

#: A regular expression that is found at the beginning of a file of --json.
_OWN_FIGURES = rb'\A\{\s*"model": '


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = new_parser(__doc__)
    parser.add_argument(
        "data", type=Path, metavar="DATA", help="the ImageNet folder, or the folder of CIFAR-10's batches"
    )
    parser.add_argument("--model", required=True, help="a timm name, local-dir:FOLDER, or a package (.onnx, .pt2)")
    parser.add_argument("--runtime", choices=RUNTIMES, help="of a package in ONNX (its own)")
    parser.add_argument("--weights", type=Path, metavar="FILE", help="a downloaded file of published weights")
    parser.add_argument("--num-classes", type=int, metavar="N", help="of --weights, if not those of the model's name")
    parser.add_argument(
        "--preprocessing", default="timm", choices=["timm", "slim"], help="of an ImageNet folder (timm)"
    )
    parser.add_argument("--unofficial", action="store_true", help="accept other data in CIFAR-10's binary form")
    add_image_size(parser)
    parser.add_argument("--crop-pct", type=float, help="with timm's preprocessing; default: the model's")
    parser.add_argument("--batch-size", type=int, default=64, help="images at once (64)")
    parser.add_argument("--workers", type=int, default=4, help="processes that read images (4)")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write the figures to this file")
    add_execution_options(parser)
    return parser.parse_args(argv)


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Measure the model and print the result; return the exit status."""
    options = parse(argv)

    import nasnet_det

    if options.json is not None:
        check_writable(options.json, _OWN_FIGURES)
    packaged = is_packaged(options)
    execution, model = selected_execution(options, "cpu" if packaged else None), load_model(options)
    ran_on = f"cpu, {model.info.precision}, {model.info.runtime}" if packaged else execution.describe()
    preprocessing = preprocessing_of(options, model)
    began = time.monotonic()
    found = evaluate_model(options, model, preprocessing, execution)
    seconds = time.monotonic() - began
    size = "x".join(map(str, preprocessing.input_size[1:]))
    print(
        f"{options.model} at {size}, {options.preprocessing} preprocessing, {found.images} images: "
        f"top-1 {100 * found.top1:.3f} %, top-5 {100 * found.top5:.3f} %, loss {found.loss:.4f}, "
        f"{found.images / seconds:.1f} images/s on {ran_on}"
    )
    if options.json is not None:
        figures = {"model": options.model, "preprocessing": options.preprocessing, "image_size": size, **asdict(found)}
        write_text(options.json, json.dumps({**figures, "version": nasnet_det.__version__}, indent=2) + "\n")
    return 0


def is_packaged(options: argparse.Namespace) -> bool:
    """Return whether the model is a package (see ``nasnet-det package``).

    Raises:
        ValueError: for weights or an execution with a package, which has its own, or a runtime with anything else.
    """
    given = (options.weights, options.num_classes, options.channels_last)
    others = any(value is not None for value in given) or options.deterministic or options.device not in (None, "cpu")
    others = others or (options.precision, options.mode) != ("auto", "auto")
    return names_package(options.model, options.runtime, others)


def load_model(options: argparse.Namespace) -> Any:
    """Return the model with its pretrained weights, or a package.

    Raises:
        ModelError: if the model does not exist, or its weights are not available or have other classes.
    """
    import timm

    from nasnet_det.training.models import ModelChoice, ModelError

    classes = options.num_classes
    if is_packaged(options):
        from nasnet_det.export import load_package

        return load_package(options.model, options.runtime)
    ModelChoice.named(options.model)
    try:
        given: dict[str, Any] = {} if classes is None else {"num_classes": classes}
        overlay = {"file": str(options.weights), **given} if options.weights else None
        model: Any = timm.create_model(options.model, pretrained=True, pretrained_cfg_overlay=overlay, **given)
    except (RuntimeError, OSError, ValueError) as error:
        raise ModelError(f"the weights of {options.model} are not available: {one_line(error)}") from None
    if given and (stored := model.pretrained_cfg["num_classes"]) != classes:  # its classifier would be a random one
        raise ModelError(f"{options.weights or options.model} has {stored} classes, not --num-classes {classes}")
    return model


def preprocessing_of(options: argparse.Namespace, model: Any) -> Preprocessing:
    """Return the model's preprocessing with the options' image size and crop."""
    from timm.data import resolve_data_config

    from nasnet_det.training.data.image_folder import Preprocessing

    preprocessing = Preprocessing.of(resolve_data_config(pretrained_cfg=model.pretrained_cfg), options.image_size)
    return preprocessing if options.crop_pct is None else preprocessing.with_crop(options.crop_pct)


def evaluate_model(
    options: argparse.Namespace, model: Any, preprocessing: Preprocessing, execution: Execution
) -> Evaluation:
    """Evaluate the model on CIFAR-10's test images if the folder has them, else on an ImageNet folder."""
    from tqdm import tqdm

    from nasnet_det.training.data.cifar10 import is_cifar10
    from nasnet_det.training.validation import label_names, validate, validate_cifar10

    with tqdm(unit="image", disable=None) as bar:
        progress: Callable[[int], object] = bar.update
        if is_cifar10(options.data):
            official = not options.unofficial
            return validate_cifar10(
                model, options.data, preprocessing, execution, options.batch_size, progress, official
            )
        return validate(
            model,
            options.data,
            preprocessing,
            execution,
            label_names(model.pretrained_cfg, model.num_classes),
            options.preprocessing == "slim",
            options.batch_size,
            options.workers,
            progress,
        )
