"""Draw both cells of a genotype as the paper's figure 4.

    nasnet-det draw nasnet_a --out nasnet_a.svg
    nasnet-det draw my_cell.json --out my_cell.png

A genotype is a published name or a JSON file (docs/genotypes.md). The picture is SVG or PNG, by the ending of --out.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from nasnet_det.cli.main import command
from nasnet_det.draw import draw_genotype
from nasnet_det.genotypes.published import PUBLISHED, as_genotype


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; 0 if the picture is written, 2 for a mistake in what was given."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "genotype", metavar="GENOTYPE", help=f"a JSON file or a published name: {', '.join(sorted(PUBLISHED))}"
    )
    parser.add_argument(
        "--out", type=Path, metavar="PATH", help="PATH.svg or PATH.png; GENOTYPE.svg in this folder by default"
    )
    arguments = parser.parse_args(argv)
    path = arguments.out or Path(f"{Path(arguments.genotype).stem}.svg")
    draw_genotype(as_genotype(arguments.genotype), path)
    print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
