"""Whole detectors as one exportable function of a batch of images of any size, for ONNX.

A detector's own code drops boxes as it goes, so the sizes of everything after depend on the image. Here nothing is
dropped: boxes that would be are masked, sorted last and not counted. The detections are the same, followed by zeros, as
in the exports of the TF Object Detection API (``exporter.py``: ``detection_boxes``, ``detection_scores``,
``detection_classes``, ``num_detections``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.modeling import GeneralizedRCNN
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.poolers import ROIPooler, assign_boxes_to_levels
from detectron2.modeling.proposal_generator import RPN
from detectron2.modeling.roi_heads import StandardROIHeads
from detectron2.structures import Boxes
from torch import Tensor, nn
from torch._higher_order_ops.scan import scan
from torch.nn import functional

from nasnet_det.detection.data.registered import categories as registered_categories
from nasnet_det.detection.data.registered import num_classes
from nasnet_det.detection.modeling.rcnn import NASNetRCNN
from nasnet_det.detection.modeling.roi_heads import NASNetROIHeads
from nasnet_det.detection.modeling.rpn import NASNetRPN
from nasnet_det.detection.modeling.suppression import batched_nms, clip, exceed
from nasnet_det.export.programs import Program
from nasnet_det.models.tf_image import crop_taps, resize_bilinear

OUTPUTS = ("boxes", "scores", "classes", "num_detections")
Detections = tuple[Tensor, Tensor, Tensor, Tensor]
Size = tuple[int, int]


class ExportableDetector(nn.Module):
    """A detector on batches of images of one size, which may differ from batch to batch.

    Args:
        model: the detector; it is used, not copied.
    """

    def __init__(self, model: GeneralizedRCNN) -> None:
        super().__init__()
        self.model = model.eval()

    def forward(self, images: Tensor) -> Detections:
        """Detect objects.

        Args:
            images: ``(N, 3, H, W)``, 0 to 255, float32, in the config's channel order.

        Returns:
            boxes ``(N, D, 4)``, x0 y0 x1 y1 in pixels of the images, scores ``(N, D)`` and classes ``(N, D)``, best
            first, and the number of detections ``(N,)``; entries beyond it are zero.
        """
        raise NotImplementedError


class PaperDetector(ExportableDetector):
    """:class:`NASNetRCNN` with its own proposals and heads.

    Args:
        model: the detector.
        chunk: the number of proposals that go through the second stage at once, a divisor of the number of proposals.
    """

    def __init__(self, model: NASNetRCNN, chunk: int) -> None:
        super().__init__(model)
        self.rpn: NASNetRPN = model.proposal_generator
        self.heads: NASNetROIHeads = model.roi_heads
        self.image_size, self.chunk = model.image_size, chunk

    def forward(self, images: Tensor) -> Detections:
        """See :class:`ExportableDetector`; images are first resized to ``IMAGE_SIZE`` of the config, as in training."""
        given = size = (images.shape[-2], images.shape[-1])
        if all(self.image_size):
            size = self.image_size
            images = resize_bilinear(images.flatten(0, 1), size).unflatten(0, (-1, 3))
        features = self.model.backbone((images - self.model.pixel_mean) / self.model.pixel_std)
        proposals, valid = self.propose(features[self.rpn.in_feature], size)
        boxes, scores = self.classify(features[self.heads.in_feature], proposals, size)
        eligible = valid[:, :, None] & exceed(scores, self.heads.score_threshold)
        found = suppress_by_class(boxes, scores, eligible, self.heads.nms_threshold, self.heads.per_class)
        boxes, scores, labels, valid = found
        boxes = clip(boxes, size)
        boxes, scores, labels, count = best_of((boxes, scores, labels, valid & _has_area(boxes)), self.heads.total)
        # The limit counts labels that the data set lacks too, and what is left of a box depends on the image's size.
        boxes, classes = rescale(boxes, size, given), self.heads.label_ids.classes[labels]
        valid = torch.arange(scores.shape[1], device=scores.device) < count[:, None]
        valid = valid & (classes >= 0) & (boxes[..., 2:] > boxes[..., :2]).all(dim=2)
        return best_of((boxes, scores, classes, valid), self.heads.total)

    def propose(self, features: Tensor, size: Size) -> tuple[Tensor, Tensor]:
        """Return ``K`` proposals ``(N, K, 4)`` and which are valid ``(N, K)``; see :meth:`NASNetRPN.best`."""
        logits, deltas = self.rpn.head(features)
        anchors = clip(self.rpn.anchor_generator([features])[0].tensor, size)
        scores, boxes = logits.softmax(dim=2)[:, :, 1], _decode(self.rpn.box_transform, deltas, anchors)
        eligible, limit = exceed(scores, self.rpn.score_threshold), self.rpn.max_proposals[1]
        kept, valid = batched_nms(boxes, scores, eligible, self.rpn.nms_threshold, limit)
        boxes = clip(_take(boxes, kept), size)
        return boxes, valid & _has_area(boxes)

    def classify(self, features: Tensor, proposals: Tensor, size: Size) -> tuple[Tensor, Tensor]:
        """Return boxes ``(N, K, C, 4)`` and scores ``(N, K, C)``; see :meth:`NASNetROIHeads.forward`."""
        count, (height, width) = proposals.shape[1], size
        fractions = torch.stack([proposals[..., 0::2] / width, proposals[..., 1::2] / height], dim=-1).flatten(2)
        steps = fractions.reshape(-1, self.chunk, 4)
        image = torch.arange(features.shape[0], device=features.device).repeat_interleave(count // self.chunk)
        if torch.compiler.is_exporting():
            # The map is a loop-carried state, which OpenVINO takes, and not captured from outside, which it does not.
            _, pooled = scan(lambda map_, step: (map_.clone(), self._pooled(map_, *step)), features, (image, steps))
        else:
            pooled = torch.stack([self._pooled(features, *step) for step in zip(image, steps, strict=True)])
        pooled = pooled.flatten(0, 1)
        scores = self.heads.class_layer(pooled).float().softmax(dim=1)[:, :-1].unflatten(0, (-1, count))
        deltas = self.heads.box_layer(pooled).float()
        boxes = self.heads.box_transform.apply_deltas(deltas, proposals.flatten(0, 1))
        return boxes.unflatten(1, (-1, 4)).unflatten(0, (-1, count)), scores

    def _pooled(self, features: Tensor, image: Tensor, boxes: Tensor) -> Tensor:
        """Return the second stage's mean features ``(chunk, F)`` at boxes ``(chunk, 4)`` of one image of the batch."""
        _, channels, height, width = features.shape
        positions, weights = crop_taps(boxes, height, width, self.heads.crop_size)
        rows = features.permute(0, 2, 3, 1).reshape(-1, channels)
        positions = positions + image * (height * width)
        taps = [rows[positions[..., tap]] * weights[..., tap, None] for tap in range(4)]
        crops = (taps[0] + taps[1] + taps[2] + taps[3]).permute(0, 3, 1, 2)
        kernel, stride = self.heads.crop_pool
        crops = functional.max_pool2d(crops, kernel, stride) if self.heads.crop_pool != (1, 1) else crops
        return self.heads.second_stage(crops).mean(dim=(2, 3))


