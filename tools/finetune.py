"""Launcher of ``nasnet-det finetune`` in a checkout."""

import sys

from nasnet_det.cli.finetune import main

if __name__ == "__main__":
    sys.exit(main())
