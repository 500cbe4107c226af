"""Build a backbone from a cell: a timm local-dir model with random weights, ready to be trained:

    nasnet-det build-backbone my_cell.json --num-cells 4 --num-filters 44 --output my_backbone
    nasnet-det train-imagenet DATA --model local-dir:my_backbone --output runs/mine

CELL is a genotype's JSON file or a published name. The folder contains the cell: wherever this package is installed,
timm.create_model("local-dir:my_backbone") builds the network from the folder alone.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from nasnet_det.cli.shared.errors import command
from nasnet_det.cli.shared.options import add_image_size, add_output, new_parser, seed
from nasnet_det.safe_io.folders import is_vacant


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Return the parsed command line."""
    parser = new_parser(__doc__)
    parser.add_argument("cell", metavar="CELL", help="a genotype's JSON file, or a published name")
    parser.add_argument("--num-cells", type=int, default=4, help="N, normal cells in each of three stages (4)")
    parser.add_argument("--num-filters", type=int, default=44, help="F of the first stage (44)")
    add_output(parser, "new folder to write (default: backbone_NAME in this folder)")
    parser.add_argument("--stem", default="imagenet", choices=["imagenet", "cifar"], help="(imagenet)")
    parser.add_argument("--stem-channels", type=int, help="channels of the first convolution (imagenet 32; cifar 3 F)")
    parser.add_argument("--skip-reduction-layer-input", action="store_true", help="wire as the published large network")
    add_image_size(parser, "of the input (imagenet 224; cifar 32)")
    parser.add_argument("--num-classes", type=int, help="(imagenet 1000; cifar 10)")
    parser.add_argument("--seed", type=seed, default=0, help="seed of the weights (0)")
    return parser.parse_args(argv)


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return the exit status."""
    options = parse(argv)

    import torch

    from nasnet_det.genotypes.published import as_genotype
    from nasnet_det.training.models import ModelChoice, ModelError, save_local_dir

    genotype = as_genotype(options.cell)
    output = options.output or Path(f"backbone_{genotype.name or 'cell'}")
    if not is_vacant(output):
        raise ModelError(f"{output} exists already; give another --output")
    given = {"stem_channels": options.stem_channels, "skip_reduction_layer_input": options.skip_reduction_layer_input}
    choice = ModelChoice.of_genotype(
        *(genotype, options.num_cells, options.num_filters, options.stem),
        **{key: value for key, value in given.items() if value},
    )
    cifar = options.stem == "cifar"
    classes = options.num_classes or (10 if cifar else 1000)
    side = (options.image_size or (32 if cifar else 224,))[0]
    parameters = choice.count_parameters(classes, torch.device("cpu"), copies=2)
    torch.manual_seed(options.seed)
    network = choice.build(num_classes=classes)
    save_local_dir(choice, network.state_dict(), output, classes, choice.input_config(side))
    print(
        f"{output}: {genotype.name or options.cell}, N = {options.num_cells}, F = {options.num_filters}, "
        f"{parameters / 1e6:.2f} M parameters, {classes} classes, for {side} x {side} pixels; weights not trained"
    )
    return 0
