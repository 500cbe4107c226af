"""Launcher of ``nasnet-det check-golden`` in a checkout."""

from nasnet_det.cli.check_golden import main

if __name__ == "__main__":
    raise SystemExit(main())