class PyramidDetector(ExportableDetector):
    """detectron2's Faster R-CNN on a feature pyramid."""

    def __init__(self, model: GeneralizedRCNN) -> None:
        super().__init__(model)
        self.rpn: RPN = model.proposal_generator
        self.heads: StandardROIHeads = model.roi_heads

    def forward(self, images: Tensor) -> Detections:
        """See :class:`ExportableDetector`; images are padded to the backbone's divisor after normalization."""
        size = (images.shape[-2], images.shape[-1])
        divisor = max(1, self.model.backbone.size_divisibility)
        bottom, right = -size[0] % divisor, -size[1] % divisor
        images = functional.pad((images - self.model.pixel_mean) / self.model.pixel_std, (0, right, 0, bottom))
        features = self.model.backbone(images)
        proposals, valid = self.propose(features, size)
        boxes, scores = self.classify(features, proposals)
        predictor = self.heads.box_predictor
        valid = valid & (boxes.isfinite().all(dim=3) & scores.isfinite()).all(dim=2)
        eligible, limit = valid[:, :, None] & (scores > predictor.test_score_thresh), predictor.test_topk_per_image
        return best_of(suppress_by_class(clip(boxes, size), scores, eligible, predictor.test_nms_thresh, limit), limit)

    def propose(self, features: Mapping[str, Tensor], size: Size) -> tuple[Tensor, Tensor]:
        """Return ``K`` proposals ``(N, K, 4)`` and which are valid ``(N, K)``; see detectron2's
        ``find_top_rpn_proposals``: boxes are clipped, then suppressed level by level."""
        maps = [features[name] for name in self.rpn.in_features]
        logits, deltas = self.rpn.rpn_head(maps)
        limit, levels = self.rpn.pre_nms_topk[False], []
        for anchors, level_logits, level_deltas in zip(self.rpn.anchor_generator(maps), logits, deltas, strict=True):
            scores = level_logits.permute(0, 2, 3, 1).flatten(1)
            boxes = level_deltas.unflatten(1, (-1, 4)).permute(0, 3, 4, 1, 2).flatten(1, 3)
            boxes = _decode(self.rpn.box2box_transform, boxes, anchors.tensor)
            # Fillers after the anchors, so that a level of fewer anchors than the limit has as many candidates too.
            scores = functional.pad(scores, (0, limit), value=torch.finfo(scores.dtype).min)
            scores, best = scores.topk(limit, dim=1)
            usable = (best < boxes.shape[1]) & scores.isfinite()
            boxes = _take(boxes, best.clamp(max=boxes.shape[1] - 1))
            usable = usable & boxes.isfinite().all(dim=2)
            boxes = clip(boxes, size)
            usable = usable & ((boxes[..., 2:] - boxes[..., :2]) > self.rpn.min_box_size).all(dim=2)
            kept, valid = batched_nms(boxes, scores, usable, self.rpn.nms_thresh, limit)
            levels.append((_take(boxes, kept), scores.gather(1, kept), valid))
        boxes, scores, valid = (torch.cat(parts, dim=1) for parts in zip(*levels, strict=True))
        order = _order(scores, valid, self.rpn.post_nms_topk[False])
        return _take(boxes, order), valid.gather(1, order)

    def classify(self, features: Mapping[str, Tensor], proposals: Tensor) -> tuple[Tensor, Tensor]:
        """Return boxes ``(N, K, C, 4)`` and scores ``(N, K, C)``; see ``FastRCNNOutputLayers.inference``."""
        count, boxes = proposals.shape[1], proposals.flatten(0, 1)
        image = torch.arange(proposals.shape[0], device=boxes.device).repeat_interleave(count)
        pooled = pool([features[name] for name in self.heads.box_in_features], boxes, image, self.heads.box_pooler)
        logits, deltas = self.heads.box_predictor(self.heads.box_head(pooled))
        boxes = self.heads.box_predictor.box2box_transform.apply_deltas(deltas, boxes).unflatten(1, (-1, 4))
        boxes = boxes.expand(-1, self.heads.num_classes, 4).unflatten(0, (-1, count))
        return boxes, logits.softmax(dim=1)[:, :-1].unflatten(0, (-1, count))


