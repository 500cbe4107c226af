"""Launcher of ``nasnet-det validate`` in a checkout."""

from nasnet_det.cli.validate import main

if __name__ == "__main__":
    raise SystemExit(main())
