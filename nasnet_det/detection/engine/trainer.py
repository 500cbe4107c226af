"""Training with detectron2's trainer, made exactly resumable: data order, augmentation, sampling, schedule."""

from __future__ import annotations

import logging
import re
import weakref
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.engine import AMPTrainer, DefaultTrainer, SimpleTrainer, TrainerBase, create_ddp_model
from detectron2.evaluation import DatasetEvaluator, verify_results
from detectron2.utils import comm
from detectron2.utils.events import EventStorage
from torch import nn

from nasnet_det.detection.config import ConfigError, with_weights
from nasnet_det.detection.data.catalog import categories
from nasnet_det.detection.data.registered import learned_classes, look_at_config
from nasnet_det.detection.data.training_data import build_test_loader, build_train_loader
from nasnet_det.detection.engine.checkpointer import Checkpointer
from nasnet_det.detection.engine.rehearsal import refusing, rehearse, small
from nasnet_det.detection.engine.run_folder import describe_records
from nasnet_det.detection.engine.solver import adamw, build_optimizer
from nasnet_det.detection.evaluation.evaluation import IouType
from nasnet_det.detection.evaluation.evaluator import CocoEvaluator
from nasnet_det.detection.modeling.fused import for_inference
from nasnet_det.detection.modeling.rcnn import build_detector
from nasnet_det.detection.supported import check_processes, check_supported, tried_schedule
from nasnet_det.detection.unread import ReadKeys, noting, unread
from nasnet_det.safe_io.files import short_name
from nasnet_det.safe_io.stopping import stop_on_signal
from nasnet_det.safe_io.values import one_line
from nasnet_det.training.run_folder import keep_tensorflow_out
from nasnet_det.training.seeds import derive_seed, own_randomness

logger = logging.getLogger(__name__)

#: The classes of trainers and the configs that they were tried with.
_rehearsed: set[str] = set()


class TrainingError(ValueError):
    """A training that cannot continue: names the step, the reason and what to change."""


