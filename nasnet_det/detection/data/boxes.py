"""Boxes that show nothing, or that look as if they were given in another format than COCO's."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from nasnet_det.detection.data.columns import Record
from nasnet_det.detection.data.look import CORRECT, LEFT_OUT, STAY

#: A box may end this many pixels past its image, as rounding makes it.
ROUNDING = 1.0
#: So many boxes show their format by where they are, or were misread; few may be there by chance.
_ENOUGH, _ENOUGH_AT_EDGES = 20, 100
_CORNERS = "are they given as x0, y0, x1, y1? COCO's are x, y, width, height"
_CENTRES = "are they given by their centres? COCO's x, y are those of the upper left corner"
_READ_CORNERS = "were they x0, y0, x1, y1, and read as centre, width and height, as YOLO's are?"
_READ_UPPER_LEFT = "were x, y those of the upper left corner, and read as the centre's, as YOLO's are?"


#: A kind of trouble, True for each of its boxes, and how training and test sets handle them.
OddBoxes = tuple[str, np.ndarray, str, str]


def find_odd_boxes(boxes: np.ndarray, sizes: np.ndarray) -> tuple[list[OddBoxes], str]:
    """Look for boxes that show nothing or reach past their image, and for signs of another format.

    Args:
        boxes: x, y, width and height, float64, ``(N, 4)``.
        sizes: width and height of the image of each, ``(N, 2)``.

    Returns:
        the troubles, and a question on the boxes' format where nearly all make sense in another one only.
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
        half = extent / 2
        others = {_CORNERS: (corner, extent), _CENTRES: (corner - half, corner + half)}
        if len(boxes) >= _ENOUGH:
            others |= {_READ_CORNERS: (corner + half, extent), _READ_UPPER_LEFT: (corner + half, end + half)}
        fitting = {text: _share_in_image(*corners, sizes) for text, corners in others.items()}
    question = ""
    if small.any() and in_unit.mean() > 0.9:
        question = "are they given in shares of the image, 0 to 1? COCO's are in pixels"
    elif past.any() and past.mean() > 0.1:
        question = next((text for text, share in fitting.items() if share > 0.95), "")
    elif (whole := ~(unsound | empty | outside)).sum() >= _ENOUGH and whole.mean() > 0.95:
        question = _question_of_positions(boxes[whole], sizes[whole], fitting[_CORNERS], fitting[_CENTRES])
    unseen = np.full(len(boxes), bool(question) and not (past | small).any())
    more = f"; {question}" if question else ""
    used, cut, whole_too = f"They are used{more}", f"They are cut at its edges{more}", f"They are scored whole{more}"
    odd = [
        ("boxes are of negative size or not finite", unsound, LEFT_OUT, CORRECT),
        ("boxes are without area", empty, LEFT_OUT, STAY),
        ("boxes are outside their image", outside, LEFT_OUT, STAY),
        ("boxes reach past their image", past, cut, whole_too),
        ("boxes are about a pixel wide or high, or less", small, used, used),
        ("boxes are in their images, but oddly placed", unseen, used, used),
    ]
    return odd, question


def _share_in_image(low: np.ndarray, high: np.ndarray, sizes: np.ndarray) -> float:
    """Return the share of boxes with these corners that are in their images."""
    inside = (low >= -ROUNDING) & (high >= low) & (high <= sizes + ROUNDING)
    return float(inside.all(axis=1).mean()) if len(inside) else 0.0


def _question_of_positions(boxes: np.ndarray, sizes: np.ndarray, ordered: float, around: float) -> str:
    """Return the question on boxes' format that their positions raise where hardly one is past its image.

    Of COCO's boxes those further right are not wider, many touch the edges of their images, and none of the first
    hundred pixels alone.

    Args:
        boxes, sizes: finite, see :func:`find_odd_boxes`.
        ordered, around: the shares that would be boxes as corners, and inside their images as centres.
    """
    corner, extent, reach = boxes[:, :2], boxes[:, 2:], (boxes[:, :2] + boxes[:, 2:]).max(axis=0)
    for full in (100, 1000):
        if (0.9 * full < reach).all() and (reach < 1.01 * full).all() and 2 * full <= sizes.min():
            return f"are they given on a scale of 0 to {full}? COCO's are in pixels"
    if ordered > 0.95:
        with np.errstate(invalid="ignore"):  # of boxes that are all alike
            wider = [np.corrcoef(corner[:, axis] / sizes[:, axis], extent[:, axis] / sizes[:, axis]) for axis in (0, 1)]
        return _CORNERS if wider[0][0, 1] + wider[1][0, 1] > 0.2 else ""
    low, high = corner, sizes - corner  # of the given point to the edges
    at_edge = (np.minimum(abs(low - extent / 2), abs(high - extent / 2)) <= ROUNDING).any(axis=1)
    as_given = (np.minimum(abs(low), abs(high - extent)) <= ROUNDING).any(axis=1)
    enough = len(boxes) >= _ENOUGH_AT_EDGES and around > 0.95
    return _CENTRES if enough and at_edge.mean() > 0.03 and at_edge.sum() > 10 * as_given.sum() else ""


def format_question(entries: Sequence[Record], images: Sequence[Record]) -> str:
    """Return counts of odd boxes and a question, if nearly all entries have boxes of another format; else nothing.

    Args:
        entries: annotations or detections with checked boxes.
        images: theirs; those without ``width`` and ``height`` tell nothing.
    """
    sizes = {image["id"]: (image["width"], image["height"]) for image in images if {"width", "height"} <= {*image}}
    known = [entry for entry in entries if entry["image_id"] in sizes]
    boxes = np.array([entry["bbox"] for entry in known], dtype=np.float64).reshape(-1, 4)
    odd, question = find_odd_boxes(boxes, np.array([sizes[entry["image_id"]] for entry in known]).reshape(-1, 2))
    counts = [f"{marks.sum()} of {len(known)} {what}" for what, marks, *_ in odd if marks.any()]
    return f"{', '.join(counts)}: {question}" if question else ""
