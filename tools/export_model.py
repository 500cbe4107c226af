"""Launcher of ``nasnet-det export`` in a checkout."""

from nasnet_det.cli.export_model import main

if __name__ == "__main__":
    raise SystemExit(main())
