"""Report what searches found: the paper's figure 6, tables, the best cells drawn and exported.

    nasnet-det search-report runs/s1 runs/random --output report

Searches of one strategy are averaged in the figure. Results of the second phase (nasnet-det retrain-cells) are
included.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from nasnet_det.cli.shared.errors import command
from nasnet_det.cli.shared.options import add_output, new_parser, whole
from nasnet_det.cli.shared.search_context import search_context
from nasnet_det.cli.shared.search_options import existing_folder


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = new_parser(__doc__)
    parser.add_argument("folders", nargs="+", type=existing_folder, metavar="FOLDER", help="searches' --output")
    add_output(parser, "the report's folder", required=True)
    parser.add_argument("--draw", type=whole(0), default=3, metavar="K", help="best cells to draw of each (default: 3)")
    parser.add_argument("--storage", metavar="URL", help="the searches', where it needs a password")
    return parser.parse_args(argv)


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Write the report; return 2 for a mistake in what the command was given."""
    options = parse(argv)
    with search_context():
        from nasnet_det.search.report import read_runs, write_report

        print(write_report(read_runs(options.folders, options.storage), options.output, options.draw))
    return 0
