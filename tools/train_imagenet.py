"""Launcher of ``nasnet-det train-imagenet`` in a checkout."""

import sys

from nasnet_det.cli.train_imagenet import main

if __name__ == "__main__":
    sys.exit(main())
