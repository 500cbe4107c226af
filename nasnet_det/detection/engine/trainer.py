"""Training with detectron2's trainer, made exactly resumable: data order, augmentation, sampling, schedule."""

from __future__ import annotations

import weakref
from pathlib import Path
from typing import Any

import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import CfgNode
from detectron2.engine import DefaultTrainer, HookBase
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm
from torch import nn

from nasnet_det.detection.convert.checkpoint_files import MALFORMED, read_checkpoint_file, refused
from nasnet_det.detection.convert.identity import CheckpointError
from nasnet_det.detection.data.training_data import build_test_loader, build_train_loader, step_seed
from nasnet_det.detection.evaluation.evaluator import CocoEvaluator
from nasnet_det.detection.modeling.fused import for_inference
from nasnet_det.detection.modeling.rcnn import build_detector
from nasnet_det.safe_io.files import replacing
from nasnet_det.safe_io.values import format_value


class Checkpointer(DetectionCheckpointer):
    """detectron2's checkpointer that never leaves a half-written file in a good one's place."""

    def save(self, name: str, **kwargs: Any) -> None:
        """Save the model and what else was given to ``name.pth``, and note it as the last checkpoint."""
        if not self.save_dir or not self.save_to_disk:
            return
        data = {"model": self.model.state_dict(), **kwargs}
        data.update({key: value.state_dict() for key, value in self.checkpointables.items()})
        path = Path(self.save_dir) / f"{name}.pth"
        self.logger.info(f"Saving checkpoint to {path}")
        with replacing(path) as part:
            torch.save(data, part)
        with replacing(Path(self.save_dir) / "last_checkpoint") as part:
            part.write_text(path.name)

    def load(self, path: str, *args: Any, **kwargs: Any) -> Any:
        """Load a checkpoint; an empty ``path`` loads nothing.

        Raises:
            CheckpointError: if it is missing, damaged, or of another network.
        """
        if path and "://" not in path and not _is_file(path):
            raise CheckpointError(f"there is no checkpoint {path}: give one as MODEL.WEIGHTS, or '' to start without")
        try:
            return super().load(path, *args, **kwargs)
        except CheckpointError as error:
            raise error if path in str(error) else CheckpointError(f"{path}: {error}") from None
        except MALFORMED as error:
            raise refused(path, error) from error
        finally:
            self._parsed_url_during_load = None  # which detectron2 forgets after an error

    def get_checkpoint_file(self) -> str:
        """The last checkpoint of a run.

        Raises:
            CheckpointError: if the file that names it is damaged.
        """
        noted = Path(self.save_dir) / "last_checkpoint"
        try:
            name = noted.read_text(encoding="utf-8").strip()
        except (OSError, ValueError) as error:
            raise refused(str(noted), error) from None
        if not name or len(name) > 255 or Path(name).name != name:  # what is saved lies beside it
            raise refused(str(noted), ValueError(f"it names no file of its folder: {format_value(name)}"))
        return str(Path(self.save_dir) / name)

    def _load_file(self, filename: str) -> dict[str, Any]:
        """A checkpoint in detectron2's form; nothing in the file is executed."""
        return read_checkpoint_file(filename)


def _is_file(path: str) -> bool:
    try:
        return Path(path).is_file()
    except (OSError, ValueError):  # no path can be written so, or be that long
        return False


class Trainer(DefaultTrainer):
    """detectron2's trainer; a run that is stopped and resumed (on as many GPUs) does what an unbroken one does."""

    def __init__(self, cfg: CfgNode) -> None:
        super().__init__(cfg)
        self.seed = self._trainer.data_loader.batch_sampler.seed

    def build_hooks(self) -> list[HookBase | None]:
        """detectron2's hooks, with a checkpointer that writes whole files."""
        self.checkpointer = Checkpointer(self.model, self.cfg.OUTPUT_DIR, trainer=weakref.proxy(self))
        return super().build_hooks()

    def resume_or_load(self, resume: bool = True) -> None:
        """Go on from the last checkpoint of ``OUTPUT_DIR``, or load ``MODEL.WEIGHTS`` and begin."""
        super().resume_or_load(resume)
        self._trainer.data_loader.batch_sampler.resume(self.seed, self.start_iter)

    @classmethod
    def build_model(cls, cfg: CfgNode) -> nn.Module:
        """See :func:`nasnet_det.detection.modeling.rcnn.build_detector`."""
        return build_detector(cfg)

    def run_step(self) -> None:
        """One step, its random numbers (drop path, sampling of anchors and proposals) drawn from its own seed."""
        torch.manual_seed(step_seed(self.seed, self.iter, comm.get_rank()))
        super().run_step()

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps beside the model; the seed of the order of images is part of it."""
        return {**super().state_dict(), "seed": self.seed}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up a checkpoint's state."""
        super().load_state_dict(state_dict)
        self.seed = state_dict.get("seed", self.seed)

    @classmethod
    def test(cls, cfg: CfgNode, model: nn.Module, evaluators: Any = None) -> Any:
        """detectron2's evaluation; in fused form if ``MODEL.NASNET.FUSED`` says so.

        Raises:
            ConfigError: if it says so of a model that has no such form.
        """
        return super().test(cfg, for_inference(model, cfg), evaluators)

    @classmethod
    def build_train_loader(cls, cfg: CfgNode) -> Any:
        """See :func:`nasnet_det.detection.data.training_data.build_train_loader`."""
        return build_train_loader(cfg)

    @classmethod
    def build_test_loader(cls, cfg: CfgNode, dataset_name: str) -> Any:
        """See :func:`nasnet_det.detection.data.training_data.build_test_loader`."""
        return build_test_loader(cfg, dataset_name)

    @classmethod
    def build_evaluator(cls, cfg: CfgNode, dataset_name: str) -> DatasetEvaluator:
        """COCO's numbers, results under ``OUTPUT_DIR/inference``."""
        return CocoEvaluator(dataset_name, Path(cfg.OUTPUT_DIR) / "inference")
