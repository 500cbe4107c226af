"""Launcher of ``nasnet-det report`` in a checkout."""

from nasnet_det.cli.search_report import main

if __name__ == "__main__":
    raise SystemExit(main())
