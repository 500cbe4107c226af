"""Export a classifier, its features or a whole detector as ONNX or as a torch.export package.

    nasnet-det export nasnet_a_mobile --pretrained --out mobile.onnx
    nasnet-det export nasnet_a_mobile --pretrained --features --dynamic --out features.onnx
    nasnet-det export hf-hub:OWNER/REPOSITORY --out found.pt2
    nasnet-det export configs/nasnet_frcnn.yaml --weights model_final.pth --size 600 600 --out detector.onnx

The file is read back and run before it takes its place, ONNX in onnxruntime; how far its outputs are from PyTorch's is
printed. A classifier takes normalized images (N, 3, H, W); what to normalize them with is written into the file
(nasnet_det.export.description reads it). A detector takes one image (3, H, W) of 0 to 255 and gives boxes, scores,
classes and how many there are.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import timm

from nasnet_det.cli.errors import command
from nasnet_det.export import Program, classifier_program, feature_program, save_program

SOURCES = ("hf-hub:", "hf_hub:", "local-dir:")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    result.add_argument(
        "model", metavar="MODEL", help="a registered model, local-dir:FOLDER, hf-hub:OWNER/NAME, or a detector's config"
    )
    result.add_argument("--out", type=Path, required=True, metavar="PATH", help="PATH.onnx or PATH.pt2")
    result.add_argument("--pretrained", action="store_true", help="with the model's published weights")
    result.add_argument("--weights", metavar="FILE", help="with these weights, of any readable format")
    result.add_argument(
        "--num-classes", type=int, metavar="N", help="classes of the classifier, if not the model's own"
    )
    result.add_argument("--features", action="store_true", help="the maps by stride instead of logits")
    result.add_argument("--size", type=int, nargs=2, metavar=("H", "W"), help="of images, if not the model's own")
    result.add_argument("--dynamic", action="store_true", help="leave the number and the size of images free")
    result.add_argument("--opts", nargs="+", default=[], metavar="KEY VALUE", help="changes to a detector's config")
    return result


def make_program(arguments: argparse.Namespace) -> Program:
    """What is to be exported.

    Raises:
        ValueError: for what does not go together, or a model that does not exist.
    """
    size = tuple(arguments.size) if arguments.size else None
    if size and min(size) < 1:
        raise ValueError(f"--size is two positive numbers, not {size[0]} {size[1]}")
    if Path(arguments.model).suffix in (".yaml", ".yml"):
        return _detector(arguments, size)
    if arguments.opts:
        raise ValueError("--opts changes a detector's config, and this is a classifier")
    from_folder = arguments.model.startswith(SOURCES)
    if not from_folder and not timm.is_model(arguments.model):
        raise ValueError(f"there is no model {arguments.model}: timm.list_models() names them all")
    options: dict[str, Any] = {"pretrained": arguments.pretrained or from_folder}
    if arguments.weights:
        options.update(pretrained=True, pretrained_cfg_overlay={"file": arguments.weights})
    if arguments.features:
        model = timm.create_model(arguments.model, features_only=True, **options)
        return feature_program(model, size, arguments.dynamic)
    if arguments.num_classes is not None:
        options["num_classes"] = arguments.num_classes
    return classifier_program(timm.create_model(arguments.model, **options), size, arguments.dynamic)


def _detector(arguments: argparse.Namespace, size: Any) -> Program:
    if arguments.features or arguments.dynamic or arguments.num_classes is not None:
        raise ValueError("--features, --dynamic and --num-classes are a classifier's, and this is a detector")
    from nasnet_det.detection.engine.predictor import Predictor, load_config
    from nasnet_det.export.detector import detector_program

    opts = [*arguments.opts, "MODEL.DEVICE", "cpu"]
    cfg = load_config(arguments.model, opts, arguments.weights or "")
    return detector_program(Predictor(cfg).model, cfg, size)


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; 0 if the file is written, 1 if it would give other outputs, 2 for a mistake of the user."""
    arguments = parser().parse_args(argv)
    differences = save_program(make_program(arguments), arguments.out)
    engine = "onnxruntime" if arguments.out.suffix == ".onnx" else "the package, loaded again,"
    for name, difference in differences.items():
        print(f"{name}: {engine} is within {difference:.1e} of PyTorch")
    print(arguments.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
