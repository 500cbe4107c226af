"""Launcher of ``nasnet-det convert`` in a checkout."""

from nasnet_det.cli.convert_weights import main

if __name__ == "__main__":
    raise SystemExit(main())
