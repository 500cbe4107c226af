"""Launcher of ``nasnet-det check-golden`` in a checkout."""

import sys

from nasnet_det.cli.check_golden import main

if __name__ == "__main__":
    sys.exit(main())
