"""Train or evaluate a detector, with detectron2's flags and habits.

    nasnet-det train-net --config-file configs/nasnet_frcnn.yaml --num-gpus 8
    nasnet-det train-net --config-file configs/nasnet_frcnn.yaml --resume
    nasnet-det train-net --config-file configs/nasnet_frcnn.yaml --eval-only MODEL.WEIGHTS model.pth
    torchrun --nproc-per-node 8 tools/train_net.py --config-file configs/nasnet_frcnn.yaml

Ctrl-C stops a run after its current step; --resume continues it from its last checkpoint in OUTPUT_DIR, with the same
order of images and the same schedule.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from nasnet_det.cli.shared.errors import command, explain, needs
from nasnet_det.cli.shared.options import add_settings, new_parser, settings_as_pairs
from nasnet_det.safe_io.files import protecting


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line; the flags are those of detectron2's ``default_argument_parser``."""
    parser = new_parser(__doc__)
    parser.add_argument("--config-file", default="", metavar="FILE", help="a YAML file, or the name of a config here")
    parser.add_argument("--resume", action="store_true", help="continue the run in OUTPUT_DIR")
    parser.add_argument("--eval-only", action="store_true", help="evaluate MODEL.WEIGHTS on DATASETS.TEST")
    parser.add_argument("--num-gpus", type=int, default=1, help="per machine (default: 1)")
    parser.add_argument("--num-machines", type=int, default=1, help="(default: 1)")
    parser.add_argument("--machine-rank", type=int, default=0, help="of this machine (default: 0)")
    # A port of this user's own, so that a second run on this machine shows as a port in use.
    port = 2**15 + 2**14 + hash(os.getuid() if sys.platform != "win32" else 1) % 2**14
    parser.add_argument("--dist-url", default=f"tcp://127.0.0.1:{port}", help="where processes meet")
    add_settings(parser, "changes of the config: SOLVER.BASE_LR=0.01")
    parser.add_argument("opts", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="the same in detectron2's form")
    args = parser.parse_args(argv)
    args.opts = [*settings_as_pairs(args.set), *args.opts]
    return args


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    args = parse(argv)
    with needs():
        from nasnet_det.detection.engine.launch import start
    with protecting([args.config_file]):
        return start(args, explain)
