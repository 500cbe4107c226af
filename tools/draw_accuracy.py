"""Launcher of ``nasnet-det draw-accuracy`` in a checkout."""

from nasnet_det.cli.draw_accuracy import main

if __name__ == "__main__":
    raise SystemExit(main())
