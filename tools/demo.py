"""Launcher of ``nasnet-det demo`` in a checkout."""

from nasnet_det.cli.demo import main

if __name__ == "__main__":
    raise SystemExit(main())
