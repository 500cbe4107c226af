"""The config node ``MODEL.NASNET``: every key, its default and what it means."""

from __future__ import annotations

from typing import Any

from detectron2.config import CfgNode


def add_node(cfg: CfgNode) -> None:
    """Give ``cfg`` the node ``MODEL.NASNET`` if it has none."""
    if "NASNET" not in cfg.MODEL:
        cfg.MODEL.NASNET = default_node()


def default_node() -> CfgNode:
    """The node with its defaults."""
    node = CfgNode()
    # The network: a member of nasnet_det.timm_models.FAMILY, whose numbers hold where the next keys do not say another.
    node.NETWORK = "nasnet_a_mobile"
    # A genotype's JSON file or a published name; "" for the network's own.
    node.GENOTYPE = ""
    # Normal cells of each stage, F of the first stage, channels of the first convolution; 0 for the network's own.
    node.NUM_CELLS = 0
    node.NUM_FILTERS = 0
    node.STEM_CHANNELS = 0

    # Weights of the classification network to start from: "published" (downloaded once), a local file, or "" for none.
    # Not read where MODEL.WEIGHTS names a checkpoint of the whole detector.
    node.PRETRAINED = ""
    # FrozenBN, BN, SyncBN (over all GPUs), or another name that detectron2's get_norm knows. A network that starts from
    # random weights learns nothing through frozen norms.
    node.NORM = "FrozenBN"
    # The maps that a plain or FPN backbone gives, by the power of two of their stride.
    node.OUT_FEATURES = ["c2", "c3", "c4", "c5"]
    # 1 - ScheduledDropPath's final keep probability, and the training steps until it is reached.
    node.DROP_PATH_RATE = 0.0
    node.DROP_PATH_STEPS = 250000
    # Keep only the cells' outputs in training and compute the rest again in the backward pass.
    node.GRAD_CHECKPOINT = False
    return node


def network_arguments(cfg: CfgNode) -> dict[str, Any]:
    """What ``cfg`` says to :func:`nasnet_det.detection.backbone.build_network`."""
    node = cfg.MODEL.NASNET
    return {
        "network": node.NETWORK,
        "genotype": node.GENOTYPE,
        "num_cells": node.NUM_CELLS,
        "num_filters": node.NUM_FILTERS,
        "stem_channels": node.STEM_CHANNELS,
        "norm": node.NORM,
        "pretrained": "" if cfg.MODEL.WEIGHTS else node.PRETRAINED,
        "drop_path_rate": node.DROP_PATH_RATE,
        "grad_checkpoint": node.GRAD_CHECKPOINT,
    }
