"""The config node ``MODEL.NASNET``: every key, its default and what it means."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from detectron2.config import CfgNode, get_cfg

from nasnet_det.detection import add_nasnet_config
from nasnet_det.safe_io.files import protect
from nasnet_det.safe_io.values import check_extent

#: Keys of ``MODEL.NASNET`` that older versions wrote into a run's ``config.yaml`` and that have no effect any more.
REMOVED_KEYS = ("CUDA_GRAPHS",)
#: Of another library's message, which may repeat a whole file.
_LONGEST = 600


class ConfigError(ValueError):
    """A config that cannot be read or followed: names the key, what it says and what would be right."""


#: Where the configs lie that come with the package, and where in a checkout.
_PLACES = (Path(__file__).parents[1] / "configs", Path(__file__).parents[2] / "configs")


def find_config(name: str | Path) -> Path:
    """The file of a config.

    Args:
        name: a file, or what one that comes with the package is called: ``nasnet_frcnn``, ``nasnet_frcnn.yaml`` or
            ``configs/nasnet_frcnn.yaml``.

    Raises:
        ConfigError: if there is no such file, and none of that name comes with the package.
    """
    folder = next(place for place in _PLACES if place.is_dir())
    known = {file.stem: file for file in sorted(folder.glob("*.yaml"))}
    path = Path(name)
    if path.is_file() and str(name) not in known:
        return path
    if path.parent in (Path(), Path("configs")) and path.suffix in ("", ".yaml") and path.stem in known:
        return known[path.stem]
    raise ConfigError(f"config {name}: there is no such file; by name there are {', '.join(known)}")


def read_config(path: str | Path, opts: Sequence[Any] = ()) -> CfgNode:
    """A config file over detectron2's defaults and this package's, not frozen. Nothing in the file is executed.

    Args:
        path: a YAML file, or the name of one that comes with the package.
        opts: changes, ``KEY VALUE`` in turn.

    Raises:
        ConfigError: for a file that is missing or broken, a key that does not exist, or a value that does not fit.
    """
    cfg = get_cfg()
    add_nasnet_config(cfg)
    file = find_config(path)
    protect([file])
    try:
        check_extent(cfg.load_yaml_with_base(str(file)))  # before anything copies what aliases stand for
        cfg.merge_from_file(str(file), allow_unsafe=False)
        cfg.merge_from_list(list(opts))
    except FileNotFoundError as error:
        raise ConfigError(f"config {path}: there is no file {error.filename}") from None
    except (RecursionError, MemoryError, SyntaxError):  # as Python's own parser says of a value
        raise ConfigError(f"config {path}: it, or an option, is nested too deeply, or is its own _BASE_") from None
    except (AssertionError, LookupError, ArithmeticError, AttributeError, TypeError, ValueError, OSError) as error:
        raise _refused(cfg, path, error) from None
    except yaml.YAMLError as error:
        raise _refused(cfg, path, error) from None
    return cfg


def _refused(cfg: CfgNode, path: str | Path, error: Exception) -> ConfigError:
    whole = isinstance(error, (OSError, yaml.YAMLError)) or not error.args
    reason = " ".join(str(error if whole else error.args[0]).split())
    return ConfigError(f"config {path}: {reason[:_LONGEST]}{_suggestion(cfg, reason)}")


def _suggestion(cfg: CfgNode, reason: str) -> str:
    """What a key that does not exist may have meant."""
    found = re.match(r"Non-existent (?:config )?key: ([\w.]+)", reason)
    if not found:
        return ""
    *parents, name = found[1].split(".")
    node = cfg
    for parent in parents:
        node = node.get(parent, {})
    near = difflib.get_close_matches(name, node, n=1)
    if near:
        return f"; is {'.'.join([*parents, near[0]])} meant?"
    return f"; {'.'.join(parents)} has {', '.join(node)}" if "NASNET" in parents else ""


def add_node(cfg: CfgNode) -> None:
    """Give ``cfg`` the node ``MODEL.NASNET`` if it has none; keys of older versions are ignored with a warning."""
    if "NASNET" not in cfg.MODEL:
        cfg.MODEL.NASNET = default_node()
        for key in (f"MODEL.NASNET.{name}" for name in REMOVED_KEYS):
            if not cfg.key_is_deprecated(key):  # as in a copy that shares them
                cfg.register_deprecated_key(key)


def default_node() -> CfgNode:
    """The node with its defaults."""
    node = CfgNode()
    # The network: a member of nasnet_det.models.family.FAMILY; the next keys override its numbers.
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
    # Momentum of trainable batch norms' statistics; 0 for the network's own, which suits long runs only (0.0003 goes
    # a tenth of the way in 350 steps).
    node.BN_MOMENTUM = 0.0
    # The maps that a plain or FPN backbone gives, by the power of two of their stride.
    node.OUT_FEATURES = ["c2", "c3", "c4", "c5"]
    # 1 - ScheduledDropPath's final keep probability, and the training steps until it is reached.
    node.DROP_PATH_RATE = 0.0
    node.DROP_PATH_STEPS = 250000
    # Keep only the cells' outputs in training and compute the rest again in the backward pass.
    node.GRAD_CHECKPOINT = False

    # The paper's detector (NASNetRCNN). Height and width that every image is resized to, aspect not kept; 0 to leave
    # images as the data loader gives them.
    node.IMAGE_SIZE = [0, 0]
    # Scores that a proposal must exceed.
    node.RPN_SCORE_THRESH = 0.0
    # Side of a proposal's crop, then kernel and stride of the max pooling that follows it.
    node.CROP_SIZE = 17
    node.CROP_POOL_KERNEL = 1
    node.CROP_POOL_STRIDE = 1
    # The most proposals that go through the second stage at once, in training with frozen norms as well; 0 for as many
    # as fit in a share of the device's memory.
    node.CHUNK_SIZE = 0
    # Detections kept of each class; TEST.DETECTIONS_PER_IMAGE bounds their sum.
    node.DETECTIONS_PER_CLASS = 100
    # Evaluate and predict with the networks in fused form: the same function but for rounding, faster (see
    # nasnet_det.optimize_for_inference). Training is not affected.
    node.FUSED = False
    # For each class of the data set the label that the network gives it, counted from 1: the published detectors have
    # COCO's 90 category ids, of which 80 exist. Empty where they are the same.
    node.LABEL_IDS = []
    return node


def network_arguments(cfg: CfgNode) -> dict[str, Any]:
    """What ``cfg`` says to :func:`nasnet_det.detection.modeling.backbone.build_network`."""
    node = cfg.MODEL.NASNET
    return {
        "network": node.NETWORK,
        "genotype": node.GENOTYPE,
        "num_cells": node.NUM_CELLS,
        "num_filters": node.NUM_FILTERS,
        "stem_channels": node.STEM_CHANNELS,
        "norm": node.NORM,
        "bn_momentum": node.BN_MOMENTUM,
        "pretrained": "" if cfg.MODEL.WEIGHTS else node.PRETRAINED,
        "drop_path_rate": node.DROP_PATH_RATE,
        "grad_checkpoint": node.GRAD_CHECKPOINT,
        "freeze_at": cfg.MODEL.BACKBONE.FREEZE_AT,
    }
