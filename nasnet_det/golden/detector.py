"""Comparison of the paper's detector with the recorded outputs of the TF Object Detection API.

A folder holds ``model.ckpt``, ``pipeline.pbtxt``, ``image.png`` and ``outputs.npz``: boxes as ymin, xmin, ymax, xmax,
maps channels last, possibly at every 4th row and column.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from detectron2.config import CfgNode
from PIL import Image
from torch import Tensor

from nasnet_det.detection.convert.protobuf_text import PipelineConfigError
from nasnet_det.detection.convert.tf_detector import base_config, read_variables, state_dict
from nasnet_det.detection.modeling.rcnn import NASNetRCNN, build_detector
from nasnet_det.detection.modeling.roi_heads import normalized_boxes
from nasnet_det.detection.modeling.suppression import clip
from nasnet_det.golden.comparison import Comparison, GoldenError, arrays_of, as_stored, relative_error
from nasnet_det.weights.layout import Arrays

#: The largest relative error of a tensor, difference of boxes (in fractions of the image) and of scores.
TENSOR_BOUND, BOX_BOUND, SCORE_BOUND = 1e-4, 1e-4, 1e-5

_TENSORS = (
    "preprocessed",
    "rpn_features",
    "pred.anchors",
    "pred.rpn_objectness_predictions_with_background",
    "pred.rpn_box_encodings",
    "pred.proposal_boxes",
    "pred.box_classifier_features",
    "pred.class_predictions_with_background",
    "pred.refined_box_encodings",
)


@dataclass(frozen=True)
class DetectorFolder:
    """The contents of a folder.

    Args:
        cfg: the config of the checkpoint's detector, on the CPU.
        variables: the checkpoint's variables by TF's names.
        image: ``(3, H, W)`` RGB bytes.
        outputs: the recorded arrays.
    """

    cfg: CfgNode
    variables: Arrays
    image: Tensor
    outputs: dict[str, np.ndarray]

    @classmethod
    def read(cls, folder: Path, meta: Mapping[str, Any]) -> DetectorFolder:
        """Read a folder.

        Raises:
            GoldenError: if a file is missing, the pipeline is not supported, or ``meta.json`` describes another
                checkpoint.
            WeightsError: if the checkpoint is damaged or of another detector.
        """
        cfg = base_config()
        cfg.MODEL.DEVICE = "cpu"
        try:
            variables = read_variables(folder / "model.ckpt", cfg)
            pixels = np.array(Image.open(folder / "image.png").convert("RGB"))
        except (PipelineConfigError, OSError) as error:
            raise GoldenError(f"{folder}: {error}") from None
        described, filters = meta.get("num_conv_filters"), cfg.MODEL.NASNET.NUM_FILTERS
        if described not in (None, filters):
            raise GoldenError(f"{folder}: meta.json says {described} filters, the checkpoint {filters}")
        image = torch.from_numpy(pixels).permute(2, 0, 1).contiguous()
        return cls(cfg, variables, image, arrays_of(folder / "outputs.npz"))

    def model(self) -> NASNetRCNN:
        """Return the detector of the config with the checkpoint's weights."""
        model = cast(NASNetRCNN, build_detector(self.cfg))
        model.load_state_dict(state_dict(self.variables, self.cfg))
        return model


@torch.no_grad()
def compare_detector(folder: Path, meta: Mapping[str, Any]) -> Iterator[Comparison]:
    """Convert a folder's checkpoint, run it on its image, and compare; float32 on the CPU.

    Raises:
        GoldenError: if a file or tensor is missing or of another shape, or the pipeline is not supported.
        WeightsError: if the checkpoint is damaged or of another detector.
    """
    recorded = DetectorFolder.read(folder, meta)
    outputs = recorded.outputs
    found, detections = detector_end_points(recorded.model().eval(), recorded.image)
    count = int(outputs["pred.num_proposals"][0])
    if count != len(found["pred.proposal_boxes"]):
        note = f"{len(found['pred.proposal_boxes'])} proposals instead of {count}"
        yield Comparison("pred.num_proposals", float("inf"), TENSOR_BOUND, note)
        return
    order = _nearest(found["pred.proposal_boxes"], outputs["pred.proposal_boxes"].reshape(-1, 4)[:count])
    for name in _TENSORS:
        reference = outputs[name]
        value = found[name]
        if value.shape[0] == count and name.startswith("pred.") and "rpn" not in name:
            value, reference = value[order], reference.reshape(-1, *reference.shape[-value.ndim + 1 :])[:count]
        value = as_stored(value, reference, f"{folder / 'outputs.npz'}: {name}")
        yield Comparison(name, relative_error(value, reference), TENSOR_BOUND)
    yield from _compare_detections(detections, outputs)


