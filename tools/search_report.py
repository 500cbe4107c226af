"""Launcher of ``nasnet-det report`` in a checkout."""

import sys

from nasnet_det.cli.search_report import main

if __name__ == "__main__":
    sys.exit(main())
