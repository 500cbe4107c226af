"""``faster_rcnn_nas`` checkpoints of the TF Object Detection API as detectron2 checkpoints and configs.

The two feature extractors hold the lower and the upper half of one network under TF-slim's names; the box predictors'
terms are turned from (y, x, h, w) to detectron2's (x, y, w, h), and the second stage's background moves from first to
last.
"""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from detectron2.config import CfgNode, get_cfg
from torch import Tensor

from nasnet_det.detection import add_nasnet_config
from nasnet_det.detection.backbone import build_network
from nasnet_det.detection.config import network_arguments, read_config
from nasnet_det.detection.identity import DIGEST
from nasnet_det.detection.pipeline_config import follow
from nasnet_det.detection.protobuf_text import PipelineConfigError, parse
from nasnet_det.detection.split import FirstStage, SecondStage
from nasnet_det.files import replacing, write_text
from nasnet_det.weights import WeightsError, read_arrays
from nasnet_det.weights.arrays import located
from nasnet_det.weights.layout import Arrays, to_state_dict
from nasnet_det.weights.tf_slim import AVERAGE
from nasnet_det.weights.tf_slim import FORMAT as TF_SLIM

logger = logging.getLogger(__name__)

_SCOPES = ("FirstStageFeatureExtractor/", "SecondStageFeatureExtractor/")
_RPN = {
    "conv": "Conv",
    "objectness": "FirstStageBoxPredictor/ClassPredictor",
    "boxes": "FirstStageBoxPredictor/BoxEncodingPredictor",
}
_HEADS = {
    "class_layer": "SecondStageBoxPredictor/ClassPredictor",
    "box_layer": "SecondStageBoxPredictor/BoxEncodingPredictor",
}
_YXHW_TO_XYWH = [1, 0, 3, 2]


def base_config() -> CfgNode:
    """The config of the paper's detector, ``configs/nasnet_frcnn.yaml``, without pretrained weights."""
    return read_config("nasnet_frcnn", ["MODEL.NASNET.PRETRAINED", ""])


def read_detector(checkpoint: str | Path, cfg: CfgNode) -> dict[str, Tensor]:
    """The state dict of the detector in a checkpoint; ``cfg`` is changed to describe it.

    Args:
        checkpoint: its prefix or one of its files, a folder or an archive with it. A ``pipeline.config`` (or
            ``pipeline.pbtxt``) beside it is followed.
        cfg: a config of the paper's detector, not frozen.

    Raises:
        WeightsError: for a checkpoint that holds no such detector.
        PipelineConfigError: for a pipeline that is not supported.
    """
    with located(checkpoint) as prefix:
        arrays = {name.removesuffix(AVERAGE): value for name, value in read_arrays(prefix).items()}
        pipeline = next(
            (p for p in (prefix.with_name(f"pipeline.{end}") for end in ("config", "pbtxt")) if p.is_file()), None
        )
        if pipeline is not None:
            _follow(pipeline, cfg)
    missing = [f"{name}/weights" for name in (*_RPN.values(), *_HEADS.values()) if f"{name}/weights" not in arrays]
    if missing or not all(any(name.startswith(scope) for name in arrays) for scope in _SCOPES):
        what = missing[0] if missing else f"{_SCOPES[0]}... or {_SCOPES[1]}..."
        raise WeightsError(f"{checkpoint}: is no checkpoint of faster_rcnn_nas: it lacks {what}")
    _describe(arrays, cfg, known_classes=pipeline is not None, origin=checkpoint)
    if pipeline is None:
        logger.warning(
            f"{checkpoint}: no pipeline.config beside it: taken as trained for images of "
            f"{list(cfg.MODEL.NASNET.IMAGE_SIZE)}, {cfg.MODEL.RPN.POST_NMS_TOPK_TEST} proposals, and "
            "otherwise as the base config says"
        )
    return state_dict(arrays, cfg)


