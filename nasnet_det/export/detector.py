"""Whole detectors as programs for export."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources
from itertools import cycle, islice
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.modeling import GeneralizedRCNN
from detectron2.modeling.roi_heads import CascadeROIHeads, StandardROIHeads
from PIL import Image
from torch import Tensor

from nasnet_det.detection.data.catalog import categories as registered_categories
from nasnet_det.detection.data.registered import num_classes
from nasnet_det.detection.modeling.rcnn import NASNetRCNN
from nasnet_det.detection.modeling.roi_heads import NASNetROIHeads
from nasnet_det.export.fixed_detections import ExportableDetector, Size, in_order_of
from nasnet_det.export.paper_detector import PaperDetector
from nasnet_det.export.programs import Program
from nasnet_det.export.pyramid_detector import PyramidDetector


def detector_program(
    model: GeneralizedRCNN,
    cfg: CfgNode,
    image_size: Size | None = None,
    batch_size: int = 2,
    categories: Sequence[Any] = (),
) -> Program:
    """Return the program of a whole detector, whose number and size of images stay free.

    Args:
        model: built from ``cfg``.
        cfg: its config.
        image_size: height and width of the example image; the config's ``MODEL.NASNET.IMAGE_SIZE``, or else 320 x 384,
            if None. Other sizes work as well.
        batch_size: images of the example.
        categories: ``id`` and ``name`` of each class; those of the first of ``DATASETS.TEST`` if empty.

    Raises:
        ValueError: for a detector of a kind that has no export.
    """
    height, width = image_size or cfg.MODEL.NASNET.IMAGE_SIZE
    if not (height and width):
        height, width = 320, 384
    detector = exportable_detector(model)
    example = sample_pictures(batch_size, (height, width), cfg.INPUT.FORMAT)
    categories = categories or (registered_categories(cfg.DATASETS.TEST[0]) if cfg.DATASETS.TEST else [])
    description = {**_describe(cfg), "categories": list(categories), "least_side": detector.least_side}
    return Program(detector, example, detector.outputs, (0, 2, 3), description, in_order_of)


def sample_pictures(count: int, size: Size, channels: str = "RGB") -> Tensor:
    """Return photographs of the package as detectors take them: ``(count, 3, height, width)``, float32, 0 to 255.

    Random pixels would compare nothing: trained detectors find no object in them.

    Args:
        count: how many; beyond nine they repeat.
        size: height and width to resize them to.
        channels: ``RGB`` or ``BGR``, detectron2's ``INPUT.FORMAT``.
    """
    folder = resources.files("nasnet_det.detection") / "assets" / "samples"
    files = sorted((file for file in folder.iterdir() if file.name.endswith(".jpg")), key=lambda file: file.name)
    pictures = []
    for file in islice(cycle(files), count):
        with file.open("rb") as stream, Image.open(stream) as picture:
            pixels = np.asarray(picture.convert("RGB").resize(size[::-1]), dtype=np.float32)
        pictures.append(torch.from_numpy(pixels[..., ::-1].copy() if channels == "BGR" else pixels))
    return torch.stack(pictures).permute(0, 3, 1, 2).contiguous()


def exportable_detector(model: GeneralizedRCNN) -> ExportableDetector:
    """Return the form of a detector that can be exported.

    Raises:
        ValueError: for a detector of another kind, or one without a limit to its detections.
    """
    heads = getattr(model, "roi_heads", None)
    if isinstance(model, NASNetRCNN) and isinstance(heads, NASNetROIHeads):
        proposals = model.proposal_generator.max_proposals[1]
        most = heads.most_at_once(torch.float32)
        return PaperDetector(model, max(size for size in range(1, min(proposals, most) + 1) if not proposals % size))
    if type(heads) in (StandardROIHeads, CascadeROIHeads):
        return PyramidDetector(model)
    raise ValueError(
        f"a {type(model).__name__} has no export: expected the paper's detector, or Faster, Cascade or Mask R-CNN on a "
        "feature pyramid, without test-time augmentation (TEST.AUG.ENABLED False)"
    )


def _describe(cfg: CfgNode) -> dict[str, Any]:
    """Return the description in the exported file: channel order, resizing, the number of classes and the config."""
    return {
        "kind": "detector",
        "channels": cfg.INPUT.FORMAT,
        "resize_shortest": [cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST],
        "num_classes": num_classes(cfg),
        "config": cfg.dump(),
    }
