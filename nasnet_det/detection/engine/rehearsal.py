"""A training step on a made image, before any data are read: detectron2's parts refuse much of a config only then."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.data import transforms
from detectron2.structures import BoxMode
from detectron2.utils.events import EventStorage
from PIL import Image
from torch import nn

from nasnet_det.detection.config import ConfigError, network_arguments
from nasnet_det.detection.data.mapper import DetectionMapper
from nasnet_det.detection.modeling.backbone import build_network
from nasnet_det.detection.modeling.rcnn import REFUSALS
from nasnet_det.safe_io.images import ImageError
from nasnet_det.safe_io.values import one_line

#: The side of the made image, in pixels.
_SIDE = 128
#: The architectures whose input is known.
_KNOWN = ("GeneralizedRCNN", "NASNetRCNN", "RetinaNet", "FCOS")


def small(cfg: CfgNode) -> CfgNode:
    """Return a config of the same parts around a thin network with random weights, which takes images at their size.

    Its norms take the images' statistics, as activations of random weights grow without bound by fixed ones.

    Raises:
        ConfigError, GenotypeError: for a network that cannot be built at its full width.
    """
    if "nasnet" in cfg.MODEL.BACKBONE.NAME:
        with torch.device("meta"):
            build_network(**{**network_arguments(cfg), "pretrained": ""})
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.WEIGHTS = cfg.MODEL.NASNET.PRETRAINED = ""
    cfg.MODEL.NASNET.IMAGE_SIZE = [0, 0]
    cfg.MODEL.NASNET.NORM = "BN"
    cfg.MODEL.NASNET.NUM_CELLS, cfg.MODEL.NASNET.NUM_FILTERS = 1, 8
    return cfg


def rehearse(cfg: CfgNode, model: nn.Module) -> None:
    """Load a made image as in training, compute a training step's losses of it, and detect on it.

    Args:
        cfg: the config.
        model: built for :func:`small` of it; its statistics are changed.

    Raises:
        ConfigError: with what the part that failed says.
    """
    if cfg.MODEL.META_ARCHITECTURE not in _KNOWN:
        return
    with refusing("INPUT"):
        image = _made_image(cfg)
    with EventStorage(0), torch.no_grad():
        try:
            with refusing("MODEL"):
                losses = model.train()([image])
        except FloatingPointError:  # of random weights
            return
        if undefined := [name for name, loss in losses.items() if "nasnet" in cfg.MODEL.BACKBONE.NAME and loss.isnan()]:
            raise ConfigError(f"MODEL of the config does not work: on a made image {', '.join(undefined)} is NaN")
        with refusing("MODEL or TEST"):
            model.eval()([image])


@contextmanager
def refusing(section: str) -> Iterator[None]:
    """Turn what detectron2's parts raise for a config into an error that names the section.

    Raises:
        ConfigError: with the reason.
    """
    try:
        yield
    except (ConfigError, FloatingPointError, torch.OutOfMemoryError):
        raise
    except REFUSALS as error:
        if type(error).__module__.startswith("nasnet_det."):
            raise
        raise ConfigError(
            f"{section} of the config does not work, tried before the data are read ({type(error).__name__}: "
            f"{one_line(error)})"
        ) from error


def _made_image(cfg: CfgNode) -> dict[str, Any]:
    """Return a made image of one object as the mapper gives it to the model, at its own size."""
    mapper = DetectionMapper(cfg, is_train=True)
    low, high = _SIDE // 4, 3 * _SIDE // 4
    outline = [low, low, high, low, high, high, low, high]
    entry = {"bbox": [low, low, high, high], "bbox_mode": BoxMode.XYXY_ABS, "category_id": 0, "segmentation": [outline]}
    record = {"image_id": 1, "height": _SIDE, "width": _SIDE, "annotations": [{**entry, "iscrowd": 0}]}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "made.png")
        Image.effect_noise((_SIDE, _SIDE), 64).convert("RGB").save(file)
        record["file_name"] = str(file)
        with suppress(ImageError):  # too small to be cropped so
            mapper(record)
        mapper.augmentations = transforms.AugmentationList([])
        return mapper(record)
