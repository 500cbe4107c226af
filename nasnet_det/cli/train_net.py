#!/usr/bin/env python
"""Train or evaluate a detector, with detectron2's flags and habits.

    nasnet-det train --config-file configs/nasnet_frcnn.yaml --num-gpus 8
    nasnet-det train --config-file configs/nasnet_frcnn.yaml --resume
    nasnet-det train --config-file configs/nasnet_frcnn.yaml --eval-only MODEL.WEIGHTS model.pth

A run that was stopped goes on with ``--resume`` from its last checkpoint in OUTPUT_DIR, with the same order of images
and the same schedule.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from nasnet_det.cli.main import command, explain, needs

with needs():
    import torch
    from detectron2.config import CfgNode
    from detectron2.engine import default_argument_parser, default_setup, launch
    from detectron2.evaluation import verify_results
    from detectron2.utils import comm

    from nasnet_det.detection.config import ConfigError, find_config, read_config
    from nasnet_det.detection.engine.trainer import Checkpointer, Trainer


def setup(args: argparse.Namespace) -> CfgNode:
    """The frozen config of the command line; on the CPU where there is no GPU."""
    if not args.config_file:
        raise ConfigError("no config: give one with --config-file, such as configs/nasnet_frcnn.yaml")
    args.config_file = str(find_config(args.config_file))
    cfg = read_config(args.config_file, args.opts)
    if cfg.MODEL.DEVICE.startswith("cuda") and not torch.cuda.is_available():
        cfg.MODEL.DEVICE = "cpu"
    cfg.freeze()
    default_setup(cfg, args)
    return cfg


def run(args: argparse.Namespace) -> Any:
    """Train, or only evaluate, in each process; returns the results of the last evaluation."""
    try:
        return _run(setup(args), args)
    except Exception as error:
        # Of many processes the first one says what is wrong; the one that started them has no more than their status.
        message = explain(error)
        if message is None or comm.get_world_size() == 1:
            raise
        if comm.is_main_process():
            print(f"error: {message}", file=sys.stderr)
        raise SystemExit(2) from None


def _run(cfg: CfgNode, args: argparse.Namespace) -> Any:
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


@command
def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    args = default_argument_parser(epilog=__doc__).parse_args(argv)
    if args.num_gpus > 1 and args.num_gpus > torch.cuda.device_count():
        raise ConfigError(f"--num-gpus {args.num_gpus}, but there are {torch.cuda.device_count()}")
    try:
        launch(
            run,
            args.num_gpus,
            num_machines=args.num_machines,
            machine_rank=args.machine_rank,
            dist_url=args.dist_url,
            args=(args,),
        )
    except torch.multiprocessing.ProcessExitedException:
        return 2  # a process has said why
    return 0


if __name__ == "__main__":
    sys.exit(main())
