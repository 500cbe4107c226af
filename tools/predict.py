"""Launcher of ``nasnet-det predict`` in a checkout."""

import sys

from nasnet_det.cli.predict import main

if __name__ == "__main__":
    sys.exit(main())
