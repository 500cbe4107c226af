"""Launcher of ``nasnet-det draw`` in a checkout."""

from nasnet_det.cli.draw_cell import main

if __name__ == "__main__":
    raise SystemExit(main())
