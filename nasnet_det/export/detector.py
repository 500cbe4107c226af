"""Whole detectors with fixed shapes, for ONNX and ``torch.export``: one image in, a fixed number of detections out.

A detector's own code drops boxes as it goes, so the size of everything after depends on the image. Here nothing is
dropped: what would be is marked, sorted last, and counted off at the end. The detections are the same, followed by
zeros. This is how the TF Object Detection API exports detectors too (``exporter.py``: ``detection_boxes``,
``detection_scores``, ``detection_classes``, ``num_detections``).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from detectron2.config import CfgNode
from detectron2.modeling import GeneralizedRCNN
from detectron2.modeling.poolers import ROIPooler, assign_boxes_to_levels
from detectron2.modeling.proposal_generator import RPN
from detectron2.modeling.roi_heads import StandardROIHeads
from detectron2.structures import Boxes
from torch import Tensor, nn

from nasnet_det.detection.data.registered import categories
from nasnet_det.detection.modeling.rcnn import NASNetRCNN
from nasnet_det.detection.modeling.roi_heads import NASNetROIHeads
from nasnet_det.detection.modeling.rpn import NASNetRPN
from nasnet_det.detection.modeling.suppression import Found, batched_nms, clip, multiclass_nms, suppress_classes
from nasnet_det.export.programs import Program

OUTPUTS = ("boxes", "scores", "classes", "num_detections")
Detections = tuple[Tensor, Tensor, Tensor, Tensor]


class FixedDetector(nn.Module):
    """A detector for images of one size.

    Args:
        model: the detector; used, not copied.
        image_size: height and width of its images.

    Raises:
        ValueError: for a size that the detector cannot take.
    """

    def __init__(self, model: GeneralizedRCNN, image_size: tuple[int, int]) -> None:
        super().__init__()
        self.model, self.image_size = model.eval(), image_size
        divisor = model.backbone.size_divisibility
        if divisor and any(side % divisor for side in image_size):
            raise ValueError(f"height and width are multiples of {divisor} for this detector, not {image_size}")

    def forward(self, image: Tensor) -> Detections:
        """Detect on one image.

        Args:
            image: ``(3, H, W)``, 0 to 255, float32, in the config's channel order.

        Returns:
            boxes ``(D, 4)``, x0 y0 x1 y1 in the image's pixels, scores ``(D,)`` and classes ``(D,)``, best first, and
            how many of the D there are, ``()``; the rest is zero.
        """
        features = self.model.backbone(((image - self.model.pixel_mean) / self.model.pixel_std)[None])
        proposals, valid = self.propose(features)
        boxes, scores = self.classify(features, proposals)
        return self.multiclass_nms(boxes, scores, valid)

    def propose(self, features: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Proposals ``(K, 4)``, K fixed, and which of them exist."""
        raise NotImplementedError

    def classify(self, features: Mapping[str, Tensor], proposals: Tensor) -> tuple[Tensor, Tensor]:
        """Boxes ``(K, C, 4)`` and scores ``(K, C)`` of K proposals for C classes."""
        raise NotImplementedError

    def multiclass_nms(self, boxes: Tensor, scores: Tensor, valid: Tensor) -> Detections:
        """What :meth:`forward` returns, of the candidates that exist."""
        raise NotImplementedError


