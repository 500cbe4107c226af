"""Launcher of ``nasnet-det prepare-coco`` in a checkout."""

from nasnet_det.cli.prepare_coco import main

if __name__ == "__main__":
    raise SystemExit(main())