class DetectorTrainer(DefaultTrainer):
    """detectron2's trainer; a run that is stopped and resumed (on as many GPUs) equals an unbroken one.

    Args:
        cfg: the config.
        resume: whether :meth:`resume_or_load` will be asked to resume; where a run is there, all weights are then those
            of its checkpoint, and published ones are not looked for.

    Attributes:
        finished: set by a hook to end the training after a step.
        keeps_results: whether an evaluation writes its detections.

    Raises:
        ConfigError: if it asks for what this machine or this number of processes cannot do.
        DatasetError: for data that cannot be used.
        OSError: if results of an evaluation cannot be written.
    """

    finished = False
    keeps_results = True

    def __init__(self, cfg: CfgNode, resume: bool = False) -> None:
        TrainerBase.__init__(self)
        keep_tensorflow_out()
        self.check(cfg)
        look = look_at_config(cfg)
        for name in cfg.DATASETS.TEST:
            self.build_evaluator(cfg, name)  # which refuses now what it could not write or score later
        cfg = self.auto_scale_workers(cfg, comm.get_world_size())
        run = Checkpointer(nn.Module(), cfg.OUTPUT_DIR)
        resumed = resume and run.has_checkpoint()
        model = self.build_model(with_weights(cfg, run.get_checkpoint_file()) if resumed else cfg)
        optimizer = self.build_optimizer(cfg, model)
        loader = self.build_train_loader(cfg)
        self.seed = loader.batch_sampler.seed
        devices = [comm.get_local_rank()] if cfg.MODEL.DEVICE.startswith("cuda") else None
        parallel = create_ddp_model(model, broadcast_buffers=False, device_ids=devices)
        steps = AMPTrainer if cfg.SOLVER.AMP.ENABLED else SimpleTrainer
        self._trainer = steps(parallel, loader, optimizer)
        self.scheduler = self.build_lr_scheduler(cfg, optimizer)
        self.checkpointer = Checkpointer(parallel, cfg.OUTPUT_DIR, trainer=weakref.proxy(self))
        self.checkpointer.extras = {
            "config": cfg.dump(),
            "categories": categories(cfg.DATASETS.TRAIN[0]),
            "data": describe_records(look.train),
        }
        self.start_iter, self.max_iter, self.cfg = 0, cfg.SOLVER.MAX_ITER, cfg
        self.register_hooks(self.build_hooks())

    @classmethod
    def check(cls, cfg: CfgNode) -> None:
        """Raise ConfigError for what this trainer, the machine or the number of processes cannot do."""
        check_supported(cfg)
        check_solver(cfg)
        cls.rehearse(cfg)

    @classmethod
    def rehearse(cls, cfg: CfgNode) -> None:
        """Build all parts of a training and try a step on a made image, once for each config.

        Raises:
            ConfigError: with what the part that failed says.
        """
        if (text := f"{cls} {cfg.dump()}") in _rehearsed:
            return
        read = ReadKeys()
        trial = noting(small(cfg), read)
        with own_randomness():
            model = cls.build_model(trial)
            with refusing("SOLVER"):
                cls.build_lr_scheduler(trial, cls.build_optimizer(trial, model))
            rehearse(trial, model)
        if ignored := unread(cfg, read):
            logger.warning(f"this training does not read {', '.join(ignored)}: what they are set to has no effect")
        _rehearsed.add(text)

    def resume_or_load(self, resume: bool = True) -> None:
        """Resume from the last checkpoint of ``OUTPUT_DIR``, or load ``MODEL.WEIGHTS`` and start."""
        super().resume_or_load(resume)
        self._trainer.data_loader.batch_sampler.resume(self.seed, self.start_iter)

    def train(self) -> Any:
        """Train to the last step; return the results of the last evaluation where ``TEST.EXPECTED_RESULTS`` asks.

        SIGINT and SIGTERM end a run of one process after the current step, with a checkpoint.

        Raises:
            TrainingError: if the loss is not finite.
            KeyboardInterrupt: if a signal ended the run.
        """
        self.iter = self.start_iter
        with EventStorage(self.start_iter) as self.storage, stop_on_signal() as should_stop:
            self.before_train()
            trained = False
            try:
                while self.iter < self.max_iter and not self.finished:
                    self.before_step()
                    self.run_step()
                    self.after_step()
                    if should_stop() and not self.finished:
                        self._stop()
                    self.iter += 1
                trained = True
            except FloatingPointError as error:
                raise TrainingError(self._diverged(error)) from None
            finally:
                with nullcontext() if trained else suppress(OSError):  # which would replace the reason
                    self.after_train()
        if self.cfg.TEST.EXPECTED_RESULTS and comm.is_main_process():
            verify_results(self.cfg, self._last_eval_results)
            return self._last_eval_results
        return None

    def _stop(self) -> None:
        """End the run after a step, leaving a checkpoint of it."""
        if comm.get_world_size() > 1:  # the other processes are at other steps
            raise KeyboardInterrupt
        if self.iter + 1 < self.max_iter:
            self.checkpointer.save(self.checkpoint_name(), iteration=self.iter)
            raise KeyboardInterrupt(f"stopped after step {self.iter + 1} of {self.max_iter}; --resume continues")

    def checkpoint_name(self) -> str:
        """Return the name of a checkpoint of the present step."""
        return f"model_{self.iter:07d}"

    def _diverged(self, error: FloatingPointError) -> str:
        nasnet, weights = self.cfg.MODEL.NASNET, self.cfg.MODEL.WEIGHTS or self.cfg.MODEL.NASNET.PRETRAINED
        frozen = nasnet.NORM == "FrozenBN" and not weights
        remedy = (
            "random weights do not train with MODEL.NASNET.NORM FrozenBN: set it to BN, or give weights"
            if frozen
            else f"lower SOLVER.BASE_LR (now {self.cfg.SOLVER.BASE_LR:g}) or raise SOLVER.WARMUP_ITERS "
            f"(now {self.cfg.SOLVER.WARMUP_ITERS}), and start again or --resume from the last checkpoint"
        )
        return f"step {self.iter + 1}: the loss is not finite ({one_line(error)}): {remedy}"

    build_model = staticmethod(build_detector)
    build_optimizer = staticmethod(build_optimizer)
    build_train_loader = staticmethod(build_train_loader)
    build_test_loader = staticmethod(build_test_loader)

    @classmethod
    def build_lr_scheduler(cls, cfg: CfgNode, optimizer: torch.optim.Optimizer) -> Any:
        """Build detectron2's scheduler, tried: see :func:`nasnet_det.detection.supported.tried_schedule`."""
        return tried_schedule(
            partial(super().build_lr_scheduler, cfg, optimizer),
            cfg.SOLVER.MAX_ITER,
            f"SOLVER.LR_SCHEDULER_NAME {cfg.SOLVER.LR_SCHEDULER_NAME}",
            "BASE_LR_END, GAMMA, NUM_DECAYS, STEPS, RESCALE_INTERVAL or WARMUP_*, or take WarmupMultiStepLR or "
            "WarmupCosineLR",
        )

    def run_step(self) -> None:
        """Run one step, its random numbers (drop path, sampling of anchors and proposals) drawn from its own seed."""
        torch.manual_seed(derive_seed(self.seed, self.iter, comm.get_rank()))
        super().run_step()

    def state_dict(self) -> dict[str, Any]:
        """Return the trainer's part of a checkpoint, the seed of the order of images included."""
        return {**super().state_dict(), "seed": self.seed}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore a checkpoint's state."""
        super().load_state_dict(state_dict)
        self.seed = state_dict.get("seed", self.seed)

    @classmethod
    def test(cls, cfg: CfgNode, model: nn.Module, evaluators: Any = None) -> Any:
        """Evaluate as detectron2 does; in fused form if ``MODEL.NASNET.FUSED`` is set.

        Raises:
            ConfigError: if it is set for a model that has no such form.
        """
        return super().test(cfg, for_inference(model, cfg), evaluators)

    @classmethod
    def build_evaluator(cls, cfg: CfgNode, dataset_name: str, classes: Sequence[str] | None = None) -> DatasetEvaluator:
        """Return COCO's evaluator of boxes, and of masks where the model has them.

        Its files go to ``OUTPUT_DIR/inference``, in a folder each for several data sets.

        Args:
            classes: the class names of the model, in the order of its outputs, where its checkpoint knows them.
        """
        folder = Path(cfg.OUTPUT_DIR) / "inference" if cls.keeps_results else None
        folder = folder / folder_name(dataset_name) if folder and len(cfg.DATASETS.TEST) > 1 else folder
        iou_types: tuple[IouType, ...] = ("bbox", "segm") if cfg.MODEL.MASK_ON else ("bbox",)
        return CocoEvaluator(dataset_name, folder, iou_types=iou_types, classes=classes or learned_classes(cfg))


