"""Packaged detectors on images without detectron2: preprocessing and postprocessing of the exported graph."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from nasnet_det.detection.data.coco_masks import rle_of
from nasnet_det.export.package_files import PackageError
from nasnet_det.export.runtimes import Package, load_package
from nasnet_det.safe_io.images import ImageError, as_rgb


class BoxTensor(NamedTuple):
    """Boxes ``(D, 4)``, x0 y0 x1 y1 in pixels, under the name that detectron2's ``Boxes`` has for them."""

    tensor: Tensor


@dataclass(frozen=True)
class PackageDetections:
    """The detections on one image, best first, with the field names of detectron2's ``Instances``.

    Args:
        pred_boxes: the boxes, in pixels of the image.
        scores: ``(D,)``.
        pred_classes: ``(D,)``.
        pred_masks: ``(D, H, W)`` of the image's pixels, boolean; None without a mask head.
    """

    pred_boxes: BoxTensor
    scores: Tensor
    pred_classes: Tensor
    pred_masks: Tensor | None = None

    def __len__(self) -> int:
        return len(self.scores)

    def to_coco(self, image_id: int) -> list[dict[str, Any]]:
        """Return COCO results whose ``category_id`` is the number of the class, with masks as compressed RLE.

        Raises:
            ModuleNotFoundError: for masks if pycocotools is not installed.
        """
        boxes = torch.cat(
            [self.pred_boxes.tensor[:, :2], self.pred_boxes.tensor[:, 2:] - self.pred_boxes.tensor[:, :2]], 1
        )
        fields = zip(boxes.tolist(), self.scores.tolist(), self.pred_classes.tolist(), strict=True)
        results: list[dict[str, Any]] = [
            {"image_id": image_id, "category_id": label, "bbox": box, "score": score} for box, score, label in fields
        ]
        for result, mask in zip(results, () if self.pred_masks is None else self.pred_masks, strict=False):
            result["segmentation"] = rle_of(mask.numpy())
        return results


@dataclass(frozen=True)
class DetectorInput:
    """The form in which a detector takes images.

    Args:
        shortest: the length to which the shortest side is resized; 0 for no resizing.
        longest: the largest length of the longest side.
        is_bgr: whether the channels are in the order BGR.
        least: the smallest length of a side.
    """

    shortest: int
    longest: int
    is_bgr: bool
    least: int = 1

    @classmethod
    def from_description(cls, said: Mapping[str, Any]) -> DetectorInput:
        """Read an exported detector's description.

        Raises:
            LookupError, TypeError, ValueError: if it is damaged.
        """
        shortest, longest = (int(side) for side in said["resize_shortest"])
        return cls(shortest, longest, said["channels"] == "BGR", int(said.get("least_side", 1)))

    def resize(self, image: Image.Image) -> Image.Image:
        """Resize as detectron2's ``ResizeShortestEdge``: the shortest side to a length, the longest to at most one.

        Raises:
            ImageError: if the image is so narrow that a side becomes too short.
        """
        width, height = image.size
        if self.shortest:
            scale = self.shortest / min(image.size)
            sides = [float(self.shortest) if side == min(image.size) else scale * side for side in image.size]
            if max(sides) > self.longest:
                sides = [side * (self.longest / max(sides)) for side in sides]
            width, height = (int(side + 0.5) for side in sides)
        if min(width, height) < self.least:
            text = f"{image.width} x {image.height} pixels are too narrow: resized they are {width} x {height}"
            raise ImageError(f"{text}, and a side of {self.least} is needed")
        return image.resize((width, height), Image.Resampling.BILINEAR)

    def to_tensor(self, image: Image.Image) -> Tensor:
        """Return a resized RGB image as ``(1, 3, H, W)``, float32, 0 to 255."""
        pixels = np.asarray(image)[:, :, ::-1] if self.is_bgr else np.asarray(image)
        return torch.as_tensor(np.ascontiguousarray(pixels.transpose(2, 0, 1)).astype("float32"))[None]


class PackagedDetector:
    """A packaged detector for one image at a time.

    Args:
        package: a loaded package of a detector, or its file.
        runtime: see :func:`nasnet_det.export.load_package`.

    Attributes:
        categories: ``id`` and ``name`` of each class; empty where they are unknown.
        num_classes: how many classes the detector tells apart.
        has_masks: True if it predicts masks, too.

    Raises:
        PackageError: if the package is not one of a detector.
    """

    def __init__(self, package: Package | str | Path, runtime: str | None = None) -> None:
        self.package = package if isinstance(package, Package) else load_package(package, runtime)
        said = self.package.info.description
        if not self.package.info.is_detector:
            raise PackageError(f"{package}: this package is not one of a detector")
        try:
            self.categories = [{"id": int(one["id"]), "name": str(one["name"])} for one in said["categories"]]
            self.num_classes, self.input = int(said["num_classes"]), DetectorInput.from_description(said)
        except (LookupError, TypeError, ValueError) as error:
            raise PackageError(f"{package}: its description of the detector is damaged ({error})") from None
        self.has_masks = "masks" in self.package.info.outputs
        if len(self.categories) != self.num_classes:
            self.categories = []

    @torch.inference_mode()
    def __call__(self, image: Image.Image) -> PackageDetections:
        """Detect on an image.

        Raises:
            ImageError: if the image is too narrow when it is resized, or has no form as 8-bit RGB.
        """
        rgb = as_rgb(image)
        width, height = rgb.size
        resized = self.input.resize(rgb)
        boxes, scores, classes, count, *masks = self.package(self.input.to_tensor(resized))
        number = int(count[0])
        scale = torch.tensor([width / resized.width, height / resized.height]).repeat(2)
        boxes = torch.minimum(boxes[0, :number] * scale, torch.tensor([width, height]).repeat(2)).clamp(min=0)
        kept = (boxes[:, 2:] > boxes[:, :2]).all(dim=1)
        boxes, (scores, classes, *masks) = boxes[kept], (field[0, :number][kept] for field in (scores, classes, *masks))
        pasted = [paste_masks(of_boxes, boxes, (height, width)) for of_boxes in masks]
        return PackageDetections(BoxTensor(boxes), scores, classes, *pasted)


def paste_masks(masks: Tensor, boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Return masks ``(D, M, M)`` in their boxes ``(D, 4)`` as those of the whole image ``(D, H, W)``: True where the
    interpolated probability is at least 0.5.

    The same as detectron2's ``paste_masks_in_image`` (``layers/mask_ops.py``), pixel by pixel.
    """
    pasted = torch.zeros(len(masks), *size, dtype=torch.bool)
    for mask, box, whole in zip(masks, boxes, pasted, strict=True):
        # The pixels around the box, and their centres from -1 to 1 across it: rows, then columns.
        spans, centres = [], []
        for start, stop, side in ((box[1], box[3], size[0]), (box[0], box[2], size[1])):
            pixels = slice(max(int(start.floor()) - 1, 0), min(int(stop.ceil()) + 1, side))
            spans.append(pixels)
            centres.append((torch.arange(pixels.start, pixels.stop) + 0.5 - start) / (stop - start) * 2 - 1)
        rows, columns = torch.meshgrid(*centres, indexing="ij")
        grid = torch.stack([columns, rows], dim=-1)[None]
        whole[tuple(spans)] = functional.grid_sample(mask[None, None], grid, align_corners=False)[0, 0] >= 0.5
    return pasted
