"""COCO's masks: what of them COCO's own code, which checks nothing, can be given."""

from __future__ import annotations

from typing import Any


def is_mask(mask: Any, size: list[int]) -> bool:
    """Whether this is the RLE of a mask of ``size``, height and width, or polygons not far outside such an image."""
    if isinstance(mask, list):
        polygons = all(isinstance(polygon, list) for polygon in mask)
        # A first polygon of four numbers is a box to pycocotools.
        return polygons and any(len(polygon) > 4 for polygon in mask[:1]) and all(_near(p, max(size)) for p in mask)
    counts = mask.get("counts")
    if mask.get("size") != size:
        return False
    if isinstance(counts, list):
        return all(type(run) is int and run >= 0 for run in counts) and sum(counts) == size[0] * size[1]
    text = counts.decode("latin-1") if isinstance(counts, bytes) else counts
    return isinstance(text, str) and _pixels(text) == size[0] * size[1]  # with fewer, comparing them never ends


def _near(polygon: list[Any], longest: int) -> bool:
    return all(type(number) in (int, float) and -longest <= number <= 2 * longest for number in polygon)


def _pixels(counts: str) -> int | None:
    """The pixels that a compressed RLE describes (``maskApi.c``, ``rleFrString``); None if it is damaged.

    A run is written in groups of five bits, the lowest first, each with a bit that says whether more follow; from the
    fourth run on it is the difference to the run before the last.
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
