"""Conversion of the TF Object Detection API's ``faster_rcnn_nas`` checkpoints to detectron2 checkpoints and configs.

The two feature extractors hold the lower and the upper half of one network under TF-slim's names; box deltas are
reordered from (y, x, h, w) to detectron2's (x, y, w, h), and the second stage's background moves from first to last.
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
from torch import Tensor, nn

from nasnet_det.detection import add_nasnet_config
from nasnet_det.detection.config import network_arguments, read_config
from nasnet_det.detection.convert.identity import DIGEST, genotype_digest
from nasnet_det.detection.convert.pipeline_config import follow
from nasnet_det.detection.convert.protobuf_text import PipelineConfigError, parse
from nasnet_det.detection.modeling.backbone import build_network
from nasnet_det.detection.modeling.rpn import NASNetRPN, RPNHead
from nasnet_det.detection.modeling.split import FirstStage, SecondStage, split_network
from nasnet_det.safe_io.files import NOTHING, begins_with, check_writable, replacing, write_text
from nasnet_det.weights import WeightsError, read_arrays
from nasnet_det.weights.arrays import located
from nasnet_det.weights.formats.tf_slim import AVERAGE
from nasnet_det.weights.formats.tf_slim import FORMAT as TF_SLIM
from nasnet_det.weights.layout import Arrays, naming, read_tensor, to_state_dict

logger = logging.getLogger(__name__)

#: The beginning of a config that was written here, also as a regular expression.
_HEADER = "# Converted from "
_OWN = rb"\A" + _HEADER.encode()
_SCOPES = ("FirstStageFeatureExtractor/", "SecondStageFeatureExtractor/")
#: A checkpoint's scope of each layer of the heads.
_HEADS = {
    "proposal_generator.head.conv": "Conv",
    "proposal_generator.head.objectness": "FirstStageBoxPredictor/ClassPredictor",
    "proposal_generator.head.boxes": "FirstStageBoxPredictor/BoxEncodingPredictor",
    "roi_heads.class_layer": "SecondStageBoxPredictor/ClassPredictor",
    "roi_heads.box_layer": "SecondStageBoxPredictor/BoxEncodingPredictor",
}
_YXHW_TO_XYWH = [1, 0, 3, 2]


def base_config() -> CfgNode:
    """Read the config of the paper's detector, ``configs/nasnet_frcnn.yaml``, without pretrained weights."""
    return read_config("nasnet_frcnn", ["MODEL.NASNET.PRETRAINED", ""])


def read_detector(checkpoint: str | Path, cfg: CfgNode) -> dict[str, Tensor]:
    """Read the state dict of the detector in a checkpoint; ``cfg`` is changed to describe it.

    Args:
        checkpoint: its prefix or one of its files, a folder or an archive with it. A ``pipeline.config`` (or
            ``pipeline.pbtxt``) beside it is followed.
        cfg: a config of the paper's detector, not frozen.

    Raises:
        WeightsError: for a checkpoint that holds no such detector.
        PipelineConfigError: for a pipeline that is not supported.
    """
    arrays = read_variables(checkpoint, cfg)
    with naming(checkpoint):
        return state_dict(arrays, cfg)


def read_variables(checkpoint: str | Path, cfg: CfgNode) -> Arrays:
    """Read a checkpoint's variables by TF's names, moving averages where there are any; ``cfg`` is changed to describe
    the detector. See :func:`read_detector`."""
    with located(checkpoint) as prefix:
        arrays = {name.removesuffix(AVERAGE): value for name, value in read_arrays(prefix).items()}
        pipeline = next(
            (p for p in (prefix.with_name(f"pipeline.{end}") for end in ("config", "pbtxt")) if p.is_file()), None
        )
        if pipeline is not None:
            _follow(pipeline, cfg)
    missing = [f"{name}/weights" for name in _HEADS.values() if f"{name}/weights" not in arrays]
    if missing or not all(any(name.startswith(scope) for name in arrays) for scope in _SCOPES):
        what = missing[0] if missing else f"{_SCOPES[0]}... or {_SCOPES[1]}..."
        raise WeightsError(f"{checkpoint}: expected a checkpoint of faster_rcnn_nas, but it lacks {what}")
    _describe(arrays, cfg, known_classes=pipeline is not None, origin=checkpoint)
    if pipeline is None:
        logger.warning(
            f"{checkpoint}: no pipeline.config beside it: taken as trained for images of "
            f"{list(cfg.MODEL.NASNET.IMAGE_SIZE)}, {cfg.MODEL.RPN.POST_NMS_TOPK_TEST} proposals, and "
            "otherwise as the base config says"
        )
    return arrays


