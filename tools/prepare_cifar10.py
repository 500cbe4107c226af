"""Launcher of ``nasnet-det prepare-cifar10`` in a checkout."""

from nasnet_det.cli.prepare_cifar10 import main

if __name__ == "__main__":
    raise SystemExit(main())
