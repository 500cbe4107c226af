"""Launcher of ``nasnet-det search`` in a checkout."""

import sys

from nasnet_det.cli.search import main

if __name__ == "__main__":
    sys.exit(main())
