"""Launcher of ``nasnet-det finetune`` in a checkout."""

from nasnet_det.cli.finetune import main

if __name__ == "__main__":
    raise SystemExit(main())
