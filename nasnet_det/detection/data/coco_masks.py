"""Checks and conversions of COCO's masks, polygons and RLE, whose own code checks nothing."""

from __future__ import annotations

import math
from typing import Any

import numpy as np


def is_mask(mask: Any, size: list[int]) -> bool:
    """Return True if pycocotools can compare the mask with others.

    Args:
        mask: polygons not far outside the image, or an RLE of its size.
        size: height and width of the image.
    """
    if isinstance(mask, list):
        # A first polygon of four numbers is a box to pycocotools.
        return bool(mask) and all(_is_polygon(polygon, size) for polygon in mask) and len(mask[0]) > 4
    return _is_rle(mask, size)


def training_mask(mask: Any, size: list[int]) -> Any:
    """Return a mask in detectron2's form: polygons of at least three points, or a compressed RLE; None if invalid.

    Args:
        mask: the ``segmentation`` of an annotation.
        size: height and width of the image.
    """
    if isinstance(mask, list):
        return [polygon for polygon in mask if _is_polygon(polygon, size) and len(polygon) >= 6] or None
    if not _is_rle(mask, size):
        return None
    if isinstance(mask["counts"], list):
        from pycocotools.mask import frPyObjects

        return frPyObjects(mask, *size)
    return mask


def rle_of(mask: np.ndarray) -> dict[str, Any]:
    """Return a boolean mask ``(H, W)`` as a compressed RLE, with text as JSON has it."""
    from pycocotools.mask import encode

    rle: dict[str, Any] = encode(np.asfortranarray(mask, dtype=np.uint8))
    return {**rle, "counts": rle["counts"].decode()}


def rle_area(rle: dict[str, Any]) -> float | None:
    """Return the number of pixels in the mask of an RLE; None if it is damaged."""
    from pycocotools.mask import area

    return float(area(training_mask(rle, rle["size"]))) if _is_rle(rle, rle["size"]) else None


def box_of_mask(mask: Any) -> list[float]:
    """Return the box around polygons or a compressed RLE as x, y, width, height."""
    if isinstance(mask, list):
        xs, ys = ([number for polygon in mask for number in polygon[start::2]] for start in (0, 1))
        return [min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)]
    from pycocotools.mask import toBbox

    return list(map(float, toBbox(mask)))


def _is_polygon(polygon: Any, size: list[int]) -> bool:
    """Return True for pairs of numbers that are at most the image's longer side outside of it."""
    longest = max(size)
    return (
        isinstance(polygon, list)
        and len(polygon) % 2 == 0
        and all(type(number) in (int, float) and -longest <= number <= 2 * longest for number in polygon)
    )


def _is_rle(mask: Any, size: Any) -> bool:
    """Return True for an RLE of as many pixels as an image of this height and width has."""
    if not isinstance(mask, dict) or mask.get("size") != size or not all(type(side) is int for side in mask["size"]):
        return False
    counts, pixels = mask.get("counts"), math.prod(size)
    if isinstance(counts, list):
        return all(type(run) is int and run >= 0 for run in counts) and sum(counts) == pixels
    text = counts.decode("latin-1") if isinstance(counts, bytes) else counts
    return isinstance(text, str) and _pixels(text) == pixels  # with fewer, comparing them never ends


def _pixels(counts: str) -> int | None:
    """Return the pixels that a compressed RLE describes (``maskApi.c``, ``rleFrString``); None if it is damaged.

    A run is written in groups of five bits, the lowest first, each with a bit for "more follow"; from the fourth run
    on it is the difference to the run before the last.
    """
    runs: list[int] = []
    value = shift = 0
    for character in counts:
        bits = ord(character) - ord("0")
        if not 0 <= bits < 64 or shift > 30:
            return None
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        value -= (bits >> 4 & 1) << shift
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
        if runs[-1] < 0:
            return None
        value = shift = 0
    return None if shift else sum(runs)
