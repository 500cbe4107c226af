"""Detections as tensors of a fixed size, for ONNX.

A detector's own code drops boxes as it goes, so the sizes of everything after depend on the image. Here nothing is
dropped: boxes that would be are masked, sorted last and not counted. The detections are the same, followed by zeros, as
in the exports of the TF Object Detection API (``exporter.py``: ``detection_boxes``, ``detection_scores``,
``detection_classes``, ``num_detections``).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from detectron2.modeling import GeneralizedRCNN
from torch import Tensor, nn
from torchvision.ops import box_iou

from nasnet_det.detection.modeling.suppression import batched_nms, stable_topk

#: The outputs of every detector.
OUTPUTS = ("boxes", "scores", "classes", "num_detections")
#: Boxes, scores, classes, and either a validity mask or, of sorted detections, their number.
Detections = tuple[Tensor, Tensor, Tensor, Tensor]
Size = tuple[int, int]


class ExportableDetector(nn.Module):
    """A detector on batches of images of one size, which may differ from batch to batch.

    Args:
        model: the detector; it is used, not copied.

    Attributes:
        outputs: the names of what :meth:`forward` returns.
        loops: whether a part of it runs in a loop, which ONNX Runtime does not quantize.
        least_side: the smallest side of images that it takes.
    """

    loops, least_side = False, 1

    def __init__(self, model: GeneralizedRCNN) -> None:
        super().__init__()
        self.model = model.eval()
        self.outputs: tuple[str, ...] = OUTPUTS

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Detect objects.

        Args:
            images: ``(N, 3, H, W)``, 0 to 255, float32, in the config's channel order.

        Returns:
            boxes ``(N, D, 4)``, x0 y0 x1 y1 in pixels of the images, scores ``(N, D)`` and classes ``(N, D)``, best
            first, and the number of detections ``(N,)``; entries beyond it are zero. With a mask head also masks
            ``(N, D, M, M)``, each in its box, as probabilities.
        """
        raise NotImplementedError


def suppress_by_class(boxes: Tensor, scores: Tensor, eligible: Tensor, iou_threshold: float, limit: int) -> Detections:
    """Suppress within each class of each image.

    Args:
        boxes: ``(N, K, C, 4)``.
        scores, eligible: ``(N, K, C)``.
        iou_threshold: boxes that overlap a better one of their class by more are removed.
        limit: boxes kept of a class.

    Returns:
        boxes ``(N, C * limit, 4)``, scores, classes and which are valid, each ``(N, C * limit)``.
    """
    count, classes = boxes.shape[1:3]
    boxes, scores, eligible = (field.transpose(1, 2).flatten(0, 1) for field in (boxes, scores, eligible))
    kept, valid = batched_nms(boxes, scores, eligible, iou_threshold, min(limit, count))
    labels = torch.arange(classes, device=kept.device)[None, :, None].expand(1, classes, kept.shape[1])
    by_image = [
        field.unflatten(0, (-1, classes)).flatten(1, 2) for field in (take(boxes, kept), scores.gather(1, kept))
    ]
    valid = valid.unflatten(0, (-1, classes)).flatten(1, 2)
    return by_image[0], by_image[1], labels.flatten(1).expand(valid.shape[0], -1), valid


def best_of(found: Detections, limit: int) -> Detections:
    """Return the ``limit`` best valid detections of each image, zeros after them, and how many there are."""
    boxes, scores, classes, valid = found
    order = best_first(scores, valid, limit)
    boxes, valid = take(boxes, order), valid.gather(1, order)
    scores, classes = scores.gather(1, order), classes.gather(1, order)
    return boxes * valid[..., None], scores * valid, classes * valid, valid.sum(dim=1)


def take(boxes: Tensor, indices: Tensor) -> Tensor:
    """Gather ``(N, D, 4)`` of boxes ``(N, A, 4)`` at indices ``(N, D)``."""
    return boxes.gather(1, indices[..., None].expand(-1, -1, 4))


def best_first(scores: Tensor, valid: Tensor, limit: int) -> Tensor:
    """Return the indices of the ``limit`` best valid scores of each image, of equal scores the earlier first, and of
    others after them."""
    lowest = torch.full_like(scores, torch.finfo(scores.dtype).min)
    return stable_topk(scores.where(valid, lowest), limit)


def existing(count: Tensor, length: int) -> Tensor:
    """Return a validity mask ``(N, length)`` of sorted detections, of which there are ``(N,)``."""
    return torch.arange(length, device=count.device) < count[:, None]


def found_again(found: Sequence[Tensor], expected: Sequence[Tensor], score: float = 0.5) -> tuple[int, int]:
    """Count the expected detections of at least ``score`` that are found again, each by another one.

    Args:
        found, expected: outputs of detectors on the same images.
        score: the least score of the expected ones that count.

    Returns:
        how many have a found detection of their class with an IoU and a score of at least 0.5, and how many there are.
    """
    again = total = 0
    for boxes, scores, classes, found_boxes, found_scores, found_classes in zip(*expected[:3], *found[:3], strict=True):
        wanted, free = scores >= score, found_scores >= 0.5
        total += int(wanted.sum())
        for box, label in zip(boxes[wanted], classes[wanted], strict=True):
            overlaps = box_iou(box[None].float(), found_boxes.float())[0].where(free & (found_classes == label), -1.0)
            if len(overlaps) and overlaps.max() >= 0.5:
                again, free[overlaps.argmax()] = again + 1, False
    return again, total


def in_order_of(expected: Sequence[Tensor], found: Sequence[Tensor]) -> list[Tensor]:
    """Return the outputs ``found`` with detections in the order of the expected ones, each the nearest of its class.

    Runtimes round differently, so detections of nearly equal scores may come in another order.
    """
    boxes, scores, classes, count, *masks = found
    distances = (boxes[:, None] - expected[0][:, :, None]).abs().sum(dim=3)
    distances = distances + (scores[:, None] - expected[1][:, :, None]).abs()
    nearest = distances.masked_fill(classes[:, None] != expected[2][:, :, None], torch.inf).argmin(dim=2)
    images = torch.arange(len(boxes))[:, None]
    boxes, scores, classes, *masks = (field[images, nearest] for field in (boxes, scores, classes, *masks))
    return [boxes, scores, classes, count, *masks]
