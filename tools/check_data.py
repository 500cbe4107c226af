"""Launcher of ``nasnet-det check-data`` in a checkout."""

from nasnet_det.cli.check_data import main

if __name__ == "__main__":
    raise SystemExit(main())
