"""The config node ``MODEL.NASNET``: every key, its default and what it means."""

from __future__ import annotations

import difflib
import io
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

from detectron2.config import CfgNode, get_cfg

from nasnet_det.detection import add_nasnet_config
from nasnet_det.genotypes.genotype import Genotype
from nasnet_det.genotypes.published import PUBLISHED, names_file
from nasnet_det.safe_io.files import exists, expand_home, protect
from nasnet_det.safe_io.values import format_names, format_value, parse_yaml

#: Keys of ``MODEL.NASNET`` that older versions wrote into a run's ``config.yaml`` and that have no effect any more.
REMOVED_KEYS = ("CUDA_GRAPHS",)
#: Longest part of another library's message to repeat, which may hold a whole file.
_LONGEST = 600

_GENOTYPE = "MODEL.NASNET.GENOTYPE"


class ConfigError(ValueError):
    """A config that is broken or inconsistent; names the key, its value and what was expected."""


#: The endings of packages, checkpoints and configs, which are often left out.
_ENDINGS = (".onnx", ".pt2", ".safetensors", ".pth", ".yaml")
#: Folders of the project's configs: in an installed package and in a checkout.
_PLACES = (Path(__file__).parents[1] / "configs", Path(__file__).parents[2] / "configs")


def find_config(name: str | Path) -> Path:
    """Return the path of a config.

    Args:
        name: a file, or the name of one of the project's configs: ``nasnet_frcnn``, ``nasnet_frcnn.yaml`` or
            ``configs/nasnet_frcnn.yaml``.

    Raises:
        ConfigError: for a missing file that is not one of the project's configs, or a LazyConfig.
    """
    known = own_configs()
    path = Path(name)
    is_lazy = path.suffix == ".py"
    if path.is_file() and str(name) not in known and not is_lazy:
        return path
    if path.parent in (Path(), Path("configs")) and path.suffix in ("", ".yaml") and path.stem in known:
        return known[path.stem]
    beside = [f"{name}{ending}" for ending in _ENDINGS if exists(f"{name}{ending}")]
    reason = "a LazyConfig, which detectron2's lazyconfig_train_net.py runs" if is_lazy else "not found"
    reason += f" (is it {format_names(beside)}?)" if beside else ""
    raise ConfigError(f"config {name}: {reason}; give a YAML file or one of {', '.join(known)}")


def own_configs() -> dict[str, Path]:
    """Return the files of the project's configs by their names."""
    folder = next(place for place in _PLACES if place.is_dir())
    return {file.stem: file for file in sorted(folder.glob("*.yaml"))}


def defaults() -> CfgNode:
    """Return the defaults of detectron2 and of this package."""
    cfg = get_cfg()
    add_nasnet_config(cfg)
    return cfg


def read_config(path: str | Path, opts: Sequence[Any] = ()) -> CfgNode:
    """Read a config file over the defaults of detectron2 and this package, not frozen. Nothing in it is executed.

    Args:
        path: a YAML file, or the name of one of the project's configs.
        opts: overrides, keys and values alternating.

    Raises:
        ConfigError: for a file that is missing or broken, a key that does not exist, or a value that does not fit.
    """
    default, file = defaults(), find_config(path)
    cfg = default.clone()
    try:
        loaded = _Checked.load_yaml_with_base(str(file))
        if not isinstance(loaded, dict):
            raise ValueError(f"expected keys and values, as {_GENOTYPE}, not {format_value(loaded)}: is it a config?")
        _merge(cfg, file, loaded)
        cfg.merge_from_list(_without_genotype(cfg, opts))
        _check_values(cfg, default)
    except FileNotFoundError as error:
        raise ConfigError(f"config {path}: {error.filename} not found") from None
    except (RecursionError, MemoryError, SyntaxError):  # as Python's own parser says of a value
        raise ConfigError(f"config {path}: it, or an option, is nested too deeply, or is its own _BASE_") from None
    except (AssertionError, LookupError, ArithmeticError, AttributeError, TypeError, ValueError, OSError) as error:
        raise _refused(cfg, path, error) from None
    _read_genotype(cfg, file.parent)
    return cfg


def _check_values(cfg: CfgNode, default: CfgNode, above: str = "") -> None:
    """Refuse keys without a value, which yacs takes for a value of any type; put the home folder for ``~`` in paths."""
    for key, value in default.items():
        if isinstance(value, CfgNode):
            _check_values(cfg[key], value, f"{above}{key}.")
        elif cfg[key] is None and value is not None:
            raise ValueError(f"{above}{key} has no value: expected one such as {format_value(value)}")
        elif isinstance(cfg[key], str):
            cfg[key] = expand_home(cfg[key])


class _Checked(CfgNode):
    """detectron2's config, whose files, those of ``_BASE_`` too, are read as data before they are used."""

    @classmethod
    def _open_cfg(cls, filename: str) -> IO[str]:
        protect([filename])
        try:
            with super()._open_cfg(filename) as file:
                text: str = file.read()
            parse_yaml(text)
        except UnicodeDecodeError:
            raise ValueError(f"{filename} is not a text: is it a config?") from None
        except ValueError as error:
            raise ValueError(f"{filename}: {error}") from None
        return io.StringIO(text)


