"""Boxes that show nothing, or that look as if they were given in another format than COCO's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nasnet_det.detection.data.columns import Record

#: A box may end this many pixels past its image, as rounding makes it.
ROUNDING = 1.0


@dataclass(frozen=True)
class BoxMarks:
    """Which of some boxes are odd: an array of True and False for each kind, ``(N,)``.

    Args:
        unsound: of negative size or not finite.
        empty: without area.
        outside: not in their image at all.
        past: reaching past their image.
        small: about a pixel wide or high, or less.
        question: a question on their format, where nearly all make sense in another one only.
    """

    unsound: np.ndarray
    empty: np.ndarray
    outside: np.ndarray
    past: np.ndarray
    small: np.ndarray
    question: str = ""


def mark_boxes(boxes: np.ndarray, sizes: np.ndarray) -> BoxMarks:
    """Look for odd boxes.

    Args:
        boxes: x, y, width and height, float64, ``(N, 4)``.
        sizes: width and height of the image of each, ``(N, 2)``.
    """
    corner, extent = boxes[:, :2], boxes[:, 2:]
    with np.errstate(invalid="ignore", over="ignore"):
        end = corner + extent
        unsound = ~np.isfinite(boxes).all(axis=1) | (extent < 0).any(axis=1)
        empty = ~unsound & (extent == 0).any(axis=1)
        outside = ~unsound & ~empty & (np.minimum(end, sizes) <= np.maximum(corner, 0)).any(axis=1)
        past = ~unsound & ~outside & ((end > sizes + ROUNDING) | (corner < -ROUNDING)).any(axis=1)
        in_unit = (corner >= -1).all(axis=1) & (end <= 2).all(axis=1)  # Pascal VOC's pixels count from 1
        small = ~unsound & ~empty & ~outside & ((extent <= 1).any(axis=1) | in_unit)
        ordered = ((corner >= -1) & (extent >= corner) & (extent <= sizes + 1)).all(axis=1)
        around = (corner - extent / 2 >= -ROUNDING).all(axis=1) & (corner + extent / 2 <= sizes + ROUNDING).all(axis=1)
    question = ""
    if small.any() and in_unit.mean() > 0.9:
        question = "are they given in shares of the image, 0 to 1? COCO's are in pixels"
    elif past.any() and past.mean() > 0.1 and ordered.mean() > 0.95:
        question = "are they given as x0, y0, x1, y1? COCO's are x, y, width, height"
    elif past.any() and past.mean() > 0.1 and around.mean() > 0.95:
        question = "are they given by their centres? COCO's x, y are those of the upper left corner"
    return BoxMarks(unsound, empty, outside, past, small, question)


def format_question(entries: Sequence[Record], images: Sequence[Record]) -> str:
    """Return counts of odd boxes and a question, if nearly all entries have boxes of another format; else nothing.

    Args:
        entries: annotations or detections with checked boxes.
        images: theirs; those without ``width`` and ``height`` tell nothing.
    """
    sizes = {image["id"]: (image["width"], image["height"]) for image in images if {"width", "height"} <= {*image}}
    known = [entry for entry in entries if entry["image_id"] in sizes]
    boxes = np.array([entry["bbox"] for entry in known], dtype=np.float64).reshape(-1, 4)
    marks = mark_boxes(boxes, np.array([sizes[entry["image_id"]] for entry in known]).reshape(-1, 2))
    if not marks.question:
        return ""
    counts = (
        f"{marks.past.sum()} of {len(known)} boxes reach past their image, {marks.small.sum()} are about a pixel large"
    )
    return f"{counts}: {marks.question}"
