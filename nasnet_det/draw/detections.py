"""Detections as pictures: boxes with their names and masks on one image, and two detectors side by side (paper, figure
9)."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from nasnet_det.draw.fonts import font_for, readable_names
from nasnet_det.safe_io.images import as_rgb

#: Each hue is this far round the circle from the last, so that any few in a row are far apart.
_GOLDEN_RATIO = 0.618034
_MARGIN = 8
#: How much of a mask's colour covers the pixels below it, of 255.
_MASK_OPACITY = 110
#: Left, top, right, bottom in pixels.
_Rectangle = tuple[float, float, float, float]


@dataclass(frozen=True)
class Detection:
    """A labelled box on an image, with a mask or without.

    Args:
        box: left, top, right, bottom in pixels.
        category: number of the category, which gives the colour.
        label: text drawn at the box.
        mask: the object's pixels ``(H, W)`` of the image, boolean.
    """

    box: tuple[float, float, float, float]
    category: int
    label: str
    mask: np.ndarray | None = field(default=None, compare=False)

    @classmethod
    def scaled(cls, box: Sequence[float], scale: tuple[float, float], category: int, label: str) -> Detection:
        """Build from a box as COCO has it, x, y, width, height, on an image scaled in width and height."""
        x, y, width, height = box
        corners = (x * scale[0], y * scale[1], (x + width) * scale[0], (y + height) * scale[1])
        return cls(corners, category, label)


def detections_of(instances: Any, names: Sequence[str], threshold: float = 0.0) -> list[Detection]:
    """Return detectron2's ``Instances`` of at least ``threshold`` as detections labelled ``name 87%``, the best first.

    A class without a name, or with one that no installed font can draw, is labelled by its number.
    """
    found, names = [], readable_names(names)
    boxes, scores = instances.pred_boxes.tensor.tolist(), instances.scores.tolist()
    masks = getattr(instances, "pred_masks", None)
    for number, (box, score) in enumerate(zip(boxes, scores, strict=True)):
        if score >= threshold:
            category = int(instances.pred_classes[number])
            name = names[category] if category < len(names) else f"class {category}"
            mask = None if masks is None else np.asarray(masks[number])
            found.append((score, Detection(tuple(box), category, f"{name} {score:.0%}", mask)))
    return [detection for _, detection in sorted(found, key=lambda pair: pair[0], reverse=True)]


def colour(category: int) -> tuple[int, int, int]:
    """Return the RGB colour of a category, always the same."""
    red, green, blue = colorsys.hsv_to_rgb(category * _GOLDEN_RATIO % 1.0, 0.75, 0.95)
    return round(255 * red), round(255 * green), round(255 * blue)


def shrink(image: Image.Image, side: int) -> tuple[float, float]:
    """Scale an image in place to at most ``side`` pixels; return its new width and height as shares of the old."""
    width, height = image.size
    image.thumbnail((side, side))
    return image.width / width, image.height / height


def draw(image: Image.Image, detections: Sequence[Detection]) -> Image.Image:
    """Return a copy of ``image`` in RGB with every detection drawn on it, the first on top: masks, boxes, labels.

    A label covers an earlier one only where no other position at its box is free.
    """
    picture = as_rgb(image)
    pen = ImageDraw.Draw(picture)
    side = min(picture.size)
    size, width = max(11, side // 32), max(2, side // 200)
    fonts = [font_for(detection.label, size) for detection in detections]
    for detection in reversed(detections):
        if detection.mask is not None:
            cover = Image.fromarray(np.where(detection.mask, _MASK_OPACITY, 0).astype(np.uint8))
            picture.paste(colour(detection.category), mask=cover)
    for detection in reversed(detections):
        pen.rectangle(_inside(detection.box, picture.size), outline=colour(detection.category), width=width)
    labels: list[_Rectangle] = []
    for detection, font in zip(detections, fonts, strict=True):
        labels.append(_label_rectangle(pen, detection, font, picture.size, labels))
    for detection, font, label in reversed(list(zip(detections, fonts, labels, strict=True))):
        _write_label(pen, detection, font, label)
    return picture


def side_by_side(pictures: Sequence[Image.Image], titles: Sequence[str]) -> Image.Image:
    """Return pictures of one size in a row, each under its title."""
    size = max(13, pictures[0].height // 28)
    header = size + 2 * _MARGIN
    width = sum(picture.width for picture in pictures) + _MARGIN * (len(pictures) - 1)
    row = Image.new("RGB", (width, header + max(picture.height for picture in pictures)), "white")
    pen, x = ImageDraw.Draw(row), 0
    for picture, title in zip(pictures, titles, strict=True):
        middle = (x + picture.width / 2, header / 2)
        pen.text(middle, title, fill="black", font=font_for(title, size), anchor="mm")
        row.paste(picture, (x, header))
        x += picture.width + _MARGIN
    return row


def grid(pictures: Sequence[Image.Image], columns: int, size: tuple[int, int]) -> Image.Image:
    """Return one sheet of pictures in rows of ``columns``, each scaled down to ``size`` (width, height)."""
    rows = -(-len(pictures) // columns)
    step = (size[0] + _MARGIN, size[1] + _MARGIN)
    sheet = Image.new("RGB", (step[0] * columns - _MARGIN, step[1] * rows - _MARGIN), "white")
    for number, picture in enumerate(pictures):
        small = picture.copy()
        small.thumbnail(size)
        x, y = number % columns * step[0], number // columns * step[1]
        sheet.paste(small, (x + (size[0] - small.width) // 2, y + (size[1] - small.height) // 2))
    return sheet


def _inside(box: Sequence[float], size: tuple[int, int]) -> _Rectangle:
    """Clip ``box`` to an image of ``size`` (width, height) and sort its corners."""
    x0, x1 = (min(max(x, 0), size[0] - 1) for x in (box[0], box[2]))
    y0, y1 = (min(max(y, 0), size[1] - 1) for y in (box[1], box[3]))
    return min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1)


def _label_rectangle(
    pen: ImageDraw.ImageDraw, detection: Detection, font: Any, size: tuple[int, int], taken: Sequence[_Rectangle]
) -> _Rectangle:
    """Return the first free rectangle inside the image: above the box, in its upper edge, below it, in its lower edge,
    each flush left or flush right; the first of these inside the image if all are taken."""
    x0, y0, x1, y1 = _inside(detection.box, size)
    left, top, right, bottom = pen.textbbox((0, 0), detection.label, font=font)
    width, height = right - left + 4, bottom - top + 4
    rows = [y for y in (y0 - height, y0, y1, y1 - height) if 0 <= y <= size[1] - height] or [0]
    columns = [max(0, min(x, size[0] - width)) for x in (x0, x1 - width)]
    positions = [(x, y, x + width, y + height) for y in rows for x in columns]
    return next((spot for spot in positions if not any(_overlap(spot, other) for other in taken)), positions[0])


def _overlap(one: _Rectangle, other: _Rectangle) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _write_label(pen: ImageDraw.ImageDraw, detection: Detection, font: Any, label: _Rectangle) -> None:
    fill = colour(detection.category)
    pen.rectangle(label, fill=fill)
    light = 0.299 * fill[0] + 0.587 * fill[1] + 0.114 * fill[2] > 140
    left, top, _, _ = pen.textbbox((0, 0), detection.label, font=font)
    start = (label[0] + 2 - left, label[1] + 2 - top)
    pen.text(start, detection.label, fill="black" if light else "white", font=font)
