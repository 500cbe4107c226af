"""Turn a finished CIFAR-10 run into weights of the package, and keep its records::

    python benchmarks/package_trained.py runs/cifar_small/seed_0 datasets/cifar10 --name nasnet_a_cifar_1_at_576

The test accuracy is measured in float32 and with weights rounded to float16. The package gets float16 weights if both
give the same number of correct answers to within 1, else float32 (nasnet_det/weights/trained/NAME.safetensors), and a
test image for the example of README (ship.png, the second of the test set). run.json, metrics.csv, run.png and the
figures are kept in benchmarks/results/cifar_small. Below --least, nothing is written. The model's row in
nasnet_det/models/family.py is added by hand.
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


def rounded(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return a state dict with its floating-point tensors in float16."""
    return {name: value.half() if value.is_floating_point() else value for name, value in state.items()}


def measure(run: Path, state: Mapping[str, torch.Tensor], data: Path) -> Evaluation:
    """Return the test accuracy of a run's network with the given weights."""
    model = timm.create_model(f"local-dir:{run / 'model'}", pretrained=False)
    model.load_state_dict(state)
    preprocessing = Preprocessing.of(resolve_data_config(pretrained_cfg=model.pretrained_cfg))
    return validate_cifar10(model, data, preprocessing, choose_execution("cpu"), batch_size=250)


def package(options: argparse.Namespace) -> int:
    """Measure, then write the weights and the records.

    Raises:
        TooLow: if the accuracy is below ``--least`` or the file above 4 MB.
    """
    state = load_file(options.run / "model" / "model.safetensors")
    half = rounded(state)
    whole, short = measure(options.run, state, options.data), measure(options.run, half, options.data)
    equal = abs(whole.top1 - short.top1) <= 1 / short.images
    kept, found = (half, short) if equal else (state, whole)
    content = save(dict(kept))
    if found.top1 < options.least or len(content) > LARGEST:
        raise TooLow(
            f"expected a top-1 of {options.least:.1%} in {LARGEST} bytes, got {found.top1:.2%}, {len(content)}"
        )
    options.weights.mkdir(parents=True, exist_ok=True)
    with replacing(options.weights / f"{options.name}.safetensors") as part:
        part.write_bytes(content)
    with replacing(options.weights / PICTURE_NAME) as part:
        Image.fromarray(load_cifar10(options.data).test.pictures[PICTURE].transpose(1, 2, 0)).save(part, "PNG")
    options.results.mkdir(parents=True, exist_ok=True)
    for record in RECORDS:
        shutil.copy(options.run / record, options.results / record)
    figures = {
        "model": options.name,
        "dtype": "float16" if equal else "float32",
        "bytes": len(content),
        "float32": asdict(whole),
        "float16": asdict(short),
    }
    write_text(options.results / "test.json", json.dumps(figures, indent=2) + "\n")
    print(f"{options.name}: top-1 {found.top1:.2%} of {found.images} test images, {len(content)} bytes")
    return 0


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return the exit status."""
    return package(parse(argv))


if __name__ == "__main__":
    sys.exit(main())
