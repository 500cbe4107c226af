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
import warnings
from typing import Any

# Importing detectron2 under a new torch warns of what a user can do nothing about.
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import torch
    from detectron2.config import CfgNode
    from detectron2.engine import default_argument_parser, default_setup, launch
    from detectron2.evaluation import verify_results
    from detectron2.utils import comm

    from nasnet_det.detection.coco_format import CocoFormatError
    from nasnet_det.detection.config import ConfigError, read_config
    from nasnet_det.detection.dataset_checks import DatasetError
    from nasnet_det.detection.identity import CheckpointError
    from nasnet_det.detection.trainer import Checkpointer, Trainer
    from nasnet_det.genotypes import GenotypeError
    from nasnet_det.weights import WeightsError

#: What a user can put right: said in a line, without a traceback.
USER_ERRORS = (ConfigError, DatasetError, CocoFormatError, CheckpointError, GenotypeError, WeightsError)


def setup(args: argparse.Namespace) -> CfgNode:
    """The frozen config of the command line; on the CPU where there is no GPU."""
    if not args.config_file:
        raise ConfigError("no config: give one with --config-file, such as configs/nasnet_frcnn.yaml")
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
    except USER_ERRORS as error:
        if comm.is_main_process():
            print(f"error: {error}", file=sys.stderr)
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


def main(argv: list[str] | None = None) -> int:
    """The command line; returns the exit status."""
    args = default_argument_parser(epilog=__doc__).parse_args(argv)
    if args.num_gpus > 1 and args.num_gpus > torch.cuda.device_count():
        print(f"error: --num-gpus {args.num_gpus}, but there are {torch.cuda.device_count()}", file=sys.stderr)
        return 2
    try:
        launch(
            run,
            args.num_gpus,
            num_machines=args.num_machines,
            machine_rank=args.machine_rank,
            dist_url=args.dist_url,
            args=(args,),
        )
    except (SystemExit, torch.multiprocessing.ProcessExitedException):
        return 2  # a process has said why
    return 0


if __name__ == "__main__":
    sys.exit(main())
