"""Turn a finished CIFAR-10 run into weights of the package, and keep its records::

    python benchmarks/package_trained.py runs/cifar_small/seed_0 datasets/cifar10 --name nasnet_a_cifar_1_at_576

The package gets the weights (nasnet_det/weights/trained/NAME.safetensors) in the first of these forms that is at most
4 MB: float16 if it gives the same number of correct answers as float32 to within 1, float32, int8. The test accuracy of
that form and of float32 is measured. The package also gets a test image for the example of README (ship.png, the second
of the test set). run.json, metrics.csv, run.png and the figures are kept in --results. Below --least, nothing is
written. The model's row in nasnet_det/models/family.csv is edited by hand.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import timm
import torch
from PIL import Image
from safetensors.torch import load_file, save
from timm.data import resolve_data_config

from nasnet_det.cli.shared.errors import command
from nasnet_det.cli.shared.options import new_parser
from nasnet_det.safe_io.files import replacing, write_text
from nasnet_det.training.data.cifar10 import load_cifar10
from nasnet_det.training.data.image_folder import Preprocessing
from nasnet_det.training.engine import Evaluation
from nasnet_det.training.execution import choose_execution
from nasnet_det.training.validation import validate_cifar10
from nasnet_det.weights.formats.native import to_int8
from nasnet_det.weights.timm_hooks import checkpoint_filter
from nasnet_det.weights.trained import FOLDER

RESULTS = Path(__file__).parent / "results" / "cifar_small"
RECORDS = ("run.json", "metrics.csv", "run.png")
LARGEST = 4_000_000
#: The test image that README classifies, and the name of its file.
PICTURE, PICTURE_NAME = 1, "ship.png"


class TooLow(ValueError):
    """A run whose test accuracy is below the required one, or whose weights are too large for the package."""


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = new_parser(__doc__)
    parser.add_argument("run", type=Path, metavar="RUN", help="the folder of a seed, with model/ in it")
    parser.add_argument("data", type=Path, metavar="DATA", help="the folder of CIFAR-10's batches")
    parser.add_argument("--name", required=True, help="the model's name in the family")
    parser.add_argument("--least", type=float, default=0.9, help="the required test accuracy, 0 to 1 (0.9)")
    parser.add_argument("--weights", type=Path, default=FOLDER, help="the folder of the packaged weights")
    parser.add_argument("--results", type=Path, default=RESULTS, help="the folder of the records")
    return parser.parse_args(argv)


def forms(state: Mapping[str, torch.Tensor]) -> dict[str, dict[str, torch.Tensor]]:
    """Return the forms of a state dict that may be packaged, the preferred first."""
    half = {name: value.half() if value.is_floating_point() else value for name, value in state.items()}
    return {"float16": half, "float32": dict(state), "int8": to_int8(state)}


def measure(run: Path, state: Mapping[str, torch.Tensor], data: Path) -> Evaluation:
    """Return the test accuracy of a run's network with the given weights."""
    model = timm.create_model(f"local-dir:{run / 'model'}", pretrained=False)
    model.load_state_dict(checkpoint_filter(state, model))
    preprocessing = Preprocessing.of(resolve_data_config(pretrained_cfg=model.pretrained_cfg))
    return validate_cifar10(model, data, preprocessing, choose_execution("cpu"), batch_size=250)


def choose(options: argparse.Namespace) -> tuple[str, bytes, dict[str, Evaluation]]:
    """Return the form to package, its file's content, and the accuracies measured on the way.

    Raises:
        TooLow: if its accuracy is below ``--least``, or if every form is above 4 MB.
    """
    state = load_file(options.run / "model" / "model.safetensors")
    found = {"float32": measure(options.run, state, options.data)}
    for form, tensors in forms(state).items():
        content = save(tensors)
        if len(content) > LARGEST:
            continue
        if form not in found:
            found[form] = measure(options.run, tensors, options.data)
        lost = abs(found[form].top1 - found["float32"].top1) * found[form].images
        if form == "float16" and round(lost) > 1:
            continue
        if found[form].top1 < options.least:
            raise TooLow(f"expected a top-1 of at least {options.least:.1%}, got {found[form].top1:.2%} in {form}")
        return form, content, found
    raise TooLow(f"expected weights of at most {LARGEST} bytes, got {len(content)} in the smallest form")


def package(options: argparse.Namespace) -> int:
    """Measure, then write the weights and the records."""
    form, content, found = choose(options)
    options.weights.mkdir(parents=True, exist_ok=True)
    with replacing(options.weights / f"{options.name}.safetensors") as part:
        part.write_bytes(content)
    with replacing(options.weights / PICTURE_NAME) as part:
        Image.fromarray(load_cifar10(options.data).test.pictures[PICTURE].transpose(1, 2, 0)).save(part, "PNG")
    options.results.mkdir(parents=True, exist_ok=True)
    for record in RECORDS:
        shutil.copy(options.run / record, options.results / record)
    measured = {name: asdict(evaluation) for name, evaluation in found.items()}
    figures = {"model": options.name, "dtype": form, "bytes": len(content), **measured}
    write_text(options.results / "test.json", json.dumps(figures, indent=2) + "\n")
    print(
        f"{options.name}: top-1 {found[form].top1:.2%} of {found[form].images} images, {len(content)} bytes in {form}"
    )
    return 0


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return the exit status."""
    return package(parse(argv))


if __name__ == "__main__":
    sys.exit(main())
