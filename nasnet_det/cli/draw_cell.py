"""Draw both cells of a genotype as the paper's figure 4.

    nasnet-det draw-cell nasnet_a --output nasnet_a.svg
    nasnet-det draw-cell my_cell.json --output my_cell.png

A genotype is a published name or a JSON file (docs/genotypes.md). The ending of --output decides between SVG and PNG.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from nasnet_det.cli.shared.errors import command
from nasnet_det.cli.shared.options import add_output, new_parser


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return the exit status."""
    parser = new_parser(__doc__)
    parser.add_argument("genotype", metavar="GENOTYPE", help="a published name or a JSON file")
    add_output(parser, "SVG or PNG file to write (default: GENOTYPE.svg in this folder)")
    options = parser.parse_args(argv)

    from nasnet_det.draw import draw_genotype
    from nasnet_det.genotypes.published import as_genotype

    path = options.output or Path(f"{Path(options.genotype).stem}.svg")
    draw_genotype(as_genotype(options.genotype), path)
    print(path)
    return 0
