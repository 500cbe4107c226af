"""Report what searches found: the paper's figure 6, tables, the best cells drawn and exported.

    nasnet-det report runs/s1 runs/random --out report

Searches of one strategy are averaged in the figure. What the second phase (nasnet-det retrain) found is told, too.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from nasnet_det.cli.errors import command, needs

with needs():
    from nasnet_det.search.command import existing_folder, searching


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=existing_folder, metavar="FOLDER", help="searches' --out")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="where the report goes")
    parser.add_argument("--draw", type=int, default=3, metavar="K", help="best cells to draw of each (default: 3)")
    parser.add_argument("--storage", metavar="URL", help="the searches', where it needs a password")
    return parser.parse_args(argv)


def report(options: argparse.Namespace) -> int:
    """Write the report."""
    from nasnet_det.search.report import read_run, write_report
    from nasnet_det.search.run_folder import RunFolder

    runs = [read_run(RunFolder(folder), options.storage) for folder in options.folders]
    print(write_report(runs, options.out, options.draw))
    return 0


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; 2 if what it was given is at fault."""
    options = parse(argv)
    with searching():
        return report(options)


if __name__ == "__main__":
    sys.exit(main())
