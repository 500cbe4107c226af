"""Launcher of ``nasnet-det evaluate`` in a checkout."""

from nasnet_det.cli.evaluate import main

if __name__ == "__main__":
    raise SystemExit(main())
