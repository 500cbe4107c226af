"""Checks and conversions of COCO's masks, polygons and RLE, whose own code checks nothing."""

from __future__ import annotations

from typing import Any

import numpy as np


def is_mask(mask: Any, size: list[int]) -> bool:
    """Return True if pycocotools can compare the mask with others.

    Args:
        mask: polygons not far outside the image, or an RLE of its size.
        size: height and width of the image.
    """
    if isinstance(mask, list):
        polygons = all(isinstance(polygon, list) and len(polygon) % 2 == 0 for polygon in mask)
        # A first polygon of four numbers is a box to pycocotools.
        return polygons and any(len(polygon) > 4 for polygon in mask[:1]) and all(_near(p, max(size)) for p in mask)
    if not isinstance(mask, dict) or mask.get("size") != size or not all(type(side) is int for side in mask["size"]):
        return False
    counts = mask.get("counts")
    if isinstance(counts, list):
        return all(type(run) is int and run >= 0 for run in counts) and sum(counts) == size[0] * size[1]
    text = counts.decode("latin-1") if isinstance(counts, bytes) else counts
    return isinstance(text, str) and _pixels(text) == size[0] * size[1]  # with fewer, comparing them never ends


def training_mask(mask: Any, size: list[int]) -> Any:
    """Return a mask in detectron2's form: polygons of at least three points, or a compressed RLE; None if invalid.

    Args:
        mask: the ``segmentation`` of an annotation.
        size: height and width of the image.
    """
    if isinstance(mask, list):
        polygons = [polygon for polygon in mask if isinstance(polygon, list) and _near(polygon, max(size))]
        return [polygon for polygon in polygons if len(polygon) >= 6 and len(polygon) % 2 == 0] or None
    if not is_mask(mask, size):
        return None
    if isinstance(mask["counts"], list):
        from pycocotools.mask import frPyObjects

        return frPyObjects(mask, *size)
    return mask


def mask_area(mask: Any) -> float | None:
    """Return the area of polygons, by their corners, or of an RLE, in pixels; None without a valid mask."""
    if isinstance(mask, list):
        try:
            corners = [np.asarray(polygon, dtype=np.float64).reshape(-1, 2).T for polygon in mask]
        except (TypeError, ValueError):
            return None
        found = float(sum(abs(x @ np.roll(y, 1) - y @ np.roll(x, 1)) / 2 for x, y in corners))
        return found if 0 < found < np.inf else None
    if isinstance(mask, dict) and is_mask(mask, mask.get("size", [])):
        from pycocotools.mask import area

        return float(area(training_mask(mask, mask["size"])))
    return None


def rle_of(mask: np.ndarray) -> dict[str, Any]:
    """Return a boolean mask ``(H, W)`` as a compressed RLE, with text as JSON has it."""
    from pycocotools.mask import encode

    rle: dict[str, Any] = encode(np.asfortranarray(mask, dtype=np.uint8))
    return {**rle, "counts": rle["counts"].decode()}


def box_of_mask(mask: Any) -> list[float]:
    """Return the box around a compressed RLE as x, y, width, height."""
    from pycocotools.mask import toBbox

    return list(map(float, toBbox(mask)))


def _near(polygon: list[Any], longest: int) -> bool:
    return all(type(number) in (int, float) and -longest <= number <= 2 * longest for number in polygon)


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
