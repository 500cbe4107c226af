"""Launcher of ``nasnet-det train-imagenet`` in a checkout."""

from nasnet_det.cli.train_imagenet import main

if __name__ == "__main__":
    raise SystemExit(main())
