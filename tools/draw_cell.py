"""Launcher of ``nasnet-det draw`` in a checkout."""

import sys

from nasnet_det.cli.draw_cell import main

if __name__ == "__main__":
    sys.exit(main())
