"""Non-maximum suppression in the order of TensorFlow's Object Detection API: suppress, then clip, then count.

Source: ``core/post_processing.py`` (``multiclass_non_max_suppression``). Boxes are suppressed as decoded, clipped to
the image afterwards, and dropped if empty, so fewer than the limit may remain.

Nothing is dropped here: results have a fixed size, and a mask tells which of them are valid, so that whole detectors
can be exported and compiled. Only :func:`suppress` itself reads numbers back from a GPU.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torchvision.ops import nms

#: Largest absolute coordinate of a box; the area of a box of twice this side is still finite in float32.
FAR = 4e18


@torch.library.custom_op("nasnet_det::suppress", mutates_args=())
def suppress(boxes: Tensor, scores: Tensor, iou_threshold: float, limit: int) -> Tensor:
    """Return the boxes that greedy suppression keeps in each of B sets, best first, of equal scores the earlier.

    Unlike ``torchvision.ops.nms``, whose output size depends on the values, this operator has a fixed output shape and
    takes all classes at once, so that detectors can be traced and exported.

    Args:
        boxes: ``(B, N, 4)``, x0 y0 x1 y1, finite.
        scores: ``(B, N)``; boxes with the lowest finite score are ignored.
        iou_threshold: overlap with a better box above which a box is suppressed.
        limit: largest number of boxes to keep in a set.

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


@torch.library.custom_op("nasnet_det::stable_topk", mutates_args=())
def stable_topk(scores: Tensor, limit: int) -> Tensor:
    """Return the indices of the ``limit`` largest of ``N`` scores of each of B sets, of equal scores the earlier first.

    ``torch.topk`` has no rule for equal scores, of which a network gives many where its units are inactive over a whole
    area. ONNX's TopK has this one.

    Args:
        scores: ``(B, N)``.

    Returns:
        indices ``(B, min(limit, N))``.
    """
    return scores.argsort(dim=1, descending=True, stable=True)[:, :limit].contiguous()


@stable_topk.register_fake
def _(scores: Tensor, limit: int) -> Tensor:
    return scores.new_empty((scores.shape[0], torch.sym_min(limit, scores.shape[1])), dtype=torch.int64)


def _suppress_one(boxes: Tensor, scores: Tensor, iou_threshold: float, limit: int) -> Tensor:
    """Suppress within one set, at first only its best boxes: those kept do not depend on the rest."""
    stop = min(len(boxes), max(1000, 4 * limit))
    while True:
        kept = nms(boxes[:stop], scores[:stop], iou_threshold)
        if len(kept) >= limit or stop == len(boxes):
            return kept[:limit]
        stop = min(len(boxes), 4 * stop)


def batched_nms(
    boxes: Tensor, scores: Tensor, valid: Tensor, iou_threshold: float, limit: int
) -> tuple[Tensor, Tensor]:
    """Return the first ``limit`` boxes that greedy suppression keeps in each of B sets, of the valid ones.

    Args:
        boxes: ``(B, N, 4)``.
        scores: ``(B, N)``.
        valid: ``(B, N)``, False for boxes to ignore.
        iou_threshold: boxes that overlap a better one by more are removed.
        limit: boxes kept of a set.

    Returns:
        indices ``(B, limit)``, best first, and a validity mask ``(B, limit)``.
    """
    # Invalid boxes come last, so that they suppress no valid one.
    lowest = torch.full_like(scores, torch.finfo(scores.dtype).min)
    # Untrained layers may decode infinite boxes, whose IoU is NaN: clamped ones suppress each other.
    kept = suppress(boxes.clamp(-FAR, FAR), scores.where(valid, lowest), iou_threshold, limit)
    indices = kept.clamp(min=0)
    if not boxes.shape[1]:
        return indices, kept >= 0
    return indices, (kept >= 0) & valid.gather(1, indices)


class Found(NamedTuple):
    """Candidates of one image: boxes ``(D, 4)``; scores, classes, the index of each one's proposal and a validity mask
    ``(D,)``."""

    boxes: Tensor
    scores: Tensor
    classes: Tensor
    origins: Tensor
    valid: Tensor

    def first(self, limit: int) -> Found:
        """Return the ``limit`` best valid candidates, best first, of equal scores the earlier; then invalid ones."""
        lowest = torch.full_like(self.scores, torch.finfo(self.scores.dtype).min)
        order = stable_topk(self.scores.where(self.valid, lowest)[None], limit)[0]
        return Found(*(field[order] for field in self))

    def existing(self) -> Found:
        """Return the valid candidates only."""
        kept = self.valid.nonzero()[:, 0]
        return Found(*(field[kept] for field in self))


def suppress_classes(boxes: Tensor, scores: Tensor, valid: Tensor, iou_threshold: float, limit: int) -> Found:
    """Suppress within each of C classes; returns ``C * limit`` results, class after class, each one's best first.

    Args:
        boxes: ``(K, C, 4)``.
        scores: ``(K, C)``.
        valid: ``(K, C)``.
        iou_threshold: boxes that overlap a better one of their class by more are removed.
        limit: boxes kept of a class.
    """
    boxes, scores, valid = boxes.transpose(0, 1), scores.t(), valid.t()
    kept, is_one = batched_nms(boxes, scores, valid, iou_threshold, min(limit, boxes.shape[1]))
    boxes = boxes.gather(1, kept[..., None].expand(-1, -1, 4))
    classes = torch.arange(len(kept), device=kept.device)[:, None].expand_as(kept)
    return Found(boxes.flatten(0, 1), *(field.flatten() for field in (scores.gather(1, kept), classes, kept, is_one)))


def clip(boxes: Tensor, image_size: tuple[int, int]) -> Tensor:
    """Clip ``(..., 4)`` boxes to an image of ``(height, width)``."""
    height, width = image_size
    sides = boxes[..., 0::2].clamp(0, width), boxes[..., 1::2].clamp(0, height)
    return torch.stack(sides, dim=-1).flatten(-2)


def has_area(boxes: Tensor) -> Tensor:
    """Return a mask of the ``(N, 4)`` boxes that are not empty."""
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]) > 0


def exceed(scores: Tensor, threshold: float) -> Tensor:
    """Return a mask of the scores above a threshold.

    TensorFlow flushes denormal numbers to zero, so scores below float32's smallest normal number do not exceed 0.
    """
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
    """Return the detections of one image, at most ``total``, best first, of equal scores the lower class.

    Args:
        boxes: ``(K, C, 4)``, a box for each of K candidates and C classes.
        scores: ``(K, C)``.
        valid: ``(K,)``, False for candidates to ignore.
        image_size: height and width that boxes are clipped to.
        score_threshold: scores that a detection must exceed.
        iou_threshold: overlap with a better box of its class from which a box is suppressed.
        per_class: boxes kept of a class.
        total: boxes kept of all.
    """
    eligible = valid[:, None] & exceed(scores, score_threshold)
    found = suppress_classes(boxes, scores, eligible, iou_threshold, per_class)
    clipped = clip(found.boxes, image_size)
    return found._replace(boxes=clipped, valid=found.valid & has_area(clipped)).first(total)
