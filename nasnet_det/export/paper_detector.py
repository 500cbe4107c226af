"""The paper's detector as an exportable function."""

from __future__ import annotations

import torch
from detectron2.modeling.box_regression import Box2BoxTransform
from torch import Tensor
from torch._higher_order_ops.scan import scan
from torch.nn import functional

from nasnet_det.detection.modeling.rcnn import NASNetRCNN
from nasnet_det.detection.modeling.roi_heads import NASNetROIHeads
from nasnet_det.detection.modeling.rpn import NASNetRPN
from nasnet_det.detection.modeling.suppression import batched_nms, clip, exceed
from nasnet_det.export.fixed_detections import (
    Detections,
    ExportableDetector,
    Size,
    best_of,
    existing,
    suppress_by_class,
    take,
)
from nasnet_det.models.tf_image import crop_taps, resize_bilinear


class PaperDetector(ExportableDetector):
    """:class:`NASNetRCNN` with its own proposals and heads.

    Args:
        model: the detector.
        chunk: the number of proposals that go through the second stage at once, a divisor of the number of proposals.
            If it is all of them, those of all images go through at once, without a loop.
    """

    def __init__(self, model: NASNetRCNN, chunk: int) -> None:
        super().__init__(model)
        self.rpn: NASNetRPN = model.proposal_generator
        self.heads: NASNetROIHeads = model.roi_heads
        self.image_size, self.chunk = model.image_size, chunk
        self.least_side = model.least_side
        self.loops = chunk < self.rpn.max_proposals[1]

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
        boxes, classes = _rescale(boxes, size, given), self.heads.label_ids.classes[labels]
        valid = existing(count, scores.shape[1]) & (classes >= 0) & (boxes[..., 2:] > boxes[..., :2]).all(dim=2)
        return best_of((boxes, scores, classes, valid), self.heads.total)

    def propose(self, features: Tensor, size: Size) -> tuple[Tensor, Tensor]:
        """Return ``K`` proposals ``(N, K, 4)`` and which are valid ``(N, K)``; see :meth:`NASNetRPN.best`."""
        logits, deltas = self.rpn.head(features)
        anchors = clip(self.rpn.anchor_generator([features])[0].tensor, size)
        scores, boxes = logits.softmax(dim=2)[:, :, 1], _decode(self.rpn.box_transform, deltas, anchors)
        eligible, limit = exceed(scores, self.rpn.score_threshold), self.rpn.max_proposals[1]
        kept, valid = batched_nms(boxes, scores, eligible, self.rpn.nms_threshold, limit)
        boxes = clip(take(boxes, kept), size)
        return boxes, valid & _has_area(boxes)

    def classify(self, features: Tensor, proposals: Tensor, size: Size) -> tuple[Tensor, Tensor]:
        """Return boxes ``(N, K, C, 4)`` and scores ``(N, K, C)``; see :meth:`NASNetROIHeads.forward`."""
        count, (height, width) = proposals.shape[1], size
        fractions = torch.stack([proposals[..., 0::2] / width, proposals[..., 1::2] / height], dim=-1).flatten(2)
        boxes = fractions.flatten(0, 1)
        image = torch.arange(features.shape[0], device=features.device)[:, None].expand(-1, count).flatten()
        if not self.loops:
            pooled = self._pooled(features, image, boxes)
        else:
            steps = image.unflatten(0, (-1, self.chunk)), boxes.unflatten(0, (-1, self.chunk))
            pooled = self._in_steps(features, *steps).flatten(0, 1)
        scores = self.heads.class_layer(pooled).float().softmax(dim=1)[:, :-1].unflatten(0, (-1, count))
        deltas = self.heads.box_layer(pooled).float()
        boxes = self.heads.box_transform.apply_deltas(deltas, proposals.flatten(0, 1))
        return boxes.unflatten(1, (-1, 4)).unflatten(0, (-1, count)), scores

    def _in_steps(self, features: Tensor, image: Tensor, boxes: Tensor) -> Tensor:
        """Return the results of :meth:`_pooled` on ``(S, chunk)`` and ``(S, chunk, 4)``, ``(S, chunk, F)``."""
        if not torch.compiler.is_exporting():
            return torch.stack([self._pooled(features, *step) for step in zip(image, boxes, strict=True)])
        # The map is a loop-carried state, which OpenVINO takes, and not captured from outside, which it does not.
        _, pooled = scan(lambda map_, step: (map_.clone(), self._pooled(map_, *step)), features, (image, boxes))
        return pooled

    def _pooled(self, features: Tensor, image: Tensor, boxes: Tensor) -> Tensor:
        """Return the second stage's mean features ``(B, F)`` at boxes ``(B, 4)`` of images ``(B,)`` of the batch."""
        _, channels, height, width = features.shape
        positions, weights = crop_taps(boxes, height, width, self.heads.crop_size)
        rows = features.permute(0, 2, 3, 1).reshape(-1, channels)
        positions = positions + image[:, None, None, None] * (height * width)
        taps = [rows[positions[..., tap]] * weights[..., tap, None] for tap in range(4)]
        crops = (taps[0] + taps[1] + taps[2] + taps[3]).permute(0, 3, 1, 2)
        kernel, stride = self.heads.crop_pool
        crops = functional.max_pool2d(crops, kernel, stride) if self.heads.crop_pool != (1, 1) else crops
        return self.heads.second_stage(crops).mean(dim=(2, 3))


def _rescale(boxes: Tensor, size: Size, wanted: Size) -> Tensor:
    """Scale boxes ``(N, D, 4)`` from images of one size to another and clip them."""
    x, y = boxes[..., 0::2] * (wanted[1] / size[1]), boxes[..., 1::2] * (wanted[0] / size[0])
    return clip(torch.stack([x, y], dim=-1).flatten(-2), wanted)


def _decode(transform: Box2BoxTransform, deltas: Tensor, anchors: Tensor) -> Tensor:
    """Decode ``(N, A, 4)`` deltas of ``(A, 4)`` anchors."""
    anchors = anchors[None].expand(deltas.shape[0], -1, -1).flatten(0, 1)
    return transform.apply_deltas(deltas.flatten(0, 1), anchors).view(deltas.shape)


def _has_area(boxes: Tensor) -> Tensor:
    """Return a mask ``(N, D)`` of the boxes that are not empty."""
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1]) > 0
