"""Non-maximum suppression in the order of TensorFlow's Object Detection API: suppress, then clip, then count.

Source: ``core/post_processing.py`` (``multiclass_non_max_suppression``). Boxes are suppressed as decoded, clipped to
the image afterwards, and dropped if nothing is left of them, so fewer than the limit may remain.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.ops import nms

#: Where boxes end at the latest; the area of a box of twice this side is still a float32.
_FAR = 4e18


def suppress(boxes: Tensor, scores: Tensor, iou_threshold: float, limit: int) -> Tensor:
    """The first ``limit`` boxes that greedy suppression keeps, best first; of equal scores the earlier goes first.

    Args:
        boxes: ``(N, 4)``, x0 y0 x1 y1.
        scores: ``(N,)``.

    Returns:
        indices, at most ``limit``.
    """
    order = scores.argsort(descending=True, stable=True)
    # Untrained layers may decode endless boxes, whose overlap would be no number: these suppress each other.
    boxes = boxes.clamp(-_FAR, _FAR)
    # What is kept of the best boxes does not depend on the rest, so a few thousand of them usually do.
    stop = min(len(order), max(1000, 4 * limit))
    while True:
        first = order[:stop]
        kept = nms(boxes[first], scores[first], iou_threshold)
        if len(kept) >= limit or stop == len(order):
            return first[kept[:limit]]
        stop = min(len(order), 4 * stop)


def clip(boxes: Tensor, image_size: tuple[int, int]) -> Tensor:
    """``(..., 4)`` boxes within an image of ``(height, width)``."""
    height, width = image_size
    most = boxes.new_tensor([width, height, width, height])
    return torch.minimum(boxes, most).clamp(min=0)


def has_area(boxes: Tensor) -> Tensor:
    """Which of ``(N, 4)`` boxes are not empty."""
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]) > 0


def exceeding(scores: Tensor, threshold: float) -> Tensor:
    """The indices of ``(N,)`` scores above a threshold. TensorFlow computes no denormal numbers, so a score below
    float32's smallest normal one is 0 there, and does not exceed 0 here either."""
    return ((scores > threshold) & (scores >= torch.finfo(torch.float32).tiny)).nonzero()[:, 0]


def select(
    boxes: Tensor,
    scores: Tensor,
    image_size: tuple[int, int],
    score_threshold: float,
    iou_threshold: float,
    per_class: int,
    total: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The detections of one image.

    Args:
        boxes: ``(K, C, 4)``, a box for each of K candidates and C classes.
        scores: ``(K, C)``.
        image_size: height and width that boxes are clipped to.
        score_threshold: what a score must exceed.
        iou_threshold: overlap with a better box of its class from which a box is suppressed.
        per_class: boxes kept of a class.
        total: boxes kept of all.

    Returns:
        boxes ``(D, 4)``, their scores, classes and candidates ``(D,)``, best first, of equal scores the lower class.
    """
    chosen, classes = [], []
    for number in range(scores.shape[1]):
        candidates = exceeding(scores[:, number], score_threshold)
        kept = suppress(boxes[candidates, number], scores[candidates, number], iou_threshold, per_class)
        chosen.append(candidates[kept])
        classes.append(torch.full_like(chosen[-1], number))
    candidate, label = torch.cat(chosen), torch.cat(classes)
    order = scores[candidate, label].argsort(descending=True, stable=True)
    candidate, label = candidate[order], label[order]
    clipped = clip(boxes[candidate, label], image_size)
    left = has_area(clipped).nonzero()[:total, 0]
    candidate, label = candidate[left], label[left]
    return clipped[left], scores[candidate, label], label, candidate