def exportable_detector(model: GeneralizedRCNN) -> ExportableDetector:
    """Return the form of a detector that can be exported.

    Raises:
        ValueError: if it is neither the paper's nor detectron2's Faster R-CNN.
    """
    if isinstance(model, NASNetRCNN) and isinstance(model.roi_heads, NASNetROIHeads):
        proposals = model.proposal_generator.max_proposals[1]
        most = model.roi_heads.most_at_once(torch.float32)
        return PaperDetector(model, max(size for size in range(1, min(proposals, most) + 1) if not proposals % size))
    if type(getattr(model, "roi_heads", None)) is StandardROIHeads and not model.roi_heads.mask_on:
        return PyramidDetector(model)
    raise ValueError(
        f"a {type(model).__name__} cannot be exported: only the paper's detector and detectron2's Faster R-CNN without "
        "masks can"
    )


def suppress_by_class(boxes: Tensor, scores: Tensor, eligible: Tensor, iou_threshold: float, limit: int) -> Detections:
    """Suppress within each class of each image.

    Args:
        boxes: ``(N, K, C, 4)``.
        scores, eligible: ``(N, K, C)``.
        limit: boxes kept of a class.

    Returns:
        boxes ``(N, C * limit, 4)``, scores, classes and which are valid, each ``(N, C * limit)``.
    """
    count, classes = boxes.shape[1:3]
    boxes, scores, eligible = (field.transpose(1, 2).flatten(0, 1) for field in (boxes, scores, eligible))
    kept, valid = batched_nms(boxes, scores, eligible, iou_threshold, min(limit, count))
    labels = torch.arange(classes, device=kept.device)[None, :, None].expand(1, classes, kept.shape[1])
    by_image = [
        field.unflatten(0, (-1, classes)).flatten(1, 2) for field in (_take(boxes, kept), scores.gather(1, kept))
    ]
    valid = valid.unflatten(0, (-1, classes)).flatten(1, 2)
    return by_image[0], by_image[1], labels.flatten(1).expand(valid.shape[0], -1), valid


