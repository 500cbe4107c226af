"""Launcher of ``nasnet-det train-cifar`` in a checkout."""

from nasnet_det.cli.train_cifar import main

if __name__ == "__main__":
    raise SystemExit(main())
