#!/usr/bin/env python
"""Train or evaluate a detector, with detectron2's flags and habits.

    python tools/train_net.py --config-file configs/nasnet_frcnn.yaml --num-gpus 8
    python tools/train_net.py --config-file configs/nasnet_frcnn.yaml --resume
    python tools/train_net.py --config-file configs/nasnet_frcnn.yaml --eval-only MODEL.WEIGHTS model.pth

A run that was stopped goes on with ``--resume`` from its last checkpoint in OUTPUT_DIR, with the same order of images
and the same schedule.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

from detectron2.config import CfgNode, get_cfg
from detectron2.engine import default_argument_parser, default_setup, launch
from detectron2.evaluation import verify_results
from detectron2.utils import comm

from nasnet_det.detection import add_nasnet_config
from nasnet_det.detection.trainer import Checkpointer, Trainer


def setup(args: argparse.Namespace) -> CfgNode:
    """The frozen config of the command line."""
    cfg = get_cfg()
    add_nasnet_config(cfg)
    cfg.merge_from_file(args.config_file)
    cfg.merge_from_list(args.opts)
    cfg.freeze()
    default_setup(cfg, args)
    return cfg


def run(args: argparse.Namespace) -> Any:
    """Train, or only evaluate; returns the results of the last evaluation."""
    cfg = setup(args)
    if not args.eval_only:
        trainer = Trainer(cfg)
        trainer.resume_or_load(resume=args.resume)
        return trainer.train()
    model = Trainer.build_model(cfg)
    Checkpointer(model, save_dir=cfg.OUTPUT_DIR).resume_or_load(cfg.MODEL.WEIGHTS, resume=args.resume)
    results = Trainer.test(cfg, model)
    if comm.is_main_process():
        verify_results(cfg, results)
    return results


def main(argv: list[str] | None = None) -> int:
    """The command line; returns the exit status."""
    args = default_argument_parser(epilog=__doc__).parse_args(argv)
    launch(
        run,
        args.num_gpus,
        num_machines=args.num_machines,
        machine_rank=args.machine_rank,
        dist_url=args.dist_url,
        args=(args,),
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