def state_dict(arrays: Arrays, cfg: CfgNode) -> dict[str, Tensor]:
    """Build the state dict of the detector that ``cfg`` describes from a checkpoint's variables.

    Raises:
        WeightsError: if they do not fit.
    """
    with torch.device("meta"):  # for names and shapes alone
        whole = build_network(**{**network_arguments(cfg), "pretrained": ""})
    del whole._buffers[DIGEST]
    slim = {
        name.removeprefix(scope): value for scope in _SCOPES for name, value in arrays.items() if name.startswith(scope)
    }
    network = to_state_dict(whole, slim, TF_SLIM)
    with torch.device("meta"):
        lower, upper = split_network(whole)
        heads = _heads(cfg, lower, upper)
    state: dict[str, Tensor] = {}
    for path, half in (("backbone.network", lower.network), ("roi_heads.second_stage.network", upper.network)):
        state.update({f"{path}.{name}": network[name] for name in half.state_dict()})
        state[f"{path}.{DIGEST}"] = genotype_digest(whole.genotype)
    for path, (scope, layer) in heads.items():
        kind = "linear" if isinstance(layer, nn.Linear) else "conv"
        for source, parameter, axes in (("weights", "weight", kind), ("biases", "bias", "")):
            like = layer.get_parameter(parameter)
            state[f"{path}.{parameter}"] = read_tensor(
                arrays, f"{scope}/{source}", f"{path}.{parameter}", like, axes, TF_SLIM
            )
    for parameter in ("weight", "bias"):
        for path in ("proposal_generator.head.boxes", "roi_heads.box_layer"):
            name = f"{path}.{parameter}"
            state[name] = state[name].unflatten(0, (-1, 4))[:, _YXHW_TO_XYWH].flatten(0, 1)
        name = f"roi_heads.class_layer.{parameter}"
        state[name] = state[name].roll(-1, dims=0)
    return {name: value.contiguous() for name, value in state.items()}


def convert(checkpoint: str | Path, folder: str | Path, cfg: CfgNode) -> tuple[Path, Path]:
    """Write ``model.pth`` and ``config.yaml`` for a checkpoint.

    Args:
        checkpoint: see :func:`read_detector`.
        folder: the folder to write to.
        cfg: a config of the paper's detector, for what the pipeline leaves out.

    Returns:
        the paths of both files.

    Raises:
        OverwriteError: if files of these names are there that are not of an earlier conversion.
    """
    cfg = cfg.clone()
    cfg.defrost()
    weights, config = Path(folder) / "model.pth", Path(folder) / "config.yaml"
    check_writable(config, _OWN)
    check_writable(weights, b"" if begins_with(config, _OWN) else NOTHING)
    state = read_detector(checkpoint, cfg)
    with replacing(weights) as part:
        torch.save({"model": state, "__author__": "nasnet_det"}, part)
    cfg.MODEL.WEIGHTS = str(weights)
    cfg.MODEL.NASNET.PRETRAINED = ""
    text = yaml.safe_dump(changes(cfg), sort_keys=False, default_flow_style=None, width=120)
    write_text(config, f"{_HEADER}{Path(checkpoint).name}.\n{text}")
    return weights, config


def changes(cfg: CfgNode) -> dict[str, Any]:
    """Return a config's differences from the defaults of detectron2 and this package, as nested dictionaries."""
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
    if not normal or len(normal) % 3:
        raise WeightsError(f"{origin}: holds {len(normal)} normal cells, expected as many in each of three stages")
    node.NUM_CELLS = len(normal) // 3
    node.NUM_FILTERS = _last_side(arrays, f"{scope}cell_0/1x1/weights", 4, origin)
    node.STEM_CHANNELS = _last_side(arrays, f"{scope}conv0/weights", 4, origin)
    classes = _last_side(arrays, f"{_HEADS['roi_heads.class_layer']}/biases", 1, origin) - 1
    if classes < 1:
        raise WeightsError(f"{origin}: its classifier knows no class but the background")
    if known_classes and classes != cfg.MODEL.ROI_HEADS.NUM_CLASSES:
        raise WeightsError(
            f"{origin}: holds {classes} classes, but the pipeline config beside it "
            f"says {cfg.MODEL.ROI_HEADS.NUM_CLASSES}"
        )
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = classes
    if classes != 90:
        node.LABEL_IDS = []


def _heads(cfg: CfgNode, lower: FirstStage, upper: SecondStage) -> dict[str, tuple[str, nn.Module]]:
    """Return the layers of the heads by their names in the detector, each with its scope in a checkpoint."""
    rpn: RPNHead = NASNetRPN.from_config(cfg, lower.output_shape())["head"]
    classes = cfg.MODEL.ROI_HEADS.NUM_CLASSES
    layers = {
        "conv": rpn.conv,
        "objectness": rpn.objectness,
        "boxes": rpn.boxes,
        "class_layer": nn.Linear(upper.out_channels, classes + 1),
        "box_layer": nn.Linear(upper.out_channels, 4 * classes),
    }
    return {path: (scope, layers[path.rpartition(".")[2]]) for path, scope in _HEADS.items()}


def _last_side(arrays: Arrays, name: str, rank: int, origin: str | Path) -> int:
    """Return the size of the last axis of a variable of that rank."""
    if name not in arrays:
        raise WeightsError(f"{origin}: expected a checkpoint of faster_rcnn_nas, but it lacks {name}")
    shape = np.shape(arrays[name])
    if len(shape) != rank or 0 in shape:
        raise WeightsError(f"{origin}: {name} has the shape {shape}, expected {rank} axes, none empty")
    return int(shape[-1])
