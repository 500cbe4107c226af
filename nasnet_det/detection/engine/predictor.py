"""A trained detector on images: built from a config and a checkpoint, given files, giving detections."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog, transforms
from detectron2.structures import Instances
from PIL import Image, ImageOps

from nasnet_det.detection.config import read_config
from nasnet_det.detection.engine.trainer import Checkpointer
from nasnet_det.detection.modeling.fused import for_inference
from nasnet_det.detection.modeling.rcnn import build_detector

#: What is taken for an image in a folder.
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")


def load_config(path: str | Path, opts: Sequence[Any] = (), weights: str = "") -> CfgNode:
    """A detector's config, for a GPU if there is one.

    Args:
        path: a YAML file, or the name of one that comes with the package.
        opts: changes, ``KEY VALUE`` in turn.
        weights: the checkpoint, instead of the config's own.

    Raises:
        ConfigError: for a file that is missing or broken, a key that does not exist, or a value that does not fit.
    """
    cfg = read_config(path, opts)
    cfg.MODEL.WEIGHTS = weights or cfg.MODEL.WEIGHTS
    if cfg.MODEL.DEVICE.startswith("cuda") and not torch.cuda.is_available():
        cfg.MODEL.DEVICE = "cpu"
    return cfg


def categories_of(dataset_name: str) -> list[dict[str, Any]]:
    """The ``id`` and ``name`` of each class of a registered data set, in the order of the classes, as far as known."""
    metadata = MetadataCatalog.get(dataset_name)
    names = metadata.get("thing_classes", [])
    positions = metadata.get("thing_dataset_id_to_contiguous_id") or {i + 1: i for i in range(len(names))}
    return [{"id": i, "name": names[place]} for i, place in sorted(positions.items(), key=lambda item: item[1])]


class Predictor:
    """A detector in evaluation, one image at a time.

    Args:
        cfg: its config; ``MODEL.WEIGHTS`` names the checkpoint, and the first of ``DATASETS.TEST`` the classes.

    Raises:
        FileNotFoundError: if the config names no checkpoint, or one that is not there.
        ConfigError: if the config describes no detector.
        CheckpointError: if the checkpoint cannot be read.
    """

    def __init__(self, cfg: CfgNode) -> None:
        weights = cfg.MODEL.WEIGHTS
        if not weights:
            raise FileNotFoundError("the config names no checkpoint: give one with --weights or MODEL.WEIGHTS")
        if "://" not in weights and not Path(weights).is_file():
            raise FileNotFoundError(f"there is no checkpoint {weights}")
        self.format = cfg.INPUT.FORMAT
        self.categories = categories_of(cfg.DATASETS.TEST[0]) if cfg.DATASETS.TEST else []
        self.model = build_detector(cfg).eval()
        Checkpointer(self.model).load(weights)
        self.model = for_inference(self.model, cfg)
        self.resize = transforms.ResizeShortestEdge(cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST)

    @torch.inference_mode()
    def __call__(self, image: Image.Image) -> Instances:
        """Detect on an RGB image; ``pred_boxes`` are in its own pixels, on the CPU."""
        pixels = np.asarray(image.convert("RGB"))
        if self.format == "BGR":
            pixels = pixels[:, :, ::-1]
        resized = self.resize.get_transform(pixels).apply_image(pixels)
        tensor = torch.as_tensor(np.ascontiguousarray(resized.transpose(2, 0, 1)).astype("float32"))
        record = {"image": tensor, "height": image.height, "width": image.width}
        return self.model([record])[0]["instances"].to("cpu")


def find_images(inputs: Sequence[str]) -> list[Path]:
    """The image files that paths, folders (not those below them) and globs name, in order, each once.

    Raises:
        FileNotFoundError: for an input that names no image.
    """
    found: dict[Path, None] = {}
    for name in inputs:
        path = Path(name).expanduser()
        if path.is_dir():
            files = sorted(file for file in path.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES)
        elif path.is_file():
            files = [path]
        else:
            anchor = Path(path.anchor)
            files = sorted(file for file in anchor.glob(str(path.relative_to(anchor))) if file.is_file())
        if not files:
            raise FileNotFoundError(f"{name} names no image: neither a file, nor a folder or glob with images")
        found.update(dict.fromkeys(files))
    return list(found)


def read_image(path: Path) -> Image.Image:
    """An image in RGB, turned as its EXIF says.

    Raises:
        OSError: if it cannot be read whole.
    """
    try:
        with Image.open(path) as file:
            return ImageOps.exif_transpose(file).convert("RGB")
    except (SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        raise OSError(str(error)) from error
