"""Launcher of ``nasnet-det convert-detector`` in a checkout."""

from nasnet_det.cli.convert_detector import main

if __name__ == "__main__":
    raise SystemExit(main())
