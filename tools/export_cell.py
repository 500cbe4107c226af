"""Launcher of ``nasnet-det export-cell`` in a checkout."""

from nasnet_det.cli.export_cell import main

if __name__ == "__main__":
    raise SystemExit(main())
