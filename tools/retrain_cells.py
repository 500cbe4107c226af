"""Launcher of ``nasnet-det retrain`` in a checkout."""

from nasnet_det.cli.retrain_cells import main

if __name__ == "__main__":
    raise SystemExit(main())