def state_dict(arrays: Arrays, cfg: CfgNode) -> dict[str, Tensor]:
    """The state dict of the detector that ``cfg`` describes from a checkpoint's variables.

    Raises:
        WeightsError: if they do not fit.
    """
    arguments = {**network_arguments(cfg), "norm": "FrozenBN", "pretrained": "", "freeze_at": 0}
    lower, upper = (FirstStage(build_network(**arguments)), SecondStage(build_network(**arguments)))
    whole = build_network(**arguments)
    del whole._buffers[DIGEST]
    slim = {
        name.removeprefix(scope): value for scope in _SCOPES for name, value in arrays.items() if name.startswith(scope)
    }
    network = to_state_dict(whole, slim, TF_SLIM)
    state: dict[str, Tensor] = {}
    for prefix, half in (("backbone.network.", lower.network), ("roi_heads.second_stage.network.", upper.network)):
        own = half.state_dict()
        state.update({prefix + name: own[name] if name == DIGEST else network[name] for name in own})
    for name, scope in _RPN.items():
        state[f"proposal_generator.head.{name}.weight"] = _tensor(arrays, f"{scope}/weights").permute(3, 2, 0, 1)
        state[f"proposal_generator.head.{name}.bias"] = _tensor(arrays, f"{scope}/biases")
    for name, scope in _HEADS.items():
        state[f"roi_heads.{name}.weight"] = _tensor(arrays, f"{scope}/weights").t()
        state[f"roi_heads.{name}.bias"] = _tensor(arrays, f"{scope}/biases")
    for parameter in ("weight", "bias"):
        for layer in ("proposal_generator.head.boxes", "roi_heads.box_layer"):
            name = f"{layer}.{parameter}"
            state[name] = state[name].unflatten(0, (-1, 4))[:, _YXHW_TO_XYWH].flatten(0, 1)
        name = f"roi_heads.class_layer.{parameter}"
        state[name] = state[name].roll(-1, dims=0)
    return {name: value.contiguous() for name, value in state.items()}


def convert(checkpoint: str | Path, folder: str | Path, cfg: CfgNode) -> tuple[Path, Path]:
    """Write ``model.pth`` and ``config.yaml`` for a checkpoint.

    Args:
        checkpoint: see :func:`read_detector`.
        folder: where to.
        cfg: a config of the paper's detector, which says what the pipeline does not.

    Returns:
        the paths of both.
    """
    cfg = cfg.clone()
    cfg.defrost()
    state = read_detector(checkpoint, cfg)
    weights, config = Path(folder) / "model.pth", Path(folder) / "config.yaml"
    with replacing(weights) as part:
        torch.save({"model": state, "__author__": "nasnet_det"}, part)
    cfg.MODEL.WEIGHTS = str(weights)
    cfg.MODEL.NASNET.PRETRAINED = ""
    text = yaml.safe_dump(changes(cfg), sort_keys=False, default_flow_style=None, width=120)
    write_text(config, f"# Converted from {Path(checkpoint).name}.\n{text}")
    return weights, config


def changes(cfg: CfgNode) -> dict[str, Any]:
    """What a config says beyond detectron2's defaults and this package's, as nested plain dictionaries."""
    default = get_cfg()
    add_nasnet_config(default)
    return {"VERSION": cfg.VERSION, **_changes(cfg, default)}


def _changes(node: CfgNode, default: CfgNode) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in node.items():
        if isinstance(value, CfgNode):
            inner = _changes(value, default[key])
            if inner:
                found[key] = inner
        elif value != default[key]:
            found[key] = list(value) if isinstance(value, tuple) else value
    return found


def _follow(pipeline: Path, cfg: CfgNode) -> None:
    try:
        follow(parse(pipeline.read_text(encoding="utf-8")), cfg)
    except (PipelineConfigError, OSError, UnicodeDecodeError) as error:
        raise PipelineConfigError(f"{pipeline}: {error}") from None


def _describe(arrays: Arrays, cfg: CfgNode, known_classes: bool, origin: str | Path) -> None:
    """Set the network's numbers from the shapes of a checkpoint's variables."""
    node, scope = cfg.MODEL.NASNET, _SCOPES[0]
    normal = {int(found[1]) for name in arrays if (found := re.match(r"\w+StageFeatureExtractor/cell_(\d+)/", name))}
    node.NUM_CELLS = len(normal) // 3
    try:
        node.NUM_FILTERS = int(np.shape(arrays[f"{scope}cell_0/1x1/weights"])[-1])
        node.STEM_CHANNELS = int(np.shape(arrays[f"{scope}conv0/weights"])[-1])
    except KeyError as error:
        raise WeightsError(f"{origin}: is no checkpoint of faster_rcnn_nas: it lacks {error.args[0]}") from None
    classes = np.shape(arrays[f"{_HEADS['class_layer']}/biases"])[-1] - 1
    if known_classes and classes != cfg.MODEL.ROI_HEADS.NUM_CLASSES:
        raise WeightsError(
            f"{origin}: holds {classes} classes, but the pipeline config beside it "
            f"says {cfg.MODEL.ROI_HEADS.NUM_CLASSES}"
        )
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = classes
    if classes != 90:
        node.LABEL_IDS = []


def _tensor(arrays: Arrays, name: str) -> Tensor:
    if name not in arrays:
        raise WeightsError(f"the checkpoint lacks {name}")
    return torch.from_numpy(np.array(arrays[name], dtype=np.float32))
