"""Launcher of ``nasnet-det evaluate`` in a checkout."""

import sys

from nasnet_det.cli.evaluate import main

if __name__ == "__main__":
    sys.exit(main())
