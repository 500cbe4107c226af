"""Compile a network ahead of time into one file that loads in seconds, and check it.

    nasnet-det package large.pt2 --model nasnet_a_large --pretrained
    nasnet-det package mobile.pt2 --model nasnet_a_mobile --weights NASNet-mobile.h5 --device cuda --dtype bfloat16
    nasnet-det package found.pt2 --model local-dir:runs/found/model --batch-size 8 --any-batch
    nasnet-det package large.pt2 --show

In a program: ``nasnet_det.export.packages.load_package("large.pt2")(images)``, images ``(N, 3, H, W)`` as the network
takes them. A package holds native code for this PyTorch release and this kind of machine: load only what you trust.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import timm
import torch
from timm.data import resolve_data_config
from torch import Tensor

import nasnet_det  # noqa: F401 - registers the family
from nasnet_det.cli.errors import command
from nasnet_det.export.packages import DTYPES, PackageError, load_package, read_info, save_package
from nasnet_det.training.models import ModelChoice, ModelError


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("package", type=Path, metavar="FILE.pt2", help="the package")
    parser.add_argument("--show", action="store_true", help="only say what the package is for; runs nothing of it")
    group = parser.add_argument_group("network")
    group.add_argument("--model", default="nasnet_a_large", help="a timm name, or local-dir:FOLDER (nasnet_a_large)")
    group.add_argument("--pretrained", action="store_true", help="with its published or saved weights")
    group.add_argument("--weights", type=Path, metavar="FILE", help="published weights, fetched before")
    group.add_argument("--features", action="store_true", help="the maps of every stride instead of logits")
    group = parser.add_argument_group("for")
    group.add_argument("--device", choices=["cpu", "cuda"], help="default: the GPU if there is one")
    group.add_argument("--dtype", choices=list(DTYPES), default="float32")
    group.add_argument("--batch-size", type=int, default=1, help="images at once (1)")
    group.add_argument("--any-batch", action="store_true", help="any number of images, tuned for --batch-size of them")
    group.add_argument("--image-size", type=int, nargs="+", metavar="SIDE", help="height and width (the network's own)")
    return parser.parse_args(argv)


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; 0 if it did its work, 2 if its input was at fault."""
    options = parse(argv)
    if options.show:
        print(read_info(options.package))
    else:
        package(options)
    return 0


def package(options: argparse.Namespace) -> None:
    """Make the package, load it, compare it with the network it was made from."""
    network, input_size = build(options)
    device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    print(f"compiling {options.model} for {device}: this takes minutes", flush=True)
    start = time.perf_counter()
    info = save_package(
        network, options.package, input_size, options.model, options.dtype, device, any_batch=options.any_batch
    )
    megabytes = options.package.stat().st_size / 2**20
    print(f"written: {options.package} ({megabytes:.0f} MB) in {time.perf_counter() - start:.0f} s\n{info}", flush=True)

    start = time.perf_counter()
    packaged = load_package(options.package)
    print(f"loaded in {time.perf_counter() - start:.1f} s")
    dtype = DTYPES[options.dtype]
    images = torch.randn(input_size, device=device, dtype=dtype).contiguous(memory_format=torch.channels_last)
    network = network.to(device, dtype, memory_format=torch.channels_last)
    with torch.inference_mode():
        found, expected = flat(packaged(images)), flat(network(images))
        largest = max(((a - b).abs().max() / b.abs().max()).item() for a, b in zip(found, expected, strict=True))
        print(f"largest difference from the plain network in {options.dtype}: {largest:.1e}, relative")
        fast, slow = seconds(lambda: packaged(images)), seconds(lambda: network(images))
    print(f"{1000 * fast:.1f} ms; the plain network in channels_last: {1000 * slow:.1f} ms ({slow / fast:.2f} x)")


def build(options: argparse.Namespace) -> tuple[Any, tuple[int, int, int, int]]:
    """The network asked for, in evaluation, and the size of its input."""
    ModelChoice.named(options.model)
    arguments: dict[str, Any] = {"features_only": True} if options.features else {}
    if options.weights:
        arguments["pretrained_cfg_overlay"] = {"file": str(options.weights)}
    pretrained = options.pretrained or options.weights is not None
    try:
        network = timm.create_model(options.model, pretrained=pretrained, **arguments).eval()
    except (RuntimeError, ValueError) as error:
        raise ModelError(f"{options.model} cannot be built: {error}") from None
    if not pretrained:
        print("random weights: give --pretrained or --weights for others")
    channels, *sides = resolve_data_config(model=network)["input_size"]
    sides = options.image_size or sides
    if options.batch_size < 1 or len(sides) > 2:
        raise PackageError("the batch size is at least 1, and an image has two sides")
    return network, (options.batch_size, channels, sides[0], sides[-1])


def flat(outputs: Any) -> list[Tensor]:
    """What a network returns, as a list, in float32."""
    return [output.float() for output in ([outputs] if isinstance(outputs, Tensor) else outputs)]


def seconds(run: Any, repeats: int = 5) -> float:
    """The shortest of some runs."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return min(times)


if __name__ == "__main__":
    sys.exit(main())
