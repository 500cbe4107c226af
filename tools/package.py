"""Launcher of ``nasnet-det package`` in a checkout."""

import sys

from nasnet_det.cli.package import main

if __name__ == "__main__":
    sys.exit(main())
