"""Convert published weights of any format to a safetensors file of this package.

    nasnet-det convert-weights nasnet_a_mobile.keras mobile.safetensors
    nasnet-det convert-weights nasnet-a_large_04_10_2017.tar.gz large.safetensors --model nasnet_a_large
    nasnet-det convert-weights model.ckpt thin.safetensors --num-cells 6 --num-filters 16 --num-classes 101

INPUT is a file, a folder or an archive (TF-slim checkpoint, Keras .h5, timm's or Cadene's PyTorch file, or this
package's own), a URL, hf-hub:OWNER/REPOSITORY, or the name of a published file. Without --model or --num-cells, the
members of the family with published weights are tried. The background class of 1001 is left out unless --num-classes
keeps it.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nasnet_det.cli.shared.errors import command
from nasnet_det.cli.shared.options import new_parser


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Return the parsed command line."""
    parser = new_parser(__doc__)
    parser.add_argument("input", metavar="INPUT", help="the weights")
    parser.add_argument("output", metavar="OUTPUT", type=Path, help="the safetensors file to write")
    network = parser.add_argument_group("the network that the weights belong to")
    network.add_argument("--model", metavar="NAME", help="a member of the family")
    network.add_argument("--num-cells", type=int, nargs="+", metavar="N", help="normal cells of each stage, or of all")
    network.add_argument("--num-filters", type=int, metavar="F", help="filters of the first stage")
    network.add_argument("--stem", choices=("imagenet", "cifar"), help="the kind of stem")
    network.add_argument("--stem-channels", type=int, metavar="C", help="channels of the first convolution")
    network.add_argument("--skip-reduction-layer-input", action="store_true", help="wire as the large network")
    network.add_argument("--genotype", metavar="NAME|FILE", help="a published cell or a JSON file")
    network.add_argument("--aux-head", action="store_true", help="read the auxiliary head too")
    network.add_argument(
        *("--image-size", "--img-size"), dest="img_size", type=int, metavar="SIDE", help="of training, for --aux-head"
    )
    parser.add_argument("--num-classes", type=int, metavar="N", help="classes to keep; 0 for no classifier")
    parser.add_argument("--cache", type=Path, metavar="FOLDER", help="folder that keeps downloads")
    parser.add_argument("--overwrite", action="store_true", help="replace OUTPUT if it exists")
    return parser.parse_args(argv)


def network_arguments(options: argparse.Namespace) -> dict[str, Any]:
    """Return the network's arguments that the command line gives."""
    names = ("num_cells", "num_filters", "stem", "stem_channels", "genotype", "img_size")
    given = {name: value for name in names if (value := getattr(options, name)) is not None}
    given |= {name: True for name in ("skip_reduction_layer_input", "aux_head") if getattr(options, name)}
    if len(given.get("num_cells", ())) == 1:
        given["num_cells"] = given["num_cells"][0]
    return given


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return the exit status."""
    options = parse(argv)
    if options.output.exists() and not options.overwrite:
        raise FileExistsError(f"{options.output} exists: name another file, or give --overwrite")

    from nasnet_det.models.family import FAMILY
    from nasnet_det.weights.convert import convert_weights
    from nasnet_det.weights.layout import WeightsError

    if options.model is not None and options.model not in FAMILY:
        raise WeightsError(f"--model: unknown model {options.model!r}; known: {', '.join(FAMILY)}")
    network = network_arguments(options)
    convert_weights(options.input, options.output, options.model, network, options.num_classes, options.cache)
    return 0
