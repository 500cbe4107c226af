"""Launcher of ``nasnet-det convert`` in a checkout."""

import sys

from nasnet_det.cli.convert_weights import main

if __name__ == "__main__":
    sys.exit(main())
