"""The second stage of the paper's detector: the network's upper half on every proposal, then class and box layers.

Source: TF Object Detection API ``meta_architectures/faster_rcnn_meta_arch.py``, ``predictors/heads/box_head.py`` and
``class_head.py``. Proposals go through in chunks sized to the device, which bounds memory. Class logits are in
detectron2's order: classes, then background.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import ROI_HEADS_REGISTRY, ROIHeads
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.structures import Boxes, ImageList, Instances
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from nasnet_det.detection.config import ConfigError
from nasnet_det.detection.modeling import chunks
from nasnet_det.detection.modeling.split import SecondStage
from nasnet_det.detection.modeling.suppression import Found, multiclass_nms
from nasnet_det.detection.supported import check_numbers
from nasnet_det.models.tf_image import crop_and_resize


class LabelIds(nn.Module):
    """Mapping between a data set's contiguous classes and the network's labels.

    Args:
        label_ids: for each class of the data set its label, counted from 1; empty if class ``i`` is label ``i + 1``.
        num_classes: the network's labels.

    Raises:
        ConfigError: for a label out of range or given twice.
    """

    labels: Tensor
    classes: Tensor

    def __init__(self, label_ids: Sequence[int], num_classes: int) -> None:
        super().__init__()
        ids = list(label_ids) or list(range(1, num_classes + 1))
        if len(set(ids)) < len(ids) or not all(1 <= label <= num_classes for label in ids):
            raise ConfigError(
                f"MODEL.NASNET.LABEL_IDS are different numbers from 1 to {num_classes} (NUM_CLASSES): {ids}"
            )
        labels = torch.tensor(ids) - 1
        classes = torch.full((num_classes,), -1)
        classes[labels] = torch.arange(len(ids))
        self.register_buffer("labels", labels, persistent=False)
        self.register_buffer("classes", classes, persistent=False)

    def to_labels(self, instances: Instances) -> Instances:
        """Return ground truth with ``gt_classes`` as labels.

        Raises:
            ConfigError: for a class without a label.
        """
        if len(instances) and int(instances.gt_classes.max()) >= len(self.labels):
            raise ConfigError(
                f"the data set has a class number {int(instances.gt_classes.max())}, but the network has labels for "
                f"{len(self.labels)} classes: set MODEL.ROI_HEADS.NUM_CLASSES (and MODEL.NASNET.LABEL_IDS) for it"
            )
        result = Instances(instances.image_size, **instances.get_fields())
        result.gt_classes = self.labels[instances.gt_classes]
        return result

    def to_classes(self, found: Found) -> Found:
        """Return detections with the data set's classes; those of labels without a class become invalid."""
        classes = self.classes[found.classes]
        return found._replace(classes=classes, valid=found.valid & (classes >= 0))


