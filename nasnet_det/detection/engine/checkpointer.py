"""detectron2's checkpointer, made safe: whole files, nothing executed, and no layer left random without an error."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlparse

import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import CfgNode
from torch import nn

from nasnet_det.detection.config import with_weights
from nasnet_det.detection.convert.checkpoint_files import MALFORMED, read_checkpoint_file, refused
from nasnet_det.detection.convert.identity import DIGEST, CheckpointError
from nasnet_det.detection.engine.run_folder import warn_of_other_data
from nasnet_det.detection.modeling.rcnn import build_detector
from nasnet_det.safe_io.checkpoints import without_prefix
from nasnet_det.safe_io.files import exists, protect, replacing
from nasnet_det.safe_io.values import format_names, format_value, parse_yaml
from nasnet_det.weights.arrays import located
from nasnet_det.weights.layout import WeightsError

#: Not that of fvcore, which commands silence.
logger = logging.getLogger(__name__)

#: The layers whose rows follow from the number of classes: detectron2's heads, RetinaNet's, the paper's detector's.
_CLASS_LAYERS = ("cls_score.weight", "class_layer.weight")
#: Settings on which depends what weights mean, and the shape of none.
_MEANINGS = (
    "INPUT.FORMAT",
    "MODEL.PIXEL_MEAN",
    "MODEL.PIXEL_STD",
    "MODEL.ANCHOR_GENERATOR.NAME",
    "MODEL.ANCHOR_GENERATOR.SIZES",
    "MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS",
    "MODEL.ANCHOR_GENERATOR.OFFSET",
    "MODEL.RPN.IN_FEATURES",
    "MODEL.RPN.BBOX_REG_WEIGHTS",
    "MODEL.ROI_HEADS.IN_FEATURES",
    "MODEL.ROI_BOX_HEAD.BBOX_REG_WEIGHTS",
    "MODEL.ROI_BOX_HEAD.POOLER_TYPE",
    "MODEL.ROI_BOX_CASCADE_HEAD.BBOX_REG_WEIGHTS",
    "MODEL.ROI_MASK_HEAD.POOLER_TYPE",
    "MODEL.RETINANET.IN_FEATURES",
    "MODEL.RETINANET.BBOX_REG_WEIGHTS",
)
#: Advice for a run whose last checkpoint is not known, or the only one.
_TAKE_NEWEST = "remove it to resume from the newest checkpoint beside it"
_START_ANEW = "there is no other to resume from: start a new run in another folder"


class Checkpointer(DetectionCheckpointer):
    """detectron2's checkpointer that writes whole files and reads those of any training tool.

    Attributes:
        complete: whether a checkpoint must fill every layer of the model, as it must to resume or to predict;
            False to start a training, whose heads may be new.
        extras: plain values that every checkpoint gets: ``config``, the YAML of the detector's config, and
            ``categories``, ``id`` and ``name`` of each class, so that the file alone is enough to predict; ``data``,
            which tells the data of the training from others.
        averaged: whether a moving average of the weights is preferred, where a checkpoint holds one.
    """

    complete = False
    averaged = True

    def __init__(self, model: nn.Module, save_dir: str = "", **checkpointables: Any) -> None:
        super().__init__(model, save_dir, **checkpointables)
        self.extras: dict[str, Any] = {}

    def save(self, name: str, **kwargs: Any) -> None:
        """Save the model, the other checkpointables and ``kwargs`` to ``name.pth``, and note it as the last one."""
        if not self.save_dir or not self.save_to_disk:
            return
        data = {"model": self.model.state_dict(), **self.extras, **kwargs}
        data.update({key: value.state_dict() for key, value in self.checkpointables.items()})
        path = Path(self.save_dir) / f"{name}.pth"
        self.logger.info(f"Saving checkpoint to {path}")
        with replacing(path) as part:
            torch.save(data, part)
        with replacing(Path(self.save_dir) / "last_checkpoint") as part:
            part.write_text(path.name)

    def load(self, path: str, *args: Any, **kwargs: Any) -> Any:
        """Load a checkpoint, a file or the only one with weights in a folder; an empty ``path`` loads nothing.

        Raises:
            CheckpointError: if it is missing, damaged, of another network, or lacks layers that it must have.
        """
        if path and "://" not in path and not (exists(path) and Path(path).is_file()):
            path = _file_in(path)
        try:
            # detectron2 reads a path as an address, of which a question mark, a line break or "Run:1" is changed.
            if path and exists(path) and urlparse(path)._replace(query="").geturl() != path:
                return super(DetectionCheckpointer, self).load(path, *args, **kwargs)
            return super().load(path, *args, **kwargs)
        except CheckpointError as error:
            raise error if path in str(error) else CheckpointError(f"{path}: {error}") from None
        except MALFORMED as error:
            raise refused(path, error) from error
        finally:
            self._parsed_url_during_load = None  # which detectron2 forgets after an error

    def resume_or_load(self, path: str, *, resume: bool = True) -> Any:
        """Resume from the last checkpoint of ``save_dir`` if asked to and there is one; else load only weights.

        Raises:
            CheckpointError: see :meth:`load`; a run is resumed only by the model that it trained.
        """
        if not (resume and self.has_checkpoint()):
            protect([path] if path else [])
            return self.load(path, checkpointables=[])
        self.complete, self.averaged = True, False
        file = self.get_checkpoint_file()
        loaded = self.load(file)
        there, here = (_names(data.get("categories")) for data in (loaded, self.extras))
        if there and here and there != here:
            raise CheckpointError(
                f"{file} is of the classes {format_names(there)}, the data is of {format_names(here)}: resume with the "
                "data of the run, or start a new one in another OUTPUT_DIR"
            )
        warn_of_other_data(file, loaded.get("data"), self.extras.get("data"))
        return loaded

    def has_checkpoint(self) -> bool:
        """Return whether there is a checkpoint to resume from, noted as the last one or not."""
        return super().has_checkpoint() or bool(_checkpoints_in(self.save_dir))

    def get_checkpoint_file(self) -> str:
        """Return the path of a run's last checkpoint: the one noted or, as after a kill or a deletion, the newest.

        Raises:
            CheckpointError: if the file that names it is damaged, or there is no checkpoint.
        """
        noted = Path(self.save_dir) / "last_checkpoint"
        try:
            name = noted.read_text(encoding="utf-8").strip() if noted.exists() else ""
        except (OSError, ValueError) as error:
            raise refused(str(noted), error, _TAKE_NEWEST) from None
        if name and (len(name) > 255 or Path(name).name != name):  # checkpoints are saved beside it
            reason = f"it names no file of its folder: {format_value(name)}"
            raise refused(str(noted), ValueError(reason), _TAKE_NEWEST)
        if name and (noted.parent / name).is_file():
            return str(noted.parent / name)
        reason = f"it names {name}, which is missing" if name else "it is missing or empty"
        if not (found := _checkpoints_in(self.save_dir)):
            raise refused(str(noted), ValueError(reason), _START_ANEW)
        logger.warning(f"{noted} does not name the last checkpoint ({reason}): the newest is taken, {found[-1]}")
        return str(found[-1])

    def _load_file(self, filename: str) -> dict[str, Any]:
        try:
            return read_checkpoint_file(filename, self.averaged)
        except CheckpointError as error:
            if self.averaged:
                raise
            earlier = [path for path in _checkpoints_in(self.save_dir) if path != Path(filename)]
            advice = f"remove it to resume from the one before, {earlier[-1].name}" if earlier else _START_ANEW
            raise refused(filename, error.__cause__ or error, advice) from error

    def _load_model(self, checkpoint: Any) -> Any:
        own = self.model.state_dict()
        wanted = {*filter(_is_weight, own)}
        checkpoint["model"] = without_prefix(checkpoint["model"], lambda state: {*filter(_is_weight, state)} == wanted)
        for name, value in checkpoint["model"].items():
            if name in own and own[name].is_floating_point() and not value.is_floating_point():
                raise CheckpointError(
                    f"{name} is {value.dtype}, expected floating-point numbers: give the weights as they were before "
                    "they were quantized"
                )
        incompatible = super()._load_model(checkpoint)
        if self.complete:
            _check_complete(self.model, incompatible)
        else:
            _check_backbone(self.model, incompatible)
        return incompatible


def _checkpoints_in(folder: str | Path) -> list[Path]:
    """Return the checkpoints that a run has saved in its folder, the newest last; fine-tuning saves one."""
    return [
        file
        for name in ("last", "model_[0-9]*[0-9]", "model_final")
        for file in sorted(Path(folder).glob(f"{name}.pth"))
    ]


def _file_in(folder: str) -> str:
    """Return the only file with weights in a folder."""
    if not (exists(folder) and Path(folder).is_dir()):
        raise CheckpointError(f"no file {folder}: give a checkpoint as MODEL.WEIGHTS, or '' to start without")
    try:
        with located(folder) as file:
            return str(file)
    except WeightsError as error:
        raise CheckpointError(f"MODEL.WEIGHTS: {error}") from None


def build_for_inference(cfg: CfgNode, weights: str) -> tuple[nn.Module, list[dict[str, Any]]]:
    """Build a detector in evaluation mode with the weights of a checkpoint; ``MODEL.NASNET.PRETRAINED`` is not read.

    Returns:
        the model, and what :func:`load_for_inference` returns.

    Raises:
        ConfigError: if the config describes no detector.
        CheckpointError: if no checkpoint is named, before anything is built; see also :func:`load_for_inference`.
    """
    if not weights:
        raise CheckpointError("the config names no checkpoint: give one with --weights or MODEL.WEIGHTS")
    model = build_detector(with_weights(cfg, weights)).eval()
    return model, load_for_inference(model, weights, cfg)


def load_for_inference(model: nn.Module, weights: str, cfg: CfgNode | None = None) -> list[dict[str, Any]]:
    """Load the weights that a detector is evaluated, used or exported with; every layer must get its own.

    Args:
        model: the detector.
        weights: the path of a checkpoint.
        cfg: its config. Where the checkpoint holds that of its training, anchors, pixels and boxes of another meaning,
            which fit the same weights, are warned of.

    Returns:
        ``id`` and ``name`` of each class; empty if the checkpoint does not say.

    Raises:
        CheckpointError: if the file is missing, damaged, of another network or of other classes.
    """
    protect([weights])
    checkpointer = Checkpointer(model)
    checkpointer.complete = True
    loaded = checkpointer.load(weights, checkpointables=[])
    if cfg is not None and (others := _other_meanings(loaded.get("config"), cfg)):
        logger.warning(
            f"{weights} was trained with other settings than this config's: {'; '.join(others)}. What it detects is "
            "then wrong: give the config.yaml of the run that saved it, or set these as they were"
        )
    return loaded["categories"] if _names(loaded.get("categories")) else []


def _other_meanings(stored: Any, cfg: CfgNode) -> list[str]:
    """Return the settings of ``_MEANINGS`` in which a config differs from the one that a checkpoint holds, if any."""
    try:
        there = parse_yaml(stored)
    except (ValueError, TypeError, AttributeError):
        return []
    here = parse_yaml(cfg.dump())
    pairs = [(key, _setting(there, key), _setting(here, key)) for key in _MEANINGS]
    return [
        f"{key} {format_value(own)} (here {format_value(given)})"
        for key, own, given in pairs
        if own not in (None, given)
    ]


def _setting(config: Any, key: str) -> Any:
    for part in key.split("."):
        config = config.get(part) if isinstance(config, dict) else None
    return config


def _names(categories: Any) -> list[str]:
    """Return the names of categories; empty if these are not ``id`` and ``name`` of each."""
    if not isinstance(categories, list) or not all(isinstance(entry, dict) for entry in categories):
        return []
    named = all(type(entry.get("id")) is int and isinstance(entry.get("name"), str) for entry in categories)
    return [entry["name"] for entry in categories] if named else []


def _is_weight(name: str) -> bool:
    """Return False for what checkpoints of a network may have or lack."""
    return not name.endswith(("num_batches_tracked", DIGEST))


def _check_complete(model: nn.Module, incompatible: Any) -> None:
    """Raise :class:`CheckpointError` for layers that the checkpoint lacks, or has in another shape."""
    for name, stored, wanted in incompatible.incorrect_shapes:
        if name.endswith(_CLASS_LAYERS) and stored[1:] == wanted[1:]:
            rows, classes = _rows_of_a_class(model, name)
            there, here = ((shape[0] - classes) // rows for shape in (stored, wanted))
            raise CheckpointError(
                f"the checkpoint is of {there} classes, the config of {here}: set MODEL.ROI_HEADS.NUM_CLASSES "
                f"(MODEL.RETINANET.NUM_CLASSES) to {there}, or give another checkpoint"
            )
    wrong = [f"{name} is {stored}, expected {wanted}" for name, stored, wanted in incompatible.incorrect_shapes]
    missing = [f"no {name}" for name in incompatible.missing_keys if not name.endswith("num_batches_tracked")]
    if problems := wrong + missing:
        raise CheckpointError(
            f"the checkpoint does not fill the model of the config: {', '.join(problems[:3])}"
            + (f" and {len(problems) - 3} more" if len(problems) > 3 else "")
            + "; these layers would stay random. Give the config.yaml of the run that saved it"
        )


def _check_backbone(model: nn.Module, incompatible: Any) -> None:
    """Raise :class:`CheckpointError` for a checkpoint from which a backbone gets nothing: only heads may be new."""
    names = [name for name, _ in model.named_parameters() if name.startswith("backbone.")]
    names = [name for name in names if ".bottom_up." in name] or names  # a feature pyramid is one of the heads
    absent = {*incompatible.missing_keys, *(name for name, *_ in incompatible.incorrect_shapes)}
    if names and absent.issuperset(names):
        raise CheckpointError(
            f"the checkpoint holds none of the weights of the model's backbone, such as {names[0]}, which would stay "
            "random: give one of this backbone as MODEL.WEIGHTS, or '' to start from random weights"
        )


def _rows_of_a_class(model: nn.Module, layer: str) -> tuple[int, int]:
    """The rows of a layer's weight for each class, and those for the background."""
    if layer.startswith("head."):  # RetinaNet: a row for each anchor and class, none for the background
        convolution: Any = model.get_submodule(layer.removesuffix(".weight"))
        return convolution.out_channels // int(cast(Any, model).num_classes), 0
    return 1, 1
