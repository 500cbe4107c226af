"""A trained detector on images: built from a run folder, a checkpoint or a config, given images, giving detections."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import transforms
from detectron2.structures import Instances
from PIL import Image

from nasnet_det.detection.config import ConfigError, read_config
from nasnet_det.detection.convert.checkpoint_files import read_checkpoint_file
from nasnet_det.detection.convert.identity import CheckpointError
from nasnet_det.detection.data.catalog import categories
from nasnet_det.detection.data.registered import num_classes
from nasnet_det.detection.engine.checkpointer import build_for_inference
from nasnet_det.detection.modeling.fused import for_inference
from nasnet_det.safe_io.files import exists
from nasnet_det.safe_io.images import ImageError, as_rgb

#: Weights that a run folder may hold, the best first.
_WEIGHTS = ("model.safetensors", "model_best.pth", "model_final.pth")


def load_config(path: str | Path, opts: Sequence[Any] = (), weights: str = "") -> CfgNode:
    """Read a detector's config, for a GPU if there is one.

    Args:
        path: a YAML file, the name of one that comes with the package, a run folder, or a checkpoint that holds its
            config, as all do that this package writes.
        opts: changes, ``KEY VALUE`` in turn.
        weights: the checkpoint, instead of the folder's or the config's own.

    Raises:
        ConfigError: for a file that is missing or broken, a key that does not exist, or a value that does not fit.
        CheckpointError: for a checkpoint that cannot be read.
    """
    path = Path(path)
    if path.is_dir():
        cfg = read_config(_in_folder(path, "config.yaml"), opts)
        cfg.MODEL.WEIGHTS = str(weights_in(path)) if not weights else ""
    elif path.suffix in (".yaml", ".yml", ".py") or (not path.suffix and not _is_binary(path)):
        cfg = read_config(path, opts)
    else:
        cfg = _config_of_checkpoint(path, opts)
        cfg.MODEL.WEIGHTS = str(path)
    cfg.MODEL.WEIGHTS = weights or cfg.MODEL.WEIGHTS
    if cfg.MODEL.DEVICE.startswith("cuda") and not torch.cuda.is_available():
        cfg.MODEL.DEVICE = "cpu"
    return cfg


def _is_binary(path: Path) -> bool:
    """Return True for a binary file, such as a checkpoint."""
    if not exists(path):
        return False
    with path.open("rb") as file:
        return b"\0" in file.read(1024)


def weights_in(folder: Path) -> Path:
    """Return the best weights in a run folder; raise ConfigError if it holds none."""
    return _in_folder(folder, *_WEIGHTS)


def _in_folder(folder: Path, *names: str) -> Path:
    found = next((folder / name for name in names if (folder / name).is_file()), None)
    if found is None:
        raise ConfigError(f"{folder} is not the folder of a finished run: it has no {' or '.join(names)}")
    return found


def _config_of_checkpoint(path: Path, opts: Sequence[Any]) -> CfgNode:
    if not path.is_file():
        raise CheckpointError(f"checkpoint {path} does not exist")
    text = read_checkpoint_file(str(path)).get("config")
    if not isinstance(text, str):
        raise ConfigError(f"{path} does not hold its config: give it with --config-file, and {path} with --weights")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "config.yaml"
        file.write_text(text, encoding="utf-8")
        try:
            return read_config(file, opts)
        except ConfigError as error:
            raise ConfigError(str(error).replace(str(file), f"of {path}")) from None


class Predictor:
    """A detector in evaluation mode, for one image at a time.

    Args:
        cfg: its config; ``MODEL.WEIGHTS`` names the checkpoint.

    Attributes:
        categories: ``id`` and ``name`` of each class, as the checkpoint or else the first of ``DATASETS.TEST`` has
            them; empty where neither knows as many classes as the model.
        num_classes: how many classes the model tells apart.
        has_masks: True if it predicts masks, too.

    Raises:
        ConfigError: if the config describes no detector.
        CheckpointError: if the checkpoint is not named, cannot be read, or leaves a layer of the model unfilled.
    """

    def __init__(self, cfg: CfgNode) -> None:
        self.format, self.num_classes, self.has_masks = cfg.INPUT.FORMAT, num_classes(cfg), bool(cfg.MODEL.MASK_ON)
        model, stored = build_for_inference(cfg, cfg.MODEL.WEIGHTS)
        known = stored or (categories(cfg.DATASETS.TEST[0]) if cfg.DATASETS.TEST else [])
        self.categories = known if len(known) == self.num_classes else []
        self.model = for_inference(model, cfg)
        self.resize = transforms.ResizeShortestEdge(cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST)

    @torch.inference_mode()
    def __call__(self, image: Image.Image) -> Instances:
        """Detect on an image; ``pred_boxes`` are in its own pixels, on the CPU.

        Raises:
            ImageError: if the image is too narrow when it is resized, or has no form as 8-bit RGB.
        """
        pixels = np.asarray(as_rgb(image))
        if self.format == "BGR":
            pixels = pixels[:, :, ::-1]
        try:
            resized = self.resize.get_transform(pixels).apply_image(pixels)
        except ValueError as error:
            raise ImageError(f"{image.width} x {image.height} pixels are too narrow to be resized ({error})") from None
        tensor = torch.as_tensor(np.ascontiguousarray(resized.transpose(2, 0, 1)).astype("float32"))
        record = {"image": tensor, "height": image.height, "width": image.width}
        return self.model([record])[0]["instances"].to("cpu")
