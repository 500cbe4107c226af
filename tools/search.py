"""Launcher of ``nasnet-det search`` in a checkout."""

from nasnet_det.cli.search import main

if __name__ == "__main__":
    raise SystemExit(main())
