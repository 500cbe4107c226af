"""Launcher of ``nasnet-det build-backbone`` in a checkout."""

import sys

from nasnet_det.cli.build_backbone import main

if __name__ == "__main__":
    sys.exit(main())