class PaperDetector(FixedDetector):
    """:class:`NASNetRCNN` with its own proposals and heads."""

    def __init__(self, model: NASNetRCNN, image_size: tuple[int, int]) -> None:
        super().__init__(model, image_size)
        self.rpn: NASNetRPN = model.proposal_generator
        self.heads: NASNetROIHeads = model.roi_heads

    def propose(self, features: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """See :meth:`NASNetRPN.forward`."""
        features_in = features[self.rpn.in_feature]
        logits, deltas = self.rpn.head(features_in)
        anchors = clip(self.rpn.anchor_generator([features_in])[0].tensor, self.image_size)
        limit = self.rpn.max_proposals[1]
        boxes, _, valid = self.rpn.best(anchors, logits[0], deltas[0], self.image_size, limit)
        return boxes, valid

    def classify(self, features: Mapping[str, Tensor], proposals: Tensor) -> tuple[Tensor, Tensor]:
        """See :meth:`NASNetROIHeads.forward`."""
        height, width = self.image_size
        fractions = proposals / proposals.new_tensor([width, height, width, height])
        cut = features[self.heads.in_feature][0]
        crops = (self.heads.crop(cut, boxes) for boxes in self.heads.chunks(fractions, cut.dtype))
        pooled = torch.cat([self.heads.second_stage(crop).mean(dim=(2, 3)) for crop in crops])
        scores = self.heads.class_layer(pooled).float().softmax(dim=1)[:, :-1]
        boxes = self.heads.box_transform.apply_deltas(self.heads.box_layer(pooled).float(), proposals)
        return boxes.unflatten(1, (self.heads.num_classes, 4)), scores

    def multiclass_nms(self, boxes: Tensor, scores: Tensor, valid: Tensor) -> Detections:
        """Suppress, clip and count boxes; see :func:`nasnet_det.detection.modeling.suppression.select`."""
        heads = self.heads
        limits = (heads.score_threshold, heads.nms_threshold, heads.per_class, heads.total)
        found = heads.label_ids.to_classes(multiclass_nms(boxes, scores, valid, self.image_size, *limits))
        return counted(found.first(heads.total))


class PyramidDetector(FixedDetector):
    """detectron2's Faster R-CNN on a feature pyramid."""

    def __init__(self, model: GeneralizedRCNN, image_size: tuple[int, int]) -> None:
        super().__init__(model, image_size)
        self.rpn: RPN = model.proposal_generator
        self.heads: StandardROIHeads = model.roi_heads

    def propose(self, features: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """See detectron2's ``find_top_rpn_proposals``: boxes are clipped, then suppressed level by level."""
        maps = [features[name] for name in self.rpn.in_features]
        anchors = self.rpn.anchor_generator(maps)
        logits, deltas = self.rpn.rpn_head(maps)
        found = []
        for level_anchors, level_logits, level_terms in zip(anchors, logits, deltas, strict=True):
            scores = level_logits[0].permute(1, 2, 0).flatten()
            deltas = level_terms[0].unflatten(0, (-1, 4)).permute(2, 3, 0, 1).flatten(0, 2)
            best = scores.topk(min(len(scores), self.rpn.pre_nms_topk[False])).indices
            scores = scores[best]
            boxes = self.rpn.box2box_transform.apply_deltas(deltas[best], level_anchors.tensor[best])
            usable = boxes.isfinite().all(dim=1) & scores.isfinite()
            boxes = clip(boxes, self.image_size)
            usable &= ((boxes[:, 2:] - boxes[:, :2]) > self.rpn.min_box_size).all(dim=1)
            kept, valid = batched_nms(boxes[None], scores[None], usable[None], self.rpn.nms_thresh, len(scores))
            found.append((boxes[kept[0]], scores[kept[0]], valid[0]))
        boxes, scores, valid = (torch.cat(parts) for parts in zip(*found, strict=True))
        none = torch.zeros_like(valid)
        best = Found(boxes, scores, none, none, valid).first(self.rpn.post_nms_topk[False])
        return best.boxes, best.valid

    def classify(self, features: Mapping[str, Tensor], proposals: Tensor) -> tuple[Tensor, Tensor]:
        """See detectron2's ``FastRCNNOutputLayers.inference``."""
        pooled = pool([features[name] for name in self.heads.box_in_features], proposals, self.heads.box_pooler)
        logits, deltas = self.heads.box_predictor(self.heads.box_head(pooled))
        boxes = self.heads.box_predictor.box2box_transform.apply_deltas(deltas, proposals).unflatten(1, (-1, 4))
        return boxes.expand(-1, self.heads.num_classes, 4), logits.softmax(dim=1)[:, :-1]

    def multiclass_nms(self, boxes: Tensor, scores: Tensor, valid: Tensor) -> Detections:
        """See detectron2's ``fast_rcnn_inference_single_image``: boxes are clipped, then suppressed class by class."""
        predictor = self.heads.box_predictor
        valid = valid & (boxes.isfinite().all(dim=2) & scores.isfinite()).all(dim=1)
        eligible = valid[:, None] & (scores > predictor.test_score_thresh)
        boxes, limit = clip(boxes, self.image_size), predictor.test_topk_per_image
        return counted(suppress_classes(boxes, scores, eligible, predictor.test_nms_thresh, limit).first(limit))


def fixed_detector(model: GeneralizedRCNN, image_size: tuple[int, int]) -> FixedDetector:
    """The form of a detector that can be exported.

    Raises:
        ValueError: if it is neither the paper's nor detectron2's Faster R-CNN, or cannot take that size.
    """
    if isinstance(model, NASNetRCNN) and isinstance(model.roi_heads, NASNetROIHeads):
        return PaperDetector(model, image_size)
    if type(getattr(model, "roi_heads", None)) is StandardROIHeads and not model.roi_heads.mask_on:
        return PyramidDetector(model, image_size)
    raise ValueError(
        f"a {type(model).__name__} cannot be exported: only the paper's detector and detectron2's Faster R-CNN without "
        "masks can"
    )


def counted(found: Found) -> Detections:
    """Zeros for those that do not exist, and the number of those that do."""
    valid = found.valid
    return found.boxes * valid[:, None], found.scores * valid, found.classes * valid, valid.sum()


def pool(maps: list[Tensor], boxes: Tensor, pooler: ROIPooler) -> Tensor:
    """detectron2's ``ROIPooler`` for boxes ``(K, 4)`` of one image: crops of every level, of which one is taken."""
    rois = torch.cat([torch.zeros_like(boxes[:, :1]), boxes], dim=1)
    levels = assign_boxes_to_levels(
        [Boxes(boxes)], pooler.min_level, pooler.max_level, pooler.canonical_box_size, pooler.canonical_level
    )
    crops = pooler.level_poolers[0](maps[0], rois)
    for level, (level_map, level_pooler) in enumerate(zip(maps[1:], pooler.level_poolers[1:], strict=True), start=1):
        crops = torch.where((levels == level)[:, None, None, None], level_pooler(level_map, rois), crops)
    return crops


def detector_program(model: GeneralizedRCNN, cfg: CfgNode, image_size: tuple[int, int] | None = None) -> Program:
    """What :func:`nasnet_det.export.save_program` takes of a whole detector.

    Args:
        model: built from ``cfg``.
        cfg: its config.
        image_size: height and width of its images; the config's ``MODEL.NASNET.IMAGE_SIZE`` if None.

    Raises:
        ValueError: if neither gives a size, or the detector cannot be exported at it.
    """
    height, width = image_size or cfg.MODEL.NASNET.IMAGE_SIZE
    if not (height and width):
        raise ValueError("the config names no image size, so one must be given: height and width")
    detector = fixed_detector(model, (height, width))
    generator = torch.Generator().manual_seed(0)
    example = torch.rand(3, height, width, generator=generator) * 255
    description = {
        "channels": cfg.INPUT.FORMAT,
        "image_size": [height, width],
        "categories": categories(cfg.DATASETS.TEST[0]) if cfg.DATASETS.TEST else [],
        "config": cfg.dump(),
    }
    return Program(detector, example, OUTPUTS, description=description)
