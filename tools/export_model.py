"""Launcher of ``nasnet-det export`` in a checkout."""

import sys

from nasnet_det.cli.export_model import main

if __name__ == "__main__":
    sys.exit(main())
