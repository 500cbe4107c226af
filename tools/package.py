"""Launcher of ``nasnet-det package`` in a checkout."""

from nasnet_det.cli.package import main

if __name__ == "__main__":
    raise SystemExit(main())