def _merge(cfg: CfgNode, file: Path, loaded: Any) -> None:
    """Merge a file into a config; its genotype, if it is given by value, as text: yacs would take it for a node."""
    node: Any = loaded
    for key in _GENOTYPE.split(".")[:-1]:
        node = node.get(key) if isinstance(node, dict) else None
    genotype = node.get("GENOTYPE", "") if isinstance(node, dict) else ""
    if not isinstance(genotype, dict) and "{" not in str(genotype):
        cfg.merge_from_file(str(file), allow_unsafe=False)
        return
    cfg.MODEL.NASNET.GENOTYPE = json.dumps(node.pop("GENOTYPE")) if isinstance(genotype, dict) else node.pop("GENOTYPE")
    cfg.merge_from_other_cfg(CfgNode(loaded))


def _without_genotype(cfg: CfgNode, opts: Sequence[Any]) -> list[Any]:
    """Set a genotype among overrides and return the others: yacs would evaluate its text as a dictionary."""
    opts = list(opts)
    while _GENOTYPE in opts[:-1:2]:
        at = 2 * opts[::2].index(_GENOTYPE)
        _, value = opts[at : at + 2]
        cfg.MODEL.NASNET.GENOTYPE = json.dumps(value) if isinstance(value, dict) else str(value)
        del opts[at : at + 2]
    return opts


def _read_genotype(cfg: CfgNode, folder: Path) -> None:
    """Replace the path of a genotype's file by the genotype, so that the config can be moved without that file."""
    value = cfg.MODEL.NASNET.GENOTYPE
    if value in PUBLISHED or not value:
        return
    for path in (value, str(folder / value)) if names_file(value) else ():
        if Path(path).is_file():
            cfg.MODEL.NASNET.GENOTYPE = json.dumps(Genotype.load(path).to_dict())
            return


def _refused(cfg: CfgNode, path: str | Path, error: Exception) -> ConfigError:
    whole = isinstance(error, OSError) or not error.args
    reason = " ".join(str(error if whole else error.args[0]).split()).removeprefix(str(path)).lstrip(": ")
    return ConfigError(f"config {path}: {reason[:_LONGEST]}{_suggestion(cfg, reason)}")


def _suggestion(cfg: CfgNode, reason: str) -> str:
    """Return a remark on which existing key may have been meant."""
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
        cfg.INPUT.SCALE_JITTER, cfg.INPUT.COLOR = input_nodes()
        for key in (f"MODEL.NASNET.{name}" for name in REMOVED_KEYS):
            if not cfg.key_is_deprecated(key):  # as in a copy that shares them
                cfg.register_deprecated_key(key)


def input_nodes() -> tuple[CfgNode, CfgNode]:
    """Return the nodes ``INPUT.SCALE_JITTER`` and ``INPUT.COLOR`` with their defaults: training augmentation."""
    jitter, color = CfgNode(), CfgNode()
    # Large-scale jitter instead of MIN_SIZE_TRAIN: a picture scaled by a random number of RANGE from what fits SIZE
    # (height, width), then cropped or padded to SIZE.
    jitter.ENABLED = False
    jitter.SIZE = [1024, 1024]
    jitter.RANGE = [0.1, 2.0]
    # Random factors of brightness, contrast and saturation, from 1 - value to 1 + value; 0 for none.
    color.BRIGHTNESS = color.CONTRAST = color.SATURATION = 0.0
    return jitter, color


def default_node() -> CfgNode:
    """Return the node with its defaults."""
    node = CfgNode()
    # The network: a member of nasnet_det.models.family.FAMILY; the next keys override its numbers.
    node.NETWORK = "nasnet_a_mobile"
    # The cells: a published name, a genotype's JSON file (relative to the config or to the working directory;
    # read_config replaces it by its text), the genotype itself as a mapping or as JSON or YAML text, or a printed DARTS
    # genotype, "Genotype(normal=[...], ...)". "" for the network's own.
    node.GENOTYPE = ""
    # Normal cells of each stage, F of the first stage, channels of the first convolution; 0 for the network's own.
    node.NUM_CELLS = 0
    node.NUM_FILTERS = 0
    node.STEM_CHANNELS = 0

    # Weights of the classification network to start from: "published" (downloaded once), a local file, or "" for none.
    # Not read where MODEL.WEIGHTS names a checkpoint of the whole detector.
    node.PRETRAINED = ""
    # Normalization layers. FrozenBN: statistics, scales and shifts fixed, as detectron2's users know it. TFOD: what the
    # TF Object Detection API does for faster_rcnn_nas: scales and shifts trained, batch statistics below the split
    # detector's cut, fixed ones above. FixedStatsBN: fixed statistics everywhere, scales and shifts trained. BN, SyncBN
    # (over all GPUs), or another name that detectron2's get_norm knows. Random weights need BN, SyncBN, GN or LN.
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

    # Whether SOLVER.WEIGHT_DECAY applies to layers outside the network too; in the TF Object Detection API's config it
    # does not. Read by nasnet_det's trainer; detectron2's own train_net.py decays them all.
    node.DECAY_HEADS = True

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
    # Evaluate and predict with the networks in fused form: the same function up to rounding, faster (see
    # nasnet_det.optimize_for_inference). Training is not affected.
    node.FUSED = False
    # For each class of the data set the label that the network gives it, counted from 1: the published detectors have
    # COCO's 90 category ids, of which 80 exist. Empty where they are the same.
    node.LABEL_IDS = []
    return node


def with_weights(cfg: CfgNode, weights: str) -> CfgNode:
    """Return a config whose detector is to have the weights of a checkpoint: ``PRETRAINED`` is not read for it."""
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.WEIGHTS = weights
    return cfg


def network_arguments(cfg: CfgNode) -> dict[str, Any]:
    """Return the arguments of :func:`nasnet_det.detection.modeling.backbone.build_network` from a config."""
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
