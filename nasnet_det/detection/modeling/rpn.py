"""The region proposal network of the paper's detector: anchors, head, proposals and losses of ``faster_rcnn_nas``.

Source: TF Object Detection API ``meta_architectures/faster_rcnn_meta_arch.py``, ``anchor_generators/
grid_anchor_generator.py``, ``core/target_assigner.py``, ``matchers/argmax_matcher.py``. Boxes are in detectron2's
order, x0 y0 x1 y1, and box deltas in its (dx, dy, dw, dh).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import ANCHOR_GENERATOR_REGISTRY, PROPOSAL_GENERATOR_REGISTRY, build_anchor_generator
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.sampling import subsample_labels
from detectron2.structures import Boxes, ImageList, Instances, pairwise_iou
from detectron2.utils.events import get_event_storage
from torch import Tensor, nn
from torch.nn import functional

from nasnet_det.detection.config import ConfigError
from nasnet_det.detection.modeling.suppression import batched_nms, clip, exceed, has_area
from nasnet_det.detection.supported import check_numbers

BACKGROUND, IGNORED = -1, -2


@ANCHOR_GENERATOR_REGISTRY.register()
class GridAnchorGenerator(DefaultAnchorGenerator):
    """detectron2's anchors in TF's order: at each position all sizes of the first aspect ratio (height / width), then
    those of the next."""

    def generate_cell_anchors(
        self, sizes: Sequence[float] = (64, 128, 256, 512), aspect_ratios: Sequence[float] = (2.0, 1.0, 0.5)
    ) -> Tensor:
        """Return the anchors of one position, ``(ratios * sizes, 4)``, around the origin."""
        shapes = torch.tensor([(s / math.sqrt(r), s * math.sqrt(r)) for r in aspect_ratios for s in sizes])
        return torch.cat([-0.5 * shapes, 0.5 * shapes], dim=1)

    def _grid_anchors(self, grid_sizes: Sequence[Sequence[int]]) -> list[Tensor]:
        """Return detectron2's grid anchors, created on the anchors' device instead of copied to it."""
        made = []
        for size, stride, around in zip(grid_sizes, self.strides, self.cell_anchors, strict=True):
            y, x = (
                torch.arange(
                    self.offset * stride, side * stride, step=stride, dtype=torch.float32, device=around.device
                )
                for side in size
            )
            rows, columns = torch.meshgrid(y, x, indexing="ij")
            centres = torch.stack([columns, rows, columns, rows], dim=-1).reshape(-1, 1, 4)
            made.append((centres + around).reshape(-1, 4))
        return made


def check_anchors(generator: DefaultAnchorGenerator) -> None:
    """Raise ConfigError if a generator makes anchors without area."""
    if not all(level.is_meta or (level[:, 2:] > level[:, :2]).all() for level in generator.cell_anchors):
        raise ConfigError(
            "the anchors have no area: MODEL.ANCHOR_GENERATOR.SIZES and ASPECT_RATIOS (sizes, aspect_ratios) must be "
            "above 0"
        )


class RPNHead(nn.Module):
    """3x3 convolution, ReLU6 (``activation_fn=tf.nn.relu6``), then 1x1 convolutions to two class logits and four box
    deltas for each anchor."""

    def __init__(self, in_channels: int, num_anchors: int, channels: int = 512) -> None:
        super().__init__()
        self.num_anchors = num_anchors
        self.conv = nn.Conv2d(in_channels, channels, 3, padding=1)
        self.act = nn.ReLU6()
        self.objectness = nn.Conv2d(channels, 2 * num_anchors, 1)
        self.boxes = nn.Conv2d(channels, 4 * num_anchors, 1)
        for layer in (self.conv, self.objectness, self.boxes):
            nn.init.trunc_normal_(layer.weight, std=0.01, a=-0.02, b=0.02)
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Map ``(N, C, H, W)`` to logits ``(N, H*W*A, 2)``, background first, and box deltas ``(N, H*W*A, 4)``."""
        x = self.act(self.conv(features))
        logits, deltas = (layer(x).permute(0, 2, 3, 1).flatten(1) for layer in (self.objectness, self.boxes))
        return logits.unflatten(1, (-1, 2)).float(), deltas.unflatten(1, (-1, 4)).float()


def match(iou: Tensor, positive: float, negative: float) -> Tensor:
    """Return for each anchor the index of its object, :data:`BACKGROUND` or :data:`IGNORED`.

    An anchor matches its best object if they overlap by ``positive`` or more; below ``negative`` it is background. Each
    object's best anchor (the first of equals) matches it at any overlap.

    Args:
        iou: ``(objects, anchors)``.

    Returns:
        ``(anchors,)``.
    """
    if iou.numel() == 0:
        return torch.full(iou.shape[1:], BACKGROUND, device=iou.device)
    best, matches = iou.max(dim=0)
    matches = matches.where(best >= positive, torch.full_like(matches, IGNORED))
    matches[best < negative] = BACKGROUND
    # Backwards, so that of several objects with the same best anchor the first has it.
    for number, anchor in reversed(list(enumerate(iou.argmax(dim=1).tolist()))):
        matches[anchor] = number
    return matches


