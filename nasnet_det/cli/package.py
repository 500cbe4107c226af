"""Package a classifier, its features or a detector for the fastest runtime on this machine.

    nasnet-det package nasnet_a_mobile --pretrained --output mobile
    nasnet-det package nasnet_a_large --weights NASNet-large.h5 --runtime openvino --output large
    nasnet-det package local-dir:runs/found/model --runtime inductor --batch-size 8 --any-batch --output found
    nasnet-det package nasnet_a_mobile --pretrained --precision int8 --calibrate pictures/ --output mobile_int8
    nasnet-det package my_run/ --runtime openvino --output detector
    nasnet-det package my_run/ --precision int8 --calibrate pictures/ --output detector_int8
    nasnet-det package --show mobile.onnx

The runtimes are inductor (compiled ahead of time by PyTorch; takes minutes), onnxruntime and openvino. auto tries those
that are installed for a few seconds each and keeps the fastest. The file's suffix follows from the runtime: .pt2 for
inductor, .onnx for the others. In a program: nasnet_det.export.load_package("mobile.onnx")(images), images (N, 3, H, W)
as the network takes them. A .pt2 package holds native code for this PyTorch release and kind of machine: load only what
you trust. nasnet-det predict and validate take packages.
"""

from __future__ import annotations

import argparse
import functools
import sys
import time
from collections.abc import Callable, Sequence
from itertools import starmap
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nasnet_det.cli.export_model import add_model_options, is_detector, make_program
from nasnet_det.cli.shared.errors import command
from nasnet_det.cli.shared.options import add_output, new_parser

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    from nasnet_det.export import Program

