"""Launcher of ``nasnet-det table`` in a checkout."""

import sys

from nasnet_det.cli.model_table import main

if __name__ == "__main__":
    sys.exit(main())