@PROPOSAL_GENERATOR_REGISTRY.register()
class NASNetRPN(nn.Module):
    """Proposals for the second stage, and the first stage's losses in training.

    Anchors are clipped to the image in inference; in training those that cross its border are left out.

    Args:
        in_feature: the name of the map that it reads.
        head: see :class:`RPNHead`.
        anchor_generator: makes anchors for the map.
        box_transform: decodes box deltas.
        score_threshold: scores that a proposal must exceed.
        nms_threshold: overlap from which a proposal is suppressed.
        max_proposals: proposals kept of an image, in training and in inference.
        batch_size, positive_fraction: anchors of an image that the losses are taken of, and how many may be positive.
        thresholds: overlap below which an anchor is background, and from which on it is positive.
        loss_weights: of objectness and boxes.

    Raises:
        ConfigError: for thresholds that are not two in ascending order, anchors without area or other than the head's,
            or numbers out of the bounds of their keys.
    """

    @configurable
    def __init__(
        self,
        *,
        in_feature: str,
        head: RPNHead,
        anchor_generator: DefaultAnchorGenerator,
        box_transform: Box2BoxTransform,
        score_threshold: float = 0.0,
        nms_threshold: float = 0.7,
        max_proposals: tuple[int, int] = (300, 300),
        batch_size: int = 256,
        positive_fraction: float = 0.5,
        thresholds: tuple[float, float] = (0.3, 0.7),
        loss_weights: tuple[float, float] = (1.0, 2.0),
    ) -> None:
        super().__init__()
        check_anchors(anchor_generator)
        if head.num_anchors != anchor_generator.num_anchors[0]:
            raise ConfigError(
                f"the head is for {head.num_anchors} anchors at a position (num_anchors), the sizes and aspect ratios "
                f"make {anchor_generator.num_anchors[0]}"
            )
        for name, key, value in (
            ("score_threshold", "MODEL.NASNET.RPN_SCORE_THRESH", score_threshold),
            ("nms_threshold", "MODEL.RPN.NMS_THRESH", nms_threshold),
            ("max_proposals", "MODEL.RPN.POST_NMS_TOPK_TRAIN", max_proposals),
            ("batch_size", "MODEL.RPN.BATCH_SIZE_PER_IMAGE", batch_size),
            ("positive_fraction", "MODEL.RPN.POSITIVE_FRACTION", positive_fraction),
            ("thresholds", "MODEL.RPN.IOU_THRESHOLDS", thresholds),
            ("loss_weights", "MODEL.RPN.LOSS_WEIGHT", loss_weights),
        ):
            check_numbers(key, value, name)
        if len(thresholds) != 2 or thresholds[0] > thresholds[1]:
            raise ConfigError(
                f"MODEL.RPN.IOU_THRESHOLDS (thresholds) is {[*thresholds]}: expected the overlap below which an anchor "
                "is background, and the one from which on it is positive"
            )
        self.in_feature, self.head, self.anchor_generator = in_feature, head, anchor_generator
        self.box_transform, self.score_threshold, self.nms_threshold = box_transform, score_threshold, nms_threshold
        self.max_proposals = max_proposals
        self.batch_size, self.positive_fraction = batch_size, positive_fraction
        self.thresholds, self.loss_weights = thresholds, loss_weights

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        """Read detectron2's own keys of ``MODEL.RPN``."""
        rpn = cfg.MODEL.RPN
        if [*rpn.IOU_LABELS] != [0, -1, 1]:
            raise ConfigError(f"MODEL.RPN.IOU_LABELS is {rpn.IOU_LABELS}: NASNetRPN has [0, -1, 1] only")
        if len(rpn.CONV_DIMS) != 1:
            raise ConfigError(f"MODEL.RPN.CONV_DIMS is {rpn.CONV_DIMS}: NASNetRPN has one convolution")
        (in_feature,) = rpn.IN_FEATURES
        shape = input_shape[in_feature]
        anchors = build_anchor_generator(cfg, [shape])
        channels = rpn.CONV_DIMS[0] if rpn.CONV_DIMS[0] > 0 else shape.channels
        return {
            "in_feature": in_feature,
            "head": RPNHead(shape.channels, anchors.num_anchors[0], channels),
            "anchor_generator": anchors,
            "box_transform": Box2BoxTransform(rpn.BBOX_REG_WEIGHTS, scale_clamp=math.inf),
            "score_threshold": cfg.MODEL.NASNET.RPN_SCORE_THRESH,
            "nms_threshold": rpn.NMS_THRESH,
            "max_proposals": (rpn.POST_NMS_TOPK_TRAIN, rpn.POST_NMS_TOPK_TEST),
            "batch_size": rpn.BATCH_SIZE_PER_IMAGE,
            "positive_fraction": rpn.POSITIVE_FRACTION,
            "thresholds": tuple(rpn.IOU_THRESHOLDS),
            "loss_weights": (rpn.LOSS_WEIGHT, rpn.BBOX_REG_LOSS_WEIGHT * rpn.LOSS_WEIGHT),
        }

    def forward(
        self, images: ImageList, features: Mapping[str, Tensor], gt_instances: list[Instances] | None = None
    ) -> tuple[list[Instances], dict[str, Tensor]]:
        """Return each image's proposals, best first (``proposal_boxes``, ``objectness_logits``), and training losses.

        Args:
            images: the batch; ``image_sizes`` bounds boxes.
            features: ``in_feature`` among them, ``(N, C, H, W)``.
            gt_instances: ``gt_boxes`` of each image; needed in training.
        """
        logits, deltas = self.head(features[self.in_feature])
        anchors = self.anchor_generator([features[self.in_feature]])[0].tensor
        proposals, losses = [], []
        for number, size in enumerate(images.image_sizes):
            if self.training:
                kept = _within(anchors, size)
                boxes, image_logits, image_terms = anchors[kept], logits[number, kept], deltas[number, kept]
                assert gt_instances is not None
                losses.append(self._losses(boxes, image_logits, image_terms, gt_instances[number].gt_boxes))
            else:
                boxes, image_logits, image_terms = clip(anchors, size), logits[number], deltas[number]
            proposals.append(self._proposals(boxes, image_logits.detach(), image_terms.detach(), size))
        if not self.training:
            return proposals, {}
        objectness, localization = (torch.stack(loss).mean() for loss in zip(*losses, strict=True))
        return proposals, {
            "loss_rpn_cls": self.loss_weights[0] * objectness,
            "loss_rpn_loc": self.loss_weights[1] * localization,
        }

    @torch.no_grad()
    def best(
        self, anchors: Tensor, logits: Tensor, deltas: Tensor, size: tuple[int, int], limit: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the proposals of one image, best first: ``limit`` boxes ``(limit, 4)`` within it, their logits, and a
        validity mask.

        Args:
            anchors: ``(A, 4)``.
            logits: ``(A, 2)``.
            deltas: ``(A, 4)``.
            size: height and width of the image.
            limit: how many.
        """
        scores = logits.softmax(dim=1)[:, 1]
        boxes = self.box_transform.apply_deltas(deltas, anchors)
        eligible = exceed(scores, self.score_threshold)
        kept, valid = batched_nms(boxes[None], scores[None], eligible[None], self.nms_threshold, limit)
        clipped = clip(boxes[kept[0]], size)
        return clipped, (logits[:, 1] - logits[:, 0])[kept[0]], valid[0] & has_area(clipped)

    def _proposals(self, anchors: Tensor, logits: Tensor, deltas: Tensor, size: tuple[int, int]) -> Instances:
        limit = self.max_proposals[0 if self.training else 1]
        boxes, logit, valid = self.best(anchors, logits, deltas, size, limit)
        boxes, logit = boxes[valid], logit[valid]
        if self.training and len(boxes) == 0:
            # The second stage always runs, so that all processes have the same gradients to exchange.
            boxes, logit = boxes.new_tensor([[0, 0, size[1], size[0]]]), boxes.new_zeros(1)
        return Instances(size, proposal_boxes=Boxes(boxes), objectness_logits=logit)

    def _losses(self, anchors: Tensor, logits: Tensor, deltas: Tensor, objects: Boxes) -> tuple[Tensor, Tensor]:
        """Return one image's objectness and box losses, each summed over the sample and divided by its size."""
        negative, positive = self.thresholds
        matches = match(pairwise_iou(objects, Boxes(anchors)), positive, negative)
        labels = matches.clamp(max=0) + 1  # 1 for an object, 0 for background, -1 for ignored
        chosen_positive, chosen_negative = subsample_labels(labels, self.batch_size, self.positive_fraction, 0)
        chosen = torch.cat([chosen_positive, chosen_negative])
        storage = get_event_storage()
        storage.put_scalar("rpn/num_pos_anchors", len(chosen_positive))
        storage.put_scalar("rpn/num_neg_anchors", len(chosen_negative))
        size = max(1, len(chosen))
        objectness = functional.cross_entropy(logits[chosen], labels[chosen], reduction="sum") / size
        found = objects.tensor[matches[chosen_positive]]
        wanted = self.box_transform.get_deltas(anchors[chosen_positive], found)
        localization = functional.smooth_l1_loss(deltas[chosen_positive], wanted, reduction="sum") / size
        return objectness, localization


def _within(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    height, width = size
    x0, y0, x1, y1 = boxes.unbind(dim=1)
    return ((x0 >= 0) & (y0 >= 0) & (x1 <= width) & (y1 <= height)).nonzero()[:, 0]
