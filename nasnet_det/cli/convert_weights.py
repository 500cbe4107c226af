"""Convert published weights of any format to a safetensors file of this package.

    nasnet-det convert nasnet_a_mobile.keras mobile.safetensors
    nasnet-det convert nasnet-a_large_04_10_2017.tar.gz large.safetensors --model nasnet_a_large
    nasnet-det convert model.ckpt thin.safetensors --num-cells 6 --num-filters 16 --num-classes 101

INPUT is a file, a folder or an archive (TF-slim checkpoint, Keras .h5, timm's or Cadene's PyTorch file, or this
package's own), a URL, hf-hub:OWNER/REPOSITORY, or the name of a published file. Without --model or --num-cells, the
members of the family that have published weights are tried. The background class of 1001 is left out; --num-classes
says otherwise.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from nasnet_det import FAMILY, NASNet
from nasnet_det.cli.main import command
from nasnet_det.safe_io.files import replacing
from nasnet_det.weights import PRETRAINED, PUBLISHED_WEIGHTS, WeightsError, detect, read_arrays, resolve, to_state_dict
from nasnet_det.weights.download import file_digest
from nasnet_det.weights.formats.tf_slim import AVERAGE
from nasnet_det.weights.layout import Arrays, Format

_IMAGENET_WITH_BACKGROUND = 1001
_NUMBERS = (
    "num_cells",
    "num_filters",
    "stem",
    "stem_channels",
    "skip_reduction_layer_input",
    "genotype",
    "aux_head",
    "img_size",
)


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Run the tool; gives its exit status."""
    convert(parse(argv))
    return 0


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "input", metavar="INPUT", help=f"where the weights are; published: {', '.join(PUBLISHED_WEIGHTS)}"
    )
    parser.add_argument("output", metavar="OUTPUT", type=Path, help="the safetensors file to write")
    network = parser.add_argument_group("the network that the weights were made for")
    network.add_argument("--model", choices=FAMILY, metavar="NAME", help="a member of the family")
    network.add_argument(
        "--num-cells", type=int, nargs="+", metavar="N", help="normal cells of each stage, or N for all"
    )
    network.add_argument("--num-filters", type=int, metavar="F", help="filters of the first stage")
    network.add_argument("--stem", choices=("imagenet", "cifar"), help="the kind of stem")
    network.add_argument("--stem-channels", type=int, metavar="C", help="channels of the first convolution")
    network.add_argument(
        "--skip-reduction-layer-input", action="store_true", default=None, help="as in the large network"
    )
    network.add_argument("--genotype", metavar="NAME|FILE", help="a published cell or a JSON file")
    network.add_argument("--aux-head", action="store_true", default=None, help="read the auxiliary head too")
    network.add_argument("--img-size", type=int, metavar="PIXELS", help="the training size, which that head depends on")
    parser.add_argument("--num-classes", type=int, metavar="N", help="classes to keep; 0 for no classifier")
    parser.add_argument("--cache", type=Path, metavar="FOLDER", help="where what is fetched is kept")
    parser.add_argument("--overwrite", action="store_true", help="replace OUTPUT if it exists")
    return parser.parse_args(argv)


def convert(options: argparse.Namespace) -> None:
    """Read, convert, write, and say so.

    Raises:
        WeightsError: if the weights cannot be had, or are of none of the networks.
        FileExistsError: if the output exists and is not to be replaced.
    """
    if options.output.exists() and not options.overwrite:
        raise FileExistsError(f"{options.output} exists: name another file, or give --overwrite")
    file = resolve(options.input, options.cache)
    arrays = read_arrays(file)
    fmt = detect(arrays)
    averages = sum(name.endswith(AVERAGE) for name in arrays)
    print(f"read {file}: {fmt.title}, {len(arrays)} tensors" + (f", {averages} moving averages" if averages else ""))

    stored = fmt.num_classes(arrays)
    classes = _classes(options.num_classes, stored, fmt)
    if stored:
        dropped = ", without the background" if 0 < classes < stored else ""
        print(f"classes: {stored} in the file, {classes} kept{dropped}")
    name, network, state = _fit(options, arrays, fmt, classes)
    parameters = sum(parameter.numel() for parameter in network.parameters())
    print(f"network: {name}, {parameters:,} parameters")
    with replacing(options.output) as part:
        save_file(state, part, {"format": "pt", "network": name, "source": options.input, "source_format": fmt.title})
    print(f"wrote {options.output}: {len(state)} tensors, SHA-256 {file_digest(options.output)}")


def _classes(asked: int | None, stored: int, fmt: Format) -> int:
    """How many classes the converted classifier has."""
    if asked is not None:
        return asked
    return stored - 1 if fmt.has_background and stored == _IMAGENET_WITH_BACKGROUND else stored


def _fit(options: argparse.Namespace, arrays: Arrays, fmt: Format, classes: int) -> tuple[str, NASNet, dict[str, Any]]:
    """The first of the possible networks that the weights fit, its name and its state dict."""
    candidates = _candidates(options)
    failed = []
    for name, numbers in candidates.items():
        network = NASNet(**{**numbers, "num_classes": classes, "device": "meta"})
        try:
            return name, network, to_state_dict(network, arrays, fmt)
        except WeightsError as error:
            failed.append(str(error))
    if len(candidates) == 1:
        raise WeightsError(f"{options.input}: {failed[0]}")
    raise WeightsError(
        f"{options.input}: neither {' nor '.join(candidates)}: name the network with --model or with --num-cells, "
        "--num-filters and the options beside them"
    )


def _candidates(options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """The arguments of the networks that the command line allows, by name."""
    given = {key: value for key in _NUMBERS if (value := getattr(options, key)) is not None}
    if len(given.get("num_cells", ())) == 1:
        given["num_cells"] = given["num_cells"][0]
    published = PUBLISHED_WEIGHTS.get(options.input)
    if options.model:
        names: tuple[str, ...] = (options.model,)
    elif published and isinstance(published.model, str):
        names = (published.model,)
    elif {"num_cells", "num_filters"} & given.keys():
        return {", ".join(f"{key}={value}" for key, value in given.items()): given}
    else:
        names = (options.input,) if options.input in PRETRAINED else tuple(PRETRAINED)
    return {name: {**FAMILY[name].network_arguments(), **given} for name in names}


if __name__ == "__main__":
    sys.exit(main())
