"""Launcher of ``nasnet-det export-cell`` in a checkout."""

import sys

from nasnet_det.cli.export_cell import main

if __name__ == "__main__":
    sys.exit(main())