def detector_end_points(model: NASNetRCNN, image: Tensor) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Return the API's predictions and detections of one image ``(3, H, W)``, in its conventions."""
    images = model.preprocess_image([model.resized({"image": image})])
    features = model.backbone(images.tensor)
    rpn, heads = model.proposal_generator, model.roi_heads
    cut = features[rpn.in_feature]
    logits, deltas = rpn.head(cut)
    (proposal,), _ = rpn(images, features)
    anchors = clip(rpn.anchor_generator([cut])[0].tensor, images.image_sizes[0])
    crops = heads.chunks(normalized_boxes(proposal), cut.dtype)
    maps = torch.cat([heads.second_stage(heads.crop(cut[0], boxes)) for boxes in crops])
    pooled = heads.pooled_features(cut, [proposal])
    classes, boxes = heads.class_layer(pooled), heads.box_layer(pooled)
    detected, _ = heads.detections(proposal, classes, boxes)
    height, width = proposal.image_size
    found = {
        "preprocessed": images.tensor.permute(0, 2, 3, 1),
        "rpn_features": cut.permute(0, 2, 3, 1),
        "pred.anchors": _turned(anchors),
        "pred.rpn_objectness_predictions_with_background": logits,
        "pred.rpn_box_encodings": _turned(deltas),
        "pred.proposal_boxes": _turned(proposal.proposal_boxes.tensor),
        "pred.box_classifier_features": maps.permute(0, 2, 3, 1),
        "pred.class_predictions_with_background": classes.roll(1, dims=1),
        "pred.refined_box_encodings": _turned(boxes.unflatten(1, (-1, 4))),
    }
    detections = {
        "boxes": _turned(detected.pred_boxes.tensor) / torch.tensor([height, width, height, width]),
        "scores": detected.scores,
        "classes": detected.pred_classes,
    }
    return {k: v.numpy() for k, v in found.items()}, {k: v.numpy() for k, v in detections.items()}


def _turned(boxes: Tensor) -> Tensor:
    """Swap the x, y order of boxes or box deltas to y, x, or back."""
    return boxes[..., [1, 0, 3, 2]]


def _nearest(found: np.ndarray, reference: np.ndarray) -> list[int]:
    """Return for each reference box the index of the nearest found box not yet assigned.

    Boxes of equal scores may come in another order.
    """
    free = list(range(len(found)))
    order = []
    for box in reference:
        best = min(free, key=lambda i: float(np.abs(found[i] - box).max()))
        free.remove(best)
        order.append(best)
    return order


def _compare_detections(found: Mapping[str, np.ndarray], outputs: Mapping[str, np.ndarray]) -> Iterator[Comparison]:
    """Compare two sets of detections, matching each to one of the same class with a near score and box."""
    count = int(outputs["det.num_detections"][0])
    boxes, scores, classes = (outputs[f"det.detection_{name}"][0, :count] for name in ("boxes", "scores", "classes"))
    if len(found["scores"]) != count:
        yield Comparison("det.num_detections", float("inf"), 0.0, f"{len(found['scores'])} instead of {count}")
        return
    yield Comparison("det.num_detections", 0.0, 0.0, f"{count} detections")
    free = list(range(count))
    worst_box, worst_score, strangers = 0.0, 0.0, 0
    for box, score, label in zip(boxes, scores, classes, strict=True):
        alike = [
            i for i in free if found["classes"][i] == int(label) and abs(found["scores"][i] - score) <= SCORE_BOUND
        ]
        if not alike:
            strangers += 1
            continue
        best = min(alike, key=lambda i: float(np.abs(found["boxes"][i] - box).max()))
        free.remove(best)
        worst_box = max(worst_box, float(np.abs(found["boxes"][best] - box).max()))
        worst_score = max(worst_score, float(abs(found["scores"][best] - score)))
    yield Comparison("det.detection_classes", float(strangers), 0.0, "detections without a counterpart")
    yield Comparison("det.detection_boxes", worst_box, BOX_BOUND, "largest difference, in fractions of the image")
    yield Comparison("det.detection_scores", worst_score, SCORE_BOUND, "largest difference")