def folder_name(name: str) -> str:
    """Return a data set's name as that of a folder: separators of paths and names of dots alone are escaped."""
    return short_name(re.sub(r"[%/\\:]|^\.+$", lambda found: f"%{found[0].encode().hex()}", name))


class ShortTrainer(DetectorTrainer):
    """A trainer for short runs, on a CPU too: maps in channels_last and AdamW."""

    @classmethod
    def check(cls, cfg: CfgNode) -> None:
        """Raise ConfigError for what it cannot do, and for keys of detectron2's hooks, which it does not have."""
        test = cfg.TEST
        for key, value in (("EXPECTED_RESULTS", test.EXPECTED_RESULTS), ("PRECISE_BN", test.PRECISE_BN.ENABLED)):
            if value:
                raise ConfigError(f"TEST.{key} is for nasnet-det train-net only: leave it out")
        if test.EVAL_PERIOD < 1:
            raise ConfigError(f"TEST.EVAL_PERIOD is {test.EVAL_PERIOD}: expected the steps between evaluations")
        super().check(cfg)

    @classmethod
    def build_model(cls, cfg: CfgNode) -> torch.nn.Module:
        """Return the detector with its maps channels last, which takes a quarter off the time of a step on a CPU."""
        return super().build_model(cfg).to(memory_format=torch.channels_last)

    build_optimizer = staticmethod(adamw)


def check_solver(cfg: CfgNode) -> None:
    """Check ``SOLVER`` against the device and the number of processes.

    Raises:
        ConfigError: naming the key, its value and what to set.
    """
    check_processes()
    solver, processes = cfg.SOLVER, comm.get_world_size()
    if solver.AMP.ENABLED and not cfg.MODEL.DEVICE.startswith("cuda"):
        raise ConfigError(
            f"SOLVER.AMP.ENABLED is True, but MODEL.DEVICE is {cfg.MODEL.DEVICE}, and mixed precision needs a GPU: set "
            "SOLVER.AMP.ENABLED False"
        )
    reference, batch = solver.REFERENCE_WORLD_SIZE, solver.IMS_PER_BATCH
    if reference and batch % reference:
        raise ConfigError(
            f"SOLVER.IMS_PER_BATCH ({batch}) must be a multiple of SOLVER.REFERENCE_WORLD_SIZE ({reference}): set one "
            "of them so, or REFERENCE_WORLD_SIZE 0 to leave the batch unscaled"
        )
    if not reference and (batch < processes or batch % processes):
        raise ConfigError(f"SOLVER.IMS_PER_BATCH ({batch}) must be a multiple of the number of processes ({processes})")
