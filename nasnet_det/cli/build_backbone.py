"""Make a backbone of a cell: a timm ``local-dir`` model, its weights newly drawn, ready to be trained::

    nasnet-det build-backbone my_cell.json --num-cells 4 --num-filters 44 --out my_backbone
    nasnet-det train-imagenet DATA --model local-dir:my_backbone --out runs/mine

CELL is a genotype's JSON file or a published name. The cell travels inside the model: wherever this package is
installed, timm.create_model("local-dir:my_backbone") builds it from the folder alone.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from nasnet_det.cli.main import command
from nasnet_det.genotypes.published import as_genotype
from nasnet_det.training.models import ModelChoice, ModelError, save_local_dir


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cell", metavar="CELL", help="a genotype's JSON file, or a published name")
    parser.add_argument("--num-cells", type=int, default=4, help="N, the normal cells of each of three stages (4)")
    parser.add_argument("--num-filters", type=int, default=44, help="F of the first stage (44)")
    parser.add_argument("--out", type=Path, help="the folder to make (default: backbone_NAME, beside where you are)")
    parser.add_argument("--stem", default="imagenet", choices=["imagenet", "cifar"], help="(imagenet)")
    parser.add_argument("--stem-channels", type=int, help="of the first convolution (imagenet 32; cifar 3 F)")
    parser.add_argument("--skip-reduction-layer-input", action="store_true", help="wire as the published large network")
    parser.add_argument("--image-size", type=int, help="side of the square input (imagenet 224; cifar 32)")
    parser.add_argument("--num-classes", type=int, help="(imagenet 1000; cifar 10)")
    parser.add_argument("--seed", type=int, default=0, help="of the weights (0)")
    return parser.parse_args(argv)


def build(options: argparse.Namespace) -> int:
    """Build the network and save it."""
    genotype = as_genotype(options.cell)
    cifar = options.stem == "cifar"
    more: dict[str, Any] = {}
    if options.stem_channels is not None:
        more["stem_channels"] = options.stem_channels
    if options.skip_reduction_layer_input:
        more["skip_reduction_layer_input"] = True
    choice = ModelChoice.of_genotype(genotype, options.num_cells, options.num_filters, options.stem, **more)
    classes = options.num_classes or (10 if cifar else 1000)
    size = options.image_size or (32 if cifar else 224)
    out = options.out or Path(f"backbone_{genotype.name or 'cell'}")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ModelError(f"{out} is there already; give another --out")
    torch.manual_seed(options.seed)
    network = choice.build(num_classes=classes)
    save_local_dir(choice, network.state_dict(), out, classes, choice.input_config(size))
    parameters = sum(parameter.numel() for parameter in network.parameters())
    print(
        f"{out}: {genotype.name or options.cell}, N = {options.num_cells}, F = {options.num_filters}, "
        f"{parameters / 1e6:.2f} M parameters, {classes} classes, for {size} x {size} pixels; weights not trained"
    )
    return 0


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    return build(parse(argv))


if __name__ == "__main__":
    sys.exit(main())
