"""Launcher of ``nasnet-det predict`` in a checkout."""

from nasnet_det.cli.predict import main

if __name__ == "__main__":
    raise SystemExit(main())
