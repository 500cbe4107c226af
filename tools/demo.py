"""Launcher of ``nasnet-det demo`` in a checkout."""

import sys

from nasnet_det.cli.demo import main

if __name__ == "__main__":
    sys.exit(main())
