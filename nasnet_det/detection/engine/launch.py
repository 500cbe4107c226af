"""Processes of a training or an evaluation: one, those that detectron2 starts, or those that torchrun started."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.engine import launch
from detectron2.evaluation import verify_results
from detectron2.utils import comm
from detectron2.utils.collect_env import collect_env_info
from detectron2.utils.env import seed_all_rng
from detectron2.utils.logger import setup_logger
from torch import nn

from nasnet_det.detection.config import ConfigError, find_config, read_config
from nasnet_det.detection.data.registered import look_at_config
from nasnet_det.detection.engine.checkpointer import Checkpointer, build_for_inference
from nasnet_det.detection.engine.run_folder import RUN
from nasnet_det.detection.engine.trainer import DetectorTrainer
from nasnet_det.detection.evaluation.evaluation import METRICS
from nasnet_det.detection.supported import TORCHRUN, check_processes, check_supported
from nasnet_det.safe_io.files import check_writable, write_text
from nasnet_det.safe_io.locks import working_in
from nasnet_det.safe_io.values import format_value, parse_yaml
from nasnet_det.training.world import World

#: The files that training appends to, with regular expressions that are found at their beginnings.
_APPENDED = {"log.txt": rb"\A\[\d\d/\d\d ", "metrics.json": rb'\A\{"'}
Explain = Callable[[BaseException], str | None]


def start(args: argparse.Namespace, explain: Explain) -> int:
    """Run :func:`train_or_evaluate` in every process that the command line, or torchrun, asks for.

    Args:
        args: as ``nasnet-det train-net`` parses them.
        explain: returns the message of an error that a user can put right, None for any other.

    Returns:
        the exit status.

    Raises:
        ConfigError: for more GPUs than there are, or for ``--num-gpus`` under torchrun.
    """
    if _under_torchrun():
        if args.num_gpus > 1 or args.num_machines > 1:
            raise ConfigError("torchrun starts the processes: leave out --num-gpus and --num-machines")
        with _torchrun_group():
            run_guarded(args, explain)
        return 0
    if not 0 <= args.num_gpus <= max(1, torch.cuda.device_count()):
        raise ConfigError(f"--num-gpus is {args.num_gpus}, but this machine has {torch.cuda.device_count()} GPUs")
    machines = {"num_machines": args.num_machines, "machine_rank": args.machine_rank}
    try:
        launch(run_guarded, args.num_gpus, **machines, dist_url=args.dist_url, args=(args, explain))
    except torch.multiprocessing.ProcessExitedException:
        return 2  # a process has printed the reason
    return 0


def _under_torchrun() -> bool:
    return set(TORCHRUN) <= os.environ.keys() and int(os.environ["WORLD_SIZE"]) > 1


@contextmanager
def _torchrun_group() -> Iterator[None]:
    """Join the processes that torchrun started, with the groups that detectron2 expects."""
    world = World.join()
    comm.create_local_process_group(int(os.environ["LOCAL_WORLD_SIZE"]))
    try:
        yield
    finally:
        world.leave()


def run_guarded(args: argparse.Namespace, explain: Explain) -> None:
    """Run :func:`train_or_evaluate`; of several processes only the first prints an error, in one line."""
    try:
        train_or_evaluate(setup(args), args)
    except Exception as error:
        message = explain(error)
        if message is None or comm.get_world_size() == 1:
            raise
        if comm.is_main_process():
            print(f"error: {message}", file=sys.stderr)
        raise SystemExit(2) from None


def setup(args: argparse.Namespace) -> CfgNode:
    """Read the config, start the logs in ``OUTPUT_DIR`` and seed the process.

    Raises:
        ConfigError: for a config that is missing or broken, or an ``OUTPUT_DIR`` whose files would be lost.
    """
    if not args.config_file:
        raise ConfigError("no config: give one with --config-file, such as configs/nasnet_frcnn.yaml")
    file = find_config(args.config_file)
    cfg = read_config(file, args.opts)
    if not cfg.OUTPUT_DIR:
        raise ConfigError("OUTPUT_DIR is empty: give a folder, or . for the present one")
    wanted = cfg.MODEL.DEVICE
    if wanted.startswith("cuda") and not torch.cuda.is_available():
        cfg.MODEL.DEVICE = "cpu"
    check_expected(cfg)
    check_supported(cfg)
    cfg.freeze()
    output, rank = Path(cfg.OUTPUT_DIR), comm.get_rank()
    if not args.eval_only:
        _check_output(cfg, file, args.resume)
    output.mkdir(parents=True, exist_ok=True)
    logging.raiseExceptions = False  # a full disk costs lines of the log, and no traceback for each
    setup_logger(str(output), distributed_rank=rank, name="fvcore")
    setup_logger(str(output), distributed_rank=rank, name="nasnet_det", enable_propagation=True)
    logger = setup_logger(str(output), distributed_rank=rank)
    logger.info(f"process {rank} of {comm.get_world_size()}; its environment and config are in {output / 'log.txt'}")
    _log_in_file(logger, f"{args}\n{collect_env_info()}\n{cfg.dump()}")
    if wanted != cfg.MODEL.DEVICE:
        logger.warning(f"MODEL.DEVICE is {wanted}, but PyTorch sees no GPU: everything is computed on the CPU")
    seed_all_rng(None if cfg.SEED < 0 else cfg.SEED + rank)
    torch.backends.cudnn.benchmark = cfg.CUDNN_BENCHMARK and not args.eval_only
    return cfg


def _log_in_file(logger: logging.Logger, text: str) -> None:
    """Log hundreds of lines to the file alone, so that an error after them is seen."""
    record = logger.makeRecord(logger.name, logging.INFO, __file__, 0, text, (), None)
    for handler in logger.handlers:
        if getattr(handler, "stream", sys.stdout) is not sys.stdout:
            handler.handle(record)


def check_expected(cfg: CfgNode) -> None:
    """Check ``TEST.EXPECTED_RESULTS``, which is compared when all is done.

    Raises:
        ConfigError: naming the first entry that could not be compared.
    """
    tasks, expected = ("bbox", "segm") if cfg.MODEL.MASK_ON else ("bbox",), cfg.TEST.EXPECTED_RESULTS
    if expected and len(cfg.DATASETS.TEST) != 1:
        raise ConfigError("TEST.EXPECTED_RESULTS is for one data set: name one in DATASETS.TEST, or set it to []")
    for entry in expected:
        parts = [*entry] if isinstance(entry, (list, tuple)) else [entry]
        known = len(parts) == 4 and parts[0] in tasks and (parts[1] in METRICS or str(parts[1]).startswith("AP-"))
        if not known or not all(type(number) in (int, float) for number in parts[2:]):
            raise ConfigError(
                f"TEST.EXPECTED_RESULTS has {format_value(entry)}: expected [{' or '.join(tasks)}, a metric such as "
                "AP, its value in percent, tolerance]"
            )


def _check_output(cfg: CfgNode, file: Path, resume: bool) -> None:
    """Refuse an ``OUTPUT_DIR`` with files that a training would replace: another run's, or a user's."""
    output, weights = Path(cfg.OUTPUT_DIR), cfg.MODEL.WEIGHTS
    saved, checkpoints = output / "config.yaml", sorted(output.glob("model_*.pth"))
    # A run that was killed before it noted its first checkpoint has left its config, too.
    is_run = (output / "last_checkpoint").exists() or bool(checkpoints and _is_whole(saved, cfg))
    if (output / RUN).exists():
        raise ConfigError(
            f"OUTPUT_DIR {output} holds a run of finetune or demo, which continue it: give another OUTPUT_DIR"
        )
    if is_run and not resume:
        raise ConfigError(f"OUTPUT_DIR {output} holds a run: add --resume to continue it, or give another OUTPUT_DIR")
    if weights and not resume and Path(weights).parent.resolve() == output.resolve():
        raise ConfigError(f"MODEL.WEIGHTS {weights} is in OUTPUT_DIR and may be replaced: give another OUTPUT_DIR")
    if checkpoints and not is_run:
        raise ConfigError(f"{checkpoints[0]} is not of a run and may be replaced: give another OUTPUT_DIR")
    for name, own in _APPENDED.items():
        check_writable(output / name, own)
    if saved.exists() and not (is_run or saved.samefile(file) or _is_whole(saved, cfg)):
        raise ConfigError(f"{saved} is not of a run and would be replaced: give another OUTPUT_DIR")


def _is_whole(path: Path, cfg: CfgNode) -> bool:
    """Return True for a config with all sections, as a run saves it."""
    try:
        content = parse_yaml(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and {*cfg} <= {*content}


def train_or_evaluate(cfg: CfgNode, args: argparse.Namespace) -> Any:
    """Train, with the config saved in ``OUTPUT_DIR``, or with ``--eval-only`` evaluate; return the last results.

    Raises:
        CheckpointError: if an evaluation has no weights, or weights that do not fill the model.
        FolderInUseError: if another process trains in ``OUTPUT_DIR``.
    """
    if not args.eval_only:
        output = Path(cfg.OUTPUT_DIR)
        with working_in(output) if comm.is_main_process() else nullcontext():
            trainer = DetectorTrainer(cfg, args.resume)
            trainer.resume_or_load(resume=args.resume)
            # Not earlier: a resume that is refused leaves the run's config as it was.
            saved = output / "config.yaml"
            if comm.is_main_process() and not (saved.exists() and saved.samefile(find_config(args.config_file))):
                write_text(saved, cfg.dump())
            return trainer.train()
    check_processes()
    run = Checkpointer(nn.Module(), cfg.OUTPUT_DIR)
    weights = run.get_checkpoint_file() if args.resume and run.has_checkpoint() else cfg.MODEL.WEIGHTS
    model, categories = build_for_inference(cfg, weights)
    classes = [category["name"] for category in categories] or None
    look_at_config(cfg, classes, training=False)
    results = DetectorTrainer.test(
        cfg, model, [DetectorTrainer.build_evaluator(cfg, name, classes) for name in cfg.DATASETS.TEST]
    )
    if comm.is_main_process():
        verify_results(cfg, results)
    return results
