"""Comparison of a training step of the paper's detector with the TF Object Detection API's, in float32 on the CPU.

A folder holds ``model.ckpt``, ``pipeline.pbtxt``, ``image.png`` and ``outputs.npz``: ``boxes`` ``(objects, 4)`` as
ymin, xmin, ymax, xmax in fractions of the image, ``labels`` from 0, ``loss/NAME`` the four losses and ``grad/NAME`` the
gradients of their sum. Nothing in it is random: paths are kept and the samplers take every anchor and proposal.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage
from torch import Tensor

from nasnet_det.detection.convert.tf_detector import state_dict
from nasnet_det.golden.comparison import Comparison, GoldenError, relative_error
from nasnet_det.golden.detector import DetectorFolder

#: Largest relative error of a loss.
LOSS_BOUND = 5e-5
#: Largest relative errors of gradients: what float32 leaves, the more of it the lower a layer is.
GRADIENT_BOUNDS = {
    "class and box layers": (("roi_heads.class_layer.", "roi_heads.box_layer."), 1e-4),
    "second stage": (("roi_heads.second_stage.",), 1e-3),
    "RPN head": (("proposal_generator.",), 2e-3),
    "all variables": (("",), 6e-2),
}
_LOSSES = {
    "loss_rpn_loc": "loss/Loss/RPNLoss/localization_loss",
    "loss_rpn_cls": "loss/Loss/RPNLoss/objectness_loss",
    "loss_box_reg": "loss/Loss/BoxClassifierLoss/localization_loss",
    "loss_cls": "loss/Loss/BoxClassifierLoss/classification_loss",
}


def compare_detector_training(folder: Path, meta: Mapping[str, Any]) -> Iterator[Comparison]:
    """Compute a folder's losses and their gradients and compare them.

    Raises:
        GoldenError: if a file or tensor is missing or of another shape, or the pipeline is not supported.
        WeightsError: if the checkpoint is damaged or of another detector.
    """
    recorded = DetectorFolder.read(folder, meta)
    cfg, outputs = recorded.cfg, recorded.outputs
    cfg.MODEL.NASNET.DROP_PATH_RATE, cfg.MODEL.NASNET.LABEL_IDS = 0.0, []  # every label is a class
    if missing := [name for name in ("boxes", "labels", *_LOSSES.values()) if name not in outputs]:
        raise GoldenError(f"{folder / 'outputs.npz'} lacks {missing[0]}")
    model = recorded.model().train()
    with EventStorage():
        losses = model([{"image": recorded.image, "instances": _ground_truth(recorded.image, outputs)}])
    for name, stored in _LOSSES.items():
        difference = relative_error(losses[name].detach().numpy(), outputs[stored])
        yield Comparison(name, difference, LOSS_BOUND, f"{losses[name].item():.6f}")
    sum(losses.values()).backward()
    gradients = {name.removeprefix("grad/"): value for name, value in outputs.items() if name.startswith("grad/")}
    reference = state_dict({**recorded.variables, **gradients}, cfg)
    found = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.requires_grad}
    if len(found) != len(gradients) or any(value is None for value in found.values()):
        yield Comparison("gradients", float("inf"), 0.0, f"{len(found)} trained variables instead of {len(gradients)}")
        return
    for title, (prefixes, bound) in GRADIENT_BOUNDS.items():
        names = [name for name in found if name.startswith(prefixes)]
        difference = relative_error(_joined(found, names), _joined(reference, names))
        yield Comparison(title, difference, bound, f"gradients of {len(names)} variables")


def _ground_truth(image: Tensor, outputs: Mapping[str, np.ndarray]) -> Instances:
    height, width = image.shape[-2:]
    boxes = torch.from_numpy(outputs["boxes"])[:, [1, 0, 3, 2]] * torch.tensor([width, height, width, height])
    return Instances((height, width), gt_boxes=Boxes(boxes), gt_classes=torch.from_numpy(outputs["labels"]).long())


def _joined(values: Mapping[str, Any], names: list[str]) -> np.ndarray:
    return torch.cat([values[name].detach().flatten() for name in names]).numpy()