#: The most pictures to calibrate on and to compare.
MOST_PICTURES = 64


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = new_parser(__doc__)
    add_model_options(parser)
    add_output(parser, "the package (default: the model's name)")
    parser.add_argument("--show", action="store_true", help="print what the package MODEL is for; nothing of it is run")
    parser.add_argument("--runtime", choices=["auto", "inductor", "onnxruntime", "openvino"], default="auto")
    parser.add_argument(
        "--precision", choices=["float32", "bfloat16", "float16", "int8"], default="float32", help="(float32)"
    )
    parser.add_argument("--calibrate", type=Path, metavar="FOLDER", help="pictures for int8 and for the comparison")
    parser.add_argument(
        "--batch-size", type=int, default=1, help="images at once (1); other numbers run in such batches"
    )
    parser.add_argument("--any-batch", action="store_true", help="any number of images, tuned for --batch-size of them")
    return parser.parse_args(argv)


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return 0 if the package is written, 1 if its outputs would differ, 2 for a mistake."""
    options = parse(argv)
    if options.show:
        from nasnet_det.export import read_info

        print(read_info(options.model))
        return 0
    check(options)
    package(options)
    return 0


def check(options: argparse.Namespace) -> None:
    """Refuse what does not go together before the model is built.

    Raises:
        PackageError: naming the option and what to give.
    """
    from nasnet_det.export import PackageError
    from nasnet_det.export.runtime_support import check_runtime

    detector = is_detector(options.model)
    check_runtime(options.runtime, options.precision, detector)
    if options.batch_size < 1:
        raise PackageError(f"--batch-size must be at least 1, got {options.batch_size}")
    if options.precision == "int8" and options.calibrate is None:
        raise PackageError("--precision int8 needs --calibrate FOLDER: pictures like those that the model will see")
    if options.calibrate is not None and not options.calibrate.is_dir():
        raise PackageError(f"--calibrate takes a folder of pictures, and {options.calibrate} is not a folder")


def package(options: argparse.Namespace) -> None:
    """Make the package and compare it with the network it was made from."""
    import torch

    from nasnet_det.export import load_package, save_package
    from nasnet_det.export.runtimes import shortest

    program = make_program(options, options.batch_size, options.any_batch)
    pictures = read_pictures(options.calibrate, program) if options.calibrate else []
    target = options.output or Path(options.model.rpartition(":")[2]).resolve().stem  # of the folder "." as well
    say = functools.partial(print, flush=True)
    say("packaging; detectors and inductor take minutes")
    began = time.perf_counter()
    saved = save_package(program, target, options.runtime, options.precision, pictures, say)
    megabytes = saved.path.stat().st_size / 2**20
    say(f"written: {saved.path} ({megabytes:.0f} MB) in {time.perf_counter() - began:.0f} s\n{saved.info}")
    if pictures:
        print(agreement(program, load_package(saved.path), pictures))
    else:
        for name, difference in saved.differences.items():
            print(f"{name}: within {difference:.1e} of PyTorch in float32")
    plain = program.model.to(memory_format=torch.channels_last)
    slow, fast = shortest(plain, program.example), saved.seconds[saved.info.runtime]
    print(f"{1000 * fast:.1f} ms; the plain network in channels_last: {1000 * slow:.1f} ms ({slow / fast:.2f} x)")


def read_pictures(folder: Path, program: Program) -> list[Tensor]:
    """Read pictures as the model takes them: one batch of one image each, at most :data:`MOST_PICTURES`. Those that
    cannot be used are skipped and named.

    Raises:
        PackageError: for a folder without pictures that can be used.
    """
    from nasnet_det.export import PackageError
    from nasnet_det.safe_io.folders import find_pictures
    from nasnet_det.safe_io.images import read_image, reason_with_name
    from nasnet_det.safe_io.values import named

    paths = find_pictures(folder)
    paths = paths[:: max(1, len(paths) // MOST_PICTURES)][:MOST_PICTURES]
    prepare, pictures, skipped = preparation(program), [], []
    for path in paths:
        try:
            pictures.append(prepare(read_image(path)))
        except OSError as error:
            skipped.append(reason_with_name(path, error))
    text = f"{len(skipped)} of {len(paths)} pictures that cannot be used: {named(skipped)}" if skipped else ""
    if not pictures:
        raise PackageError(f"{folder} holds no pictures to calibrate on{': ' if skipped else ''}{text}")
    if skipped:
        print(f"skipped {text}", file=sys.stderr)
    return pictures


def preparation(program: Program) -> Callable[[Image], Tensor]:
    """Return the function from an RGB image to the batch ``(1, C, H, W)`` that a program takes.

    Raises:
        DataError: for a model of other than 1 or 3 channels.
    """
    said = program.description
    if program.is_detector:
        from nasnet_det.export.runner import DetectorInput

        taken = DetectorInput.from_description(said)
        return lambda image: taken.to_tensor(taken.resize(image))
    from timm.data import create_transform

    from nasnet_det.training.data.image_folder import in_channels

    channels, height, width = program.example.shape[1:]
    transform = create_transform(
        (channels, height, width),
        interpolation=said["interpolation"],
        mean=said["mean"],
        std=said["std"],
        crop_pct=said.get("crop_pct", 1.0),
    )
    transform = in_channels(channels, transform)
    return lambda image: transform(image)[None]


def agreement(program: Program, package: Any, pictures: Sequence[Tensor]) -> str:
    """Return how far a package's outputs on pictures are from the network's, as text."""
    import torch

    from nasnet_det.export.programs import as_list

    with torch.inference_mode():
        results = [(as_list(package(image)), as_list(program.model(image))) for image in pictures]
    if program.is_detector:
        from nasnet_det.export.fixed_detections import found_again

        again, wanted = (sum(counts) for counts in zip(*starmap(found_again, results), strict=True))
        own = sum(int((found[1] >= 0.5).sum()) for found, _ in results)
        return (
            f"on {len(pictures)} pictures: {again} of {wanted} detections of a score of at least 0.5 are found again, "
            f"with the same class and an IoU of at least 0.5; the package finds {own} of such a score"
        )
    pairs = [pair for result in results for pair in zip(*result, strict=True)]
    worst = max(float((found.float() - wanted).abs().max() / wanted.abs().max()) for found, wanted in pairs)
    text = f"on {len(pictures)} pictures: largest difference {worst:.1e}, relative"
    if program.description.get("kind") == "classifier" and program.description["num_classes"]:
        same = sum(int(found.argmax() == wanted.argmax()) for found, wanted in pairs)
        text += f"; the same class on {same} of {len(pictures)}"
    return text