def best_of(found: Detections, limit: int) -> Detections:
    """Return the ``limit`` best valid detections of each image, zeros after them, and how many there are."""
    boxes, scores, classes, valid = found
    order = _order(scores, valid, limit)
    boxes, valid = _take(boxes, order), valid.gather(1, order)
    scores, classes = scores.gather(1, order), classes.gather(1, order)
    return boxes * valid[..., None], scores * valid, classes * valid, valid.sum(dim=1)


def rescale(boxes: Tensor, size: Size, wanted: Size) -> Tensor:
    """Scale boxes ``(N, D, 4)`` from images of one size to another and clip them."""
    x, y = boxes[..., 0::2] * (wanted[1] / size[1]), boxes[..., 1::2] * (wanted[0] / size[0])
    return clip(torch.stack([x, y], dim=-1).flatten(-2), wanted)


def pool(maps: list[Tensor], boxes: Tensor, image: Tensor, pooler: ROIPooler) -> Tensor:
    """Apply detectron2's ``ROIPooler`` to boxes ``(K, 4)`` of the images ``(K,)`` of a batch: every level is cropped,
    and each box takes the crop of its own level."""
    rois = torch.cat([image[:, None].to(boxes.dtype), boxes], dim=1)
    levels = assign_boxes_to_levels(
        [Boxes(boxes)], pooler.min_level, pooler.max_level, pooler.canonical_box_size, pooler.canonical_level
    )
    crops = pooler.level_poolers[0](maps[0], rois)
    for level, (level_map, level_pooler) in enumerate(zip(maps[1:], pooler.level_poolers[1:], strict=True), start=1):
        crops = torch.where((levels == level)[:, None, None, None], level_pooler(level_map, rois), crops)
    return crops


def detector_program(
    model: GeneralizedRCNN,
    cfg: CfgNode,
    image_size: Size | None = None,
    batch_size: int = 2,
    categories: Sequence[Any] = (),
) -> Program:
    """Return the program of a whole detector, whose number and size of images stay free.

    Args:
        model: built from ``cfg``.
        cfg: its config.
        image_size: height and width of the example image; the config's ``MODEL.NASNET.IMAGE_SIZE``, or else 320 x 384,
            if None. Other sizes work as well.
        batch_size: images of the example.
        categories: ``id`` and ``name`` of each class; those of the first of ``DATASETS.TEST`` if empty.

    Raises:
        ValueError: if the detector cannot be exported.
    """
    height, width = image_size or cfg.MODEL.NASNET.IMAGE_SIZE
    if not (height and width):
        height, width = 320, 384
    detector = exportable_detector(model)
    example = torch.rand(batch_size, 3, height, width, generator=torch.Generator().manual_seed(0)) * 255
    categories = categories or (registered_categories(cfg.DATASETS.TEST[0]) if cfg.DATASETS.TEST else [])
    return Program(detector, example, OUTPUTS, (0, 2, 3), {**_describe(cfg), "categories": list(categories)})


def _describe(cfg: CfgNode) -> dict[str, Any]:
    """Return the description in the exported file: channel order, resizing, the number of classes and the config."""
    return {
        "kind": "detector",
        "channels": cfg.INPUT.FORMAT,
        "resize_shortest": [cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST],
        "num_classes": num_classes(cfg),
        "config": cfg.dump(),
    }


def _decode(transform: Box2BoxTransform, deltas: Tensor, anchors: Tensor) -> Tensor:
    """Decode ``(N, A, 4)`` deltas of ``(A, 4)`` anchors."""
    anchors = anchors[None].expand(deltas.shape[0], -1, -1).flatten(0, 1)
    return transform.apply_deltas(deltas.flatten(0, 1), anchors).view(deltas.shape)


def _take(boxes: Tensor, indices: Tensor) -> Tensor:
    """Gather ``(N, D, 4)`` of boxes ``(N, A, 4)`` at indices ``(N, D)``."""
    return boxes.gather(1, indices[..., None].expand(-1, -1, 4))


def _order(scores: Tensor, valid: Tensor, limit: int) -> Tensor:
    """Return the indices of the ``limit`` best valid scores of each image, of equal scores the earlier first, and of
    others after them."""
    lowest = torch.full_like(scores, torch.finfo(scores.dtype).min)
    return scores.where(valid, lowest).sort(dim=1, descending=True, stable=True).indices[:, :limit]


def _has_area(boxes: Tensor) -> Tensor:
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1]) > 0
