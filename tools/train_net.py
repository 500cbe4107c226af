"""Launcher of ``nasnet-det train-net`` in a checkout."""

from nasnet_det.cli.train_net import main

if __name__ == "__main__":
    raise SystemExit(main())
