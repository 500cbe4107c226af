"""Launcher of ``nasnet-det prepare-coco`` in a checkout."""

import sys

from nasnet_det.cli.prepare_coco import main

if __name__ == "__main__":
    sys.exit(main())
