"""Launcher of ``nasnet-det build-backbone`` in a checkout."""

from nasnet_det.cli.build_backbone import main

if __name__ == "__main__":
    raise SystemExit(main())
