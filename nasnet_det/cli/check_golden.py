"""Compare this package's networks with recorded outputs of the original implementations.

    nasnet-det check-golden FOLDER...

Each folder has a checkpoint in its original format, an input and the outputs of the original implementation; its
meta.json tells which network it is. Prints a line per tensor with its relative error (norm of the difference over norm
of the reference). Training folders (train_*, tfod_train_*) compare losses, gradients and updated weights. Exits with 0
if all are within their bounds, 1 if any is not, 2 for an invalid folder.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nasnet_det.cli.shared.errors import command
from nasnet_det.cli.shared.options import new_parser

if TYPE_CHECKING:
    from nasnet_det.golden.comparison import Comparison


def compare(folder: Path) -> Iterator[Comparison]:
    """Compare one folder of any kind.

    Raises:
        GoldenError, WeightsError: for an incomplete, damaged or unknown folder.
    """
    from nasnet_det.golden.classifier import compare_classifier, is_classifier
    from nasnet_det.golden.comparison import GoldenError, read_meta

    meta = read_meta(folder)
    if meta.get("kind") == "training":
        from nasnet_det.golden.training import compare_training

        return compare_training(folder, meta)
    if meta.get("kind") == "detector training":
        from nasnet_det.golden.detector_training import compare_detector_training

        return compare_detector_training(folder, meta)
    if is_classifier(meta):
        return compare_classifier(folder, meta)
    if (folder / "pipeline.pbtxt").is_file():
        from nasnet_det.golden.detector import compare_detector

        return compare_detector(folder, meta)
    raise GoldenError(
        f"{folder / 'meta.json'}: neither a classifier's (hparams or arguments) nor a detector's (pipeline.pbtxt "
        "beside it)"
    )


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return the exit status."""
    parser = new_parser(__doc__)
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER")
    options = parser.parse_args(argv)
    compared, exceeded = 0, 0
    for folder in options.folders:
        for result in compare(folder):
            compared += 1
            exceeded += not result.passed
            print(f"{folder.name:<28} {result.name:<24} {result.error:9.2e}  {_verdict(result)}", flush=True)
    print(f"{compared} tensors of {len(options.folders)} folders compared, {exceeded} beyond their bounds")
    return 1 if exceeded else 0


def _verdict(result: Comparison) -> str:
    if result.bound is None:
        return result.note
    return f"{'within' if result.passed else 'BEYOND'} {result.bound:g}" + (f"  ({result.note})" if result.note else "")
