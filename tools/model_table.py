"""Launcher of ``nasnet-det table`` in a checkout."""

from nasnet_det.cli.model_table import main

if __name__ == "__main__":
    raise SystemExit(main())
