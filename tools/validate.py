"""Launcher of ``nasnet-det validate`` in a checkout."""

import sys

from nasnet_det.cli.validate import main

if __name__ == "__main__":
    sys.exit(main())