@ROI_HEADS_REGISTRY.register()
class NASNetROIHeads(ROIHeads):
    """Crops, the network's upper half, spatial mean, and one linear layer each for classes and boxes.

    Args:
        in_feature: the name of the map that is cropped.
        second_stage: see :class:`SecondStage`.
        box_transform: decodes box deltas.
        label_ids: see :class:`LabelIds`.
        crop_size: height and width of a crop, in positions of the feature map.
        crop_pool: kernel and stride of the max pooling of a crop.
        chunk_size: the most proposals that go through the second stage at once; 0 for as many as the device's memory
            suggests (``chunks.py``).
        score_threshold, nms_threshold, per_class, total: see
            :func:`nasnet_det.detection.modeling.suppression.multiclass_nms`; a negative total keeps all.
        loss_weights: of classes and boxes.
        kwargs: see detectron2's ``ROIHeads``.

    Raises:
        ConfigError: for numbers out of the bounds of their keys.
    """

    @configurable
    def __init__(
        self,
        *,
        in_feature: str,
        second_stage: SecondStage,
        box_transform: Box2BoxTransform,
        label_ids: Sequence[int] = (),
        crop_size: int = 17,
        crop_pool: tuple[int, int] = (1, 1),
        chunk_size: int = 0,
        score_threshold: float = 0.0,
        nms_threshold: float = 0.6,
        per_class: int = 100,
        total: int = 100,
        loss_weights: tuple[float, float] = (1.0, 2.0),
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        for name, key, value in (
            ("chunk_size", "MODEL.NASNET.CHUNK_SIZE", chunk_size),
            ("score_threshold", "MODEL.ROI_HEADS.SCORE_THRESH_TEST", score_threshold),
            ("nms_threshold", "MODEL.ROI_HEADS.NMS_THRESH_TEST", nms_threshold),
            ("per_class", "MODEL.NASNET.DETECTIONS_PER_CLASS", per_class),
            ("total", "TEST.DETECTIONS_PER_IMAGE", total),
            ("loss_weights", "MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_WEIGHT", loss_weights),
            ("batch_size_per_image", "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", self.batch_size_per_image),
            ("positive_fraction", "MODEL.ROI_HEADS.POSITIVE_FRACTION", self.positive_fraction),
        ):
            check_numbers(key, value, name)
        self.in_feature, self.second_stage, self.box_transform = in_feature, second_stage, box_transform
        self.label_ids = LabelIds(label_ids, self.num_classes)
        self.crop_size, self.crop_pool, self.chunk_size = crop_size, crop_pool, chunk_size
        self.score_threshold, self.nms_threshold = score_threshold, nms_threshold
        self.per_class, self.loss_weights = per_class, loss_weights
        self.total = total if total > 0 else per_class * self.num_classes  # as detectron2's, which then keep all
        self.class_layer = nn.Linear(second_stage.out_channels, self.num_classes + 1)
        self.box_layer = nn.Linear(second_stage.out_channels, 4 * self.num_classes)
        for layer in (self.class_layer, self.box_layer):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    @classmethod
    def from_config(
        cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec], second_stage: SecondStage | None = None
    ) -> dict[str, Any]:
        """Read detectron2's keys of ``MODEL.ROI_HEADS`` and ``MODEL.ROI_BOX_HEAD``, and those of ``MODEL.NASNET``.

        Raises:
            ConfigError: without a second stage, which only ``NASNetRCNN`` on ``build_nasnet_first_stage`` has.
        """
        if second_stage is None:
            raise ConfigError(
                "MODEL.ROI_HEADS.NAME NASNetROIHeads needs MODEL.META_ARCHITECTURE NASNetRCNN and MODEL.BACKBONE.NAME "
                f"build_nasnet_first_stage, got {cfg.MODEL.META_ARCHITECTURE} and {cfg.MODEL.BACKBONE.NAME}"
            )
        heads, box, node = cfg.MODEL.ROI_HEADS, cfg.MODEL.ROI_BOX_HEAD, cfg.MODEL.NASNET
        (in_feature,) = heads.IN_FEATURES
        return {
            **super().from_config(cfg),
            "in_feature": in_feature,
            "second_stage": second_stage,
            "box_transform": Box2BoxTransform(box.BBOX_REG_WEIGHTS, scale_clamp=math.inf),
            "label_ids": node.LABEL_IDS,
            "crop_size": node.CROP_SIZE,
            "crop_pool": (node.CROP_POOL_KERNEL, node.CROP_POOL_STRIDE),
            "chunk_size": node.CHUNK_SIZE,
            "score_threshold": heads.SCORE_THRESH_TEST,
            "nms_threshold": heads.NMS_THRESH_TEST,
            "per_class": node.DETECTIONS_PER_CLASS,
            "total": cfg.TEST.DETECTIONS_PER_IMAGE,
            "loss_weights": (1.0, box.BBOX_REG_LOSS_WEIGHT),
        }

    def forward(
        self,
        images: ImageList,
        features: Mapping[str, Tensor],
        proposals: list[Instances],
        targets: list[Instances] | None = None,
    ) -> tuple[list[Instances], dict[str, Tensor]]:
        """Return detections of each image (``pred_boxes``, ``scores``, ``pred_classes``), or losses in training.

        Args:
            images: the batch, not read.
            features: ``in_feature`` among them, ``(N, C, H, W)``.
            proposals: ``proposal_boxes`` of each image.
            targets: ``gt_boxes`` and ``gt_classes`` of each image; needed in training.
        """
        del images
        if self.training:
            assert targets is not None
            targets = [self.label_ids.to_labels(target) for target in targets]
            proposals = self.label_and_sample_proposals(proposals, targets)
        pooled = self.pooled_features(features[self.in_feature], proposals)
        logits, deltas = self.class_layer(pooled).float(), self.box_layer(pooled).float()
        counts = [len(proposal) for proposal in proposals]
        outputs = list(zip(proposals, logits.split(counts), deltas.split(counts), strict=True))
        if self.training:
            losses = [self._losses(*output) for output in outputs]
            classification, localization = (torch.stack(loss).mean() for loss in zip(*losses, strict=True))
            return proposals, {
                "loss_cls": self.loss_weights[0] * classification,
                "loss_box_reg": self.loss_weights[1] * localization,
            }
        found = [self.label_ids.to_classes(self.detect(*output)) for output in outputs]
        return [_instances(one.existing(), proposal) for one, proposal in zip(found, proposals, strict=True)], {}

    def pooled_features(self, features: Tensor, proposals: list[Instances]) -> Tensor:
        """Return the spatial mean of the second stage's features, ``(all proposals, num_features)``.

        Batch statistics are those of all proposals together: with trainable norms, training uses a single chunk.
        """
        boxes = [normalized_boxes(proposal) for proposal in proposals]
        count = sum(len(image_boxes) for image_boxes in boxes)
        if any(isinstance(module, _BatchNorm) and module.training for module in self.second_stage.modules()):
            crops = [self.crop(features[i], image_boxes) for i, image_boxes in enumerate(boxes)]
            return self._mean_features(torch.cat(crops))
        pooled = [features.new_zeros(0, self.second_stage.out_channels)] if not count else []
        for i, image_boxes in enumerate(boxes):
            for chunk in self.chunks(image_boxes, features.dtype):
                if torch.is_grad_enabled() and self.training:
                    pooled.append(checkpoint(self._chunk, features[i], chunk, use_reentrant=False))
                else:
                    pooled.append(self._chunk(features[i], chunk))
        return torch.cat(pooled)

    def chunks(self, boxes: Tensor, dtype: torch.dtype) -> Sequence[Tensor]:
        """Split the proposals ``(K, 4)`` of one image into chunks for the second stage.

        Args:
            dtype: of the features.
        """
        if not len(boxes):
            return ()
        return boxes.split(chunks.even(len(boxes), self.most_at_once(dtype)))

    def most_at_once(self, dtype: torch.dtype) -> int:
        """Return how many proposals of one image may go through the second stage at once, for features of ``dtype``."""
        if self.chunk_size:
            return self.chunk_size
        keeps = self.training and torch.is_grad_enabled()
        side = (self.crop_size - self.crop_pool[0]) // self.crop_pool[1] + 1
        return chunks.chunk_size(self.second_stage, side, dtype, self.class_layer.weight.device, keeps)

    def detections(self, proposal: Instances, logits: Tensor, deltas: Tensor) -> tuple[Instances, Tensor]:
        """Return the valid detections of :meth:`detect` and the index of each one's proposal."""
        found = self.detect(proposal, logits, deltas).existing()
        return _instances(found, proposal), found.origins

    def detect(self, proposal: Instances, logits: Tensor, deltas: Tensor) -> Found:
        """Return the detections of one image by label, a fixed number with a validity mask.

        Args:
            proposal: K proposals.
            logits: ``(K, num_classes + 1)``.
            deltas: ``(K, 4 * num_classes)``.
        """
        scores = logits.softmax(dim=1)[:, :-1]
        boxes = self.box_transform.apply_deltas(deltas, proposal.proposal_boxes.tensor)
        valid = torch.ones_like(scores[:, 0], dtype=torch.bool)
        return multiclass_nms(
            boxes.unflatten(1, (self.num_classes, 4)),
            scores,
            valid,
            proposal.image_size,
            self.score_threshold,
            self.nms_threshold,
            self.per_class,
            self.total,
        )

    def _chunk(self, features: Tensor, boxes: Tensor) -> Tensor:
        return self._mean_features(self.crop(features, boxes))

    def crop(self, features: Tensor, boxes: Tensor) -> Tensor:
        """Crop one image's map ``(C, H, W)`` at boxes ``(K, 4)`` in fractions of the image, to ``(K, C, S, S)``."""
        crops = crop_and_resize(features, boxes, self.crop_size)
        kernel, stride = self.crop_pool
        return functional.max_pool2d(crops, kernel, stride) if self.crop_pool != (1, 1) else crops

    def _mean_features(self, crops: Tensor) -> Tensor:
        return self.second_stage(crops).mean(dim=(2, 3))

    def _losses(self, proposal: Instances, logits: Tensor, deltas: Tensor) -> tuple[Tensor, Tensor]:
        """Return one image's class and box losses, each summed over the sample and divided by its size."""
        labels, size = proposal.gt_classes, max(1, len(proposal))
        classification = functional.cross_entropy(logits, labels, reduction="sum") / size
        found = (labels < self.num_classes).nonzero()[:, 0]
        if len(found) == 0:
            return classification, deltas.sum() * 0
        chosen = deltas.unflatten(1, (self.num_classes, 4))[found, labels[found]]
        wanted = self.box_transform.get_deltas(proposal.proposal_boxes.tensor[found], proposal.gt_boxes.tensor[found])
        return classification, functional.smooth_l1_loss(chosen, wanted, reduction="sum") / size


def normalized_boxes(proposal: Instances) -> Tensor:
    """Return the proposals of one image, ``(K, 4)``, in fractions of its size."""
    height, width = proposal.image_size
    boxes = proposal.proposal_boxes.tensor
    # A GPU divides by a Python number through its reciprocal, which rounds differently.
    x, y = boxes[:, 0::2] / boxes.new_full((), width), boxes[:, 1::2] / boxes.new_full((), height)
    return torch.stack([x, y], dim=-1).flatten(1)


def _instances(found: Found, proposal: Instances) -> Instances:
    """Convert detections to detectron2's ``Instances``."""
    boxes, scores, classes, *_ = found
    return Instances(proposal.image_size, pred_boxes=Boxes(boxes), scores=scores, pred_classes=classes)
