"""Convert a faster_rcnn_nas checkpoint of the TF Object Detection API to a detectron2 checkpoint and its config.

    nasnet-det convert-detector faster_rcnn_nas_coco_2018_01_28.tar.gz nasnet_frcnn_coco
    nasnet-det train-net --config-file nasnet_frcnn_coco/config.yaml --eval-only

CHECKPOINT is the checkpoint's prefix (.../model.ckpt) or one of its files, a folder or an archive with it; a
pipeline.config beside it is followed. Reading it requires TensorFlow, using the result does not. The published
checkpoints were trained on train2014 + val2014 - minival, which overlaps val2017: judge them on minival
(coco_2014_minival_8k), never on val2017, where they score too high.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from nasnet_det.cli.shared.errors import command, needs
from nasnet_det.cli.shared.options import new_parser


@command
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return the exit status."""
    parser = new_parser(__doc__)
    parser.add_argument("checkpoint", type=Path, metavar="CHECKPOINT")
    parser.add_argument("output", type=Path, metavar="OUTPUT", help="folder for model.pth and config.yaml")
    options = parser.parse_args(arguments)

    with needs():
        from nasnet_det.detection.convert.tf_detector import base_config, convert

    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    weights, config = convert(options.checkpoint, options.output, base_config())
    print(f"wrote {weights} and {config}")
    print(f"evaluate it: nasnet-det train-net --config-file {config} --eval-only")
    return 0
