"""Faster, Cascade and Mask R-CNN on a feature pyramid as an exportable function."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from detectron2.modeling import GeneralizedRCNN
from detectron2.modeling.poolers import ROIPooler, assign_boxes_to_levels
from detectron2.modeling.proposal_generator import RPN
from detectron2.modeling.roi_heads import CascadeROIHeads, StandardROIHeads
from detectron2.structures import Boxes
from torch import Tensor
from torch.nn import functional

from nasnet_det.detection.modeling.suppression import batched_nms, clip, stable_topk
from nasnet_det.export.fixed_detections import (
    Detections,
    ExportableDetector,
    Size,
    best_first,
    best_of,
    existing,
    suppress_by_class,
    take,
)


class PyramidDetector(ExportableDetector):
    """detectron2's Faster or Cascade R-CNN on a feature pyramid, with a mask head or without.

    Args:
        model: the detector.

    Raises:
        ValueError: if the number of its detections has no limit.
    """

    def __init__(self, model: GeneralizedRCNN) -> None:
        super().__init__(model)
        self.rpn: RPN = model.proposal_generator
        self.heads: StandardROIHeads = model.roi_heads
        is_cascade = isinstance(self.heads, CascadeROIHeads)
        heads, predictors = self.heads.box_head, self.heads.box_predictor
        self.stages = list(zip(heads, predictors, strict=True)) if is_cascade else [(heads, predictors)]
        self.limit: int = self.stages[-1][1].test_topk_per_image
        if self.limit < 0:
            raise ValueError(
                f"TEST.DETECTIONS_PER_IMAGE is {self.limit}, but exported detectors need a limit: set it, for example "
                "to 100"
            )
        if self.heads.mask_on:
            self.outputs = (*self.outputs, "masks")

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """See :class:`ExportableDetector`; images are padded to the backbone's divisor after normalization."""
        size = (images.shape[-2], images.shape[-1])
        divisor = max(1, self.model.backbone.size_divisibility)
        # Multiples of the divisor keep the sizes of all maps simple terms, with which torch.export is twice as fast.
        bottom, right = ((side + divisor - 1) // divisor * divisor - side for side in size)
        images = functional.pad((images - self.model.pixel_mean) / self.model.pixel_std, (0, right, 0, bottom))
        features = self.model.backbone(images)
        proposals, valid = self.propose(features, size)
        boxes, scores = self.classify(features, proposals, size)
        predictor = self.stages[-1][1]
        valid = valid & (boxes.isfinite().all(dim=3) & scores.isfinite()).all(dim=2)
        eligible = valid[:, :, None] & (scores > predictor.test_score_thresh)
        found = suppress_by_class(clip(boxes, size), scores, eligible, predictor.test_nms_thresh, self.limit)
        detections = best_of(found, self.limit)
        return (*detections, self.masks(features, detections)) if self.heads.mask_on else detections

    def propose(self, features: Mapping[str, Tensor], size: Size) -> tuple[Tensor, Tensor]:
        """Return ``K`` proposals ``(N, K, 4)`` and which are valid ``(N, K)``.

        See detectron2's ``find_top_rpn_proposals``: boxes are clipped, then suppressed level by level. Only the best of
        each level are decoded.
        """
        maps = [features[name] for name in self.rpn.in_features]
        logits, deltas = self.rpn.rpn_head(maps)
        limit, levels = self.rpn.pre_nms_topk[False], []
        for anchors, level_logits, level_deltas in zip(self.rpn.anchor_generator(maps), logits, deltas, strict=True):
            scores = level_logits.permute(0, 2, 3, 1).flatten(1)
            own = level_deltas.unflatten(1, (-1, 4)).permute(0, 3, 4, 1, 2).flatten(1, 3)
            # Fillers after the anchors, so that a level of fewer anchors than the limit has as many candidates too.
            scores = functional.pad(scores, (0, limit), value=torch.finfo(scores.dtype).min)
            best = stable_topk(scores, limit)
            scores = scores.gather(1, best)
            usable, best = (best < own.shape[1]) & scores.isfinite(), best.clamp(max=own.shape[1] - 1)
            best_anchors = anchors.tensor[best.flatten()]
            boxes = self.rpn.box2box_transform.apply_deltas(take(own, best).flatten(0, 1), best_anchors)
            boxes = boxes.unflatten(0, (-1, limit))
            usable = usable & boxes.isfinite().all(dim=2)
            boxes = clip(boxes, size)
            usable = usable & ((boxes[..., 2:] - boxes[..., :2]) > self.rpn.min_box_size).all(dim=2)
            kept, valid = batched_nms(boxes, scores, usable, self.rpn.nms_thresh, limit)
            levels.append((take(boxes, kept), scores.gather(1, kept), valid))
        boxes, scores, valid = (torch.cat(parts, dim=1) for parts in zip(*levels, strict=True))
        order = best_first(scores, valid, self.rpn.post_nms_topk[False])
        return take(boxes, order), valid.gather(1, order)

    def classify(self, features: Mapping[str, Tensor], proposals: Tensor, size: Size) -> tuple[Tensor, Tensor]:
        """Return boxes ``(N, K, C, 4)`` and scores ``(N, K, C)``.

        The boxes of each stage of a cascade, clipped, are the next stage's proposals; scores are the stages' mean. See
        ``CascadeROIHeads._forward_box`` and ``FastRCNNOutputLayers.inference``.
        """
        count = proposals.shape[1]
        boxes, image = proposals.flatten(0, 1), _images_of(proposals)
        maps, scores = [features[name] for name in self.heads.box_in_features], []
        for number, (head, predictor) in enumerate(self.stages):
            boxes = clip(boxes, size) if number else boxes
            logits, deltas = predictor(head(pool(maps, boxes, image, self.heads.box_pooler)))
            boxes = predictor.box2box_transform.apply_deltas(deltas, boxes)
            scores.append(logits.softmax(dim=1)[:, :-1])
        boxes = boxes.unflatten(1, (-1, 4)).expand(-1, self.heads.num_classes, 4).unflatten(0, (-1, count))
        return boxes, torch.stack(scores).mean(dim=0).unflatten(0, (-1, count))

    def masks(self, features: Mapping[str, Tensor], detections: Detections) -> Tensor:
        """Return the mask of each detection in its box ``(N, D, M, M)``: probabilities, for its class.

        Only existing detections go through the mask head, so that its time is theirs. See ``mask_rcnn_inference``.
        """
        boxes, _, classes, count = detections
        valid = existing(count, boxes.shape[1])
        # One row more than there are detections, as runtimes refuse to convolve none.
        rows = functional.pad(valid.flatten().nonzero()[:, 0], (0, 1))
        maps = [features[name] for name in self.heads.mask_in_features]
        crops = pool(maps, boxes.flatten(0, 1), _images_of(boxes), self.heads.mask_pooler)
        logits = self.heads.mask_head.layers(crops[rows])
        # A head that is agnostic of classes has one channel.
        channel = classes.flatten()[rows].clamp(max=logits.shape[1] - 1)[:, None, None, None]
        masks = logits.gather(1, channel.expand(-1, 1, *logits.shape[2:]))[:, 0].sigmoid()
        empty = masks.new_zeros(valid.numel(), *masks.shape[1:])
        return empty.index_put((rows,), masks).unflatten(0, (-1, boxes.shape[1])) * valid[..., None, None]


def pool(maps: Sequence[Tensor], boxes: Tensor, image: Tensor, pooler: ROIPooler) -> Tensor:
    """Apply detectron2's ``ROIPooler`` to boxes ``(K, 4)`` of the images ``(K,)`` of a batch: each on its own level.

    Every level crops one box more, as runtimes refuse to crop none.
    """
    levels = assign_boxes_to_levels(
        [Boxes(boxes)], pooler.min_level, pooler.max_level, pooler.canonical_box_size, pooler.canonical_level
    )
    rois = functional.pad(torch.cat([image[:, None].to(boxes.dtype), boxes], dim=1), (0, 0, 0, 1))
    rows = [functional.pad(levels == level, (0, 1), value=True).nonzero()[:, 0] for level in range(len(maps))]
    crops = torch.cat(
        [crop(level, rois[own]) for crop, level, own in zip(pooler.level_poolers, maps, rows, strict=True)]
    )
    order = torch.cat(rows)
    position = torch.zeros_like(rois[:, 0], dtype=torch.int64)
    return crops[position.index_put((order,), torch.arange(order.shape[0], device=order.device))[:-1]]


def _images_of(boxes: Tensor) -> Tensor:
    """Return the index of the image of each of the boxes ``(N, D, 4)``, ``(N * D,)``."""
    return torch.arange(boxes.shape[0], device=boxes.device)[:, None].expand(boxes.shape[:2]).flatten()
