"""Export a classifier, its features or a whole detector as ONNX or as a torch.export program.

    nasnet-det export-model nasnet_a_mobile --pretrained --output mobile.onnx
    nasnet-det export-model nasnet_a_mobile --pretrained --features --dynamic --output features.onnx
    nasnet-det export-model hf-hub:OWNER/REPOSITORY --output found.pt2
    nasnet-det export-model configs/nasnet_frcnn.yaml --weights model_final.pth --output detector.onnx

The file is read back and run before it replaces an existing one, ONNX in ONNX Runtime; the difference of its outputs
from PyTorch's is printed. A classifier takes normalized images (N, 3, H, W); their mean and standard deviation are in
the file (nasnet_det.export.description reads it). A detector takes images (N, 3, H, W) of 0 to 255, of any number and
size, and returns boxes, scores, classes and the number of detections. nasnet-det package makes files for the fastest
runtime.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nasnet_det.cli.shared.errors import command, needs
from nasnet_det.cli.shared.options import add_image_size, add_output, new_parser

if TYPE_CHECKING:
    from nasnet_det.export import Program

SOURCES = ("hf-hub:", "hf_hub:", "local-dir:")


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that say what is exported; :func:`make_program` reads them."""
    parser.add_argument(
        "model",
        metavar="MODEL",
        help="a timm name, local-dir:FOLDER, hf-hub:OWNER/NAME, or a detector: a config, a run folder or a checkpoint",
    )
    parser.add_argument("--pretrained", action="store_true", help="with the model's published weights")
    parser.add_argument("--weights", metavar="FILE", help="with these weights, of any readable format")
    parser.add_argument("--num-classes", type=int, metavar="N", help="of the classifier (default: the model's own)")
    parser.add_argument("--features", action="store_true", help="the maps of every stride instead of logits")
    add_image_size(parser)
    parser.add_argument("--dynamic", action="store_true", help="leave the number and the size of images free")
    parser.add_argument("--opts", nargs="+", default=[], metavar="KEY VALUE", help="changes of a detector's config")


def make_program(options: argparse.Namespace, batch_size: int = 1, any_batch: bool = False) -> Program:
    """Build the model and return its program.

    Args:
        options: of :func:`add_model_options`.
        batch_size: images of the example.
        any_batch: leave the number of images free.

    Raises:
        ValueError: for options that do not go together, or a model that does not exist.
    """
    import timm

    from nasnet_det.export import classifier_program, feature_program
    from nasnet_det.export.package_files import is_package
    from nasnet_det.training.models import ModelChoice, ModelError

    if is_detector(options.model):
        return _detector(options)
    if is_package(Path(options.model)):
        raise ValueError(f"{options.model} is an exported model: give the model, run folder or config it was made from")
    if options.opts:
        raise ValueError("--opts changes a detector's config, and this is a classifier")
    if Path(options.model).is_dir() and not timm.is_model(options.model):
        raise ValueError(
            f"{options.model} is not a detector's run folder (it has no config.yaml): give its checkpoint, or "
            "local-dir:FOLDER for a classifier"
        )
    ModelChoice.named(options.model)
    arguments: dict[str, Any] = {"pretrained": options.pretrained or options.model.startswith(SOURCES)}
    if options.weights:
        arguments.update(pretrained=True, pretrained_cfg_overlay={"file": options.weights})
    if options.features:
        arguments["features_only"] = True
    elif options.num_classes is not None:
        arguments["num_classes"] = options.num_classes
    try:
        model = timm.create_model(options.model, **arguments)
    except (RuntimeError, ValueError) as error:
        raise ModelError(f"building {options.model} failed: {error}") from None
    if not arguments["pretrained"]:
        print("random weights: give --pretrained or --weights for others", file=sys.stderr)
    program = feature_program if options.features else classifier_program
    return program(model, options.image_size, options.dynamic or ([0] if any_batch else False), batch_size)


def is_detector(model: str) -> bool:
    """Return whether a model's name is that of a detector's config, run folder or checkpoint."""
    return Path(model).suffix in (".yaml", ".yml", ".pth", ".safetensors") or (Path(model) / "config.yaml").is_file()


def _detector(options: argparse.Namespace) -> Program:
    if options.features or options.num_classes is not None:
        raise ValueError("--features and --num-classes are for classifiers, and this is a detector")
    with needs():
        from nasnet_det.detection.engine.predictor import Predictor, load_config
        from nasnet_det.export.detector import detector_program

    cfg = load_config(options.model, [*options.opts, "MODEL.DEVICE", "cpu"], options.weights or "")
    predictor = Predictor(cfg)
    return detector_program(predictor.model, cfg, options.image_size, categories=predictor.categories)


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return 0 if the file is written, 1 if its outputs would differ, 2 for a mistake in the input."""
    parser = new_parser(__doc__)
    add_model_options(parser)
    add_output(parser, "PATH.onnx or PATH.pt2", required=True)
    options = parser.parse_args(argv)
    from nasnet_det.export.programs import check_format, save_program

    check_format(options.output)
    for name, difference in save_program(make_program(options), options.output).items():
        print(f"{name}: within {difference:.1e} of PyTorch")
    print(options.output)
    return 0
