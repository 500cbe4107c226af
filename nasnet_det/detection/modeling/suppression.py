"""Non-maximum suppression in the order of TensorFlow's Object Detection API: suppress, then clip, then count.

Source: ``core/post_processing.py`` (``multiclass_non_max_suppression``). Boxes are suppressed as decoded, clipped to
the image afterwards, and dropped if nothing is left of them, so fewer than the limit may remain.

Nothing is dropped here: results have a fixed size, and a mask tells which of them are valid, so that whole detectors
can be exported and compiled. Only :func:`suppress` itself reads numbers back from a GPU.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torchvision.ops import nms

#: Where boxes end at the latest; the area of a box of twice this side is still a float32.
FAR = 4e18


@torch.library.custom_op("nasnet_det::suppress", mutates_args=())
def suppress(boxes: Tensor, scores: Tensor, iou_threshold: float, limit: int) -> Tensor:
    """The first boxes that greedy suppression keeps in each of B sets, best first, of equal scores the earlier.

    ``torchvision.ops.nms`` gives as many indices as it keeps, of one set: a graph with ninety such calls, of sizes that
    only running it tells, can hardly be traced. This is one operator of fixed shape.

    Args:
        boxes: ``(B, N, 4)``, x0 y0 x1 y1, finite.
        scores: ``(B, N)``; boxes of the lowest score that there is need not be looked at.
        iou_threshold: overlap with a better box above which a box is suppressed.
        limit: how many to keep of a set.

    Returns:
        indices ``(B, limit)``, -1 where there are fewer.
    """
    order = scores.argsort(dim=1, descending=True, stable=True)
    best = boxes.gather(1, order[..., None].expand(-1, -1, 4))
    ordered = scores.gather(1, order)
    counts = (ordered > torch.finfo(scores.dtype).min).sum(dim=1)
    kept = torch.full((len(boxes), limit), -1, dtype=torch.int64, device=boxes.device)
    for number, count in enumerate(counts.tolist()):
        found = _suppress_one(best[number, :count], ordered[number, :count], iou_threshold, limit)
        kept[number, : len(found)] = found
    return order.gather(1, kept.clamp(min=0)).where(kept >= 0, kept) if boxes.shape[1] else kept


@suppress.register_fake
def _(boxes: Tensor, scores: Tensor, iou_threshold: float, limit: int) -> Tensor:
    del scores, iou_threshold
    return boxes.new_empty((boxes.shape[0], limit), dtype=torch.int64)


def _suppress_one(boxes: Tensor, scores: Tensor, iou_threshold: float, limit: int) -> Tensor:
    """What is kept of the best boxes does not depend on the rest, so a few thousand of them usually do."""
    stop = min(len(boxes), max(1000, 4 * limit))
    while True:
        kept = nms(boxes[:stop], scores[:stop], iou_threshold)
        if len(kept) >= limit or stop == len(boxes):
            return kept[:limit]
        stop = min(len(boxes), 4 * stop)


def batched_nms(
    boxes: Tensor, scores: Tensor, valid: Tensor, iou_threshold: float, limit: int
) -> tuple[Tensor, Tensor]:
    """The first ``limit`` boxes that greedy suppression keeps in each of B sets, of those that exist.

    Args:
        boxes: ``(B, N, 4)``.
        scores: ``(B, N)``.
        valid: ``(B, N)``, whether to look at a box at all.

    Returns:
        indices ``(B, limit)``, best first, and whether there is one ``(B, limit)``.
    """
    # Those that do not exist come last, so that they suppress none of the others.
    lowest = torch.full_like(scores, torch.finfo(scores.dtype).min)
    # Untrained layers may decode endless boxes, whose overlap would be no number: these suppress each other.
    kept = suppress(boxes.clamp(-FAR, FAR), scores.where(valid, lowest), iou_threshold, limit)
    indices = kept.clamp(min=0)
    if not boxes.shape[1]:
        return indices, kept >= 0
    return indices, (kept >= 0) & valid.gather(1, indices)


class Found(NamedTuple):
    """Candidates of one image, of which some exist: boxes ``(D, 4)``; scores, classes, the place where each was found,
    and whether it exists ``(D,)``."""

    boxes: Tensor
    scores: Tensor
    classes: Tensor
    origins: Tensor
    valid: Tensor

    def first(self, limit: int) -> Found:
        """The ``limit`` best of those that exist, best first, of equal scores the earlier; then others."""
        lowest = torch.full_like(self.scores, torch.finfo(self.scores.dtype).min)
        order = self.scores.where(self.valid, lowest).argsort(descending=True, stable=True)[:limit]
        return Found(*(field[order] for field in self))

    def existing(self) -> Found:
        """Those that exist. The host waits here until their number is known."""
        kept = self.valid.nonzero()[:, 0]
        return Found(*(field[kept] for field in self))


def suppress_classes(boxes: Tensor, scores: Tensor, valid: Tensor, iou_threshold: float, limit: int) -> Found:
    """Suppression within each of C classes; ``C * limit`` results, class after class, each one's best first.

    Args:
        boxes: ``(K, C, 4)``.
        scores: ``(K, C)``.
        valid: ``(K, C)``.
        limit: boxes kept of a class.
    """
    boxes, scores, valid = boxes.transpose(0, 1), scores.t(), valid.t()
    kept, is_one = batched_nms(boxes, scores, valid, iou_threshold, min(limit, boxes.shape[1]))
    boxes = boxes.gather(1, kept[..., None].expand(-1, -1, 4))
    classes = torch.arange(len(kept), device=kept.device)[:, None].expand_as(kept)
    return Found(boxes.flatten(0, 1), *(field.flatten() for field in (scores.gather(1, kept), classes, kept, is_one)))


def clip(boxes: Tensor, image_size: tuple[int, int]) -> Tensor:
    """``(..., 4)`` boxes within an image of ``(height, width)``."""
    height, width = image_size
    sides = boxes[..., 0::2].clamp(0, width), boxes[..., 1::2].clamp(0, height)
    return torch.stack(sides, dim=-1).flatten(-2)


def has_area(boxes: Tensor) -> Tensor:
    """Which of ``(N, 4)`` boxes are not empty."""
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]) > 0


def exceed(scores: Tensor, threshold: float) -> Tensor:
    """Which scores are above a threshold. TensorFlow computes no denormal numbers, so a score below float32's smallest
    normal one is 0 there, and does not exceed 0 here either."""
    return (scores > threshold) & (scores >= torch.finfo(torch.float32).tiny)


def multiclass_nms(
    boxes: Tensor,
    scores: Tensor,
    valid: Tensor,
    image_size: tuple[int, int],
    score_threshold: float,
    iou_threshold: float,
    per_class: int,
    total: int,
) -> Found:
    """The detections of one image, at most ``total``, best first, of equal scores the lower class.

    Args:
        boxes: ``(K, C, 4)``, a box for each of K candidates and C classes.
        scores: ``(K, C)``.
        valid: ``(K,)``, which candidates exist.
        image_size: height and width that boxes are clipped to.
        score_threshold: what a score must exceed.
        iou_threshold: overlap with a better box of its class from which a box is suppressed.
        per_class: boxes kept of a class.
        total: boxes kept of all.
    """
    eligible = valid[:, None] & exceed(scores, score_threshold)
    found = suppress_classes(boxes, scores, eligible, iou_threshold, per_class)
    clipped = clip(found.boxes, image_size)
    return found._replace(boxes=clipped, valid=found.valid & has_area(clipped)).first(total)
