"""Hooks for timm's ``pretrained=True``: an overlay of its configuration, and a checkpoint filter."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import is_dataclass
from typing import Any

from timm.models import resolve_pretrained_cfg
from torch import Tensor

from nasnet_det.models.network import NASNet
from nasnet_det.weights.arrays import read_arrays
from nasnet_det.weights.download import HUB
from nasnet_det.weights.formats import detect
from nasnet_det.weights.layout import AUXILIARY, WeightsError, naming, to_state_dict, wrong_classes
from nasnet_det.weights.published import PRETRAINED, resolve
from nasnet_det.weights.trained import packaged_weights

#: The arguments of :class:`NASNet` that must agree with the file.
_WIRING = ("genotype", "num_cells", "num_filters", "stem", "stem_channels", "skip_reduction_layer_input")


def timm_overlay(name: str, kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the overlay of timm's configuration with which ``pretrained=True`` finds the weights.

    A file, hub repository or URL named in ``pretrained_cfg_overlay`` (or in a whole ``pretrained_cfg``) takes
    precedence, in any readable format, over the weights in the package and the published ones. Models that timm itself
    found in a hub repository or a local folder (``hf-hub:``, ``local-dir:``) are left to timm.

    Args:
        name: the model's registered name.
        kwargs: the entry point's keyword arguments, which include those of :class:`NASNet`.

    Raises:
        WeightsError: if the weights cannot be read, belong to another network, or have other classes than the model;
            with an explicit ``num_classes``, timm builds a new classifier instead.
    """
    overlay = dict(kwargs.get("pretrained_cfg_overlay") or {})
    given = kwargs.get("pretrained_cfg")
    whole = dict(vars(given)) if is_dataclass(given) else dict(given) if isinstance(given, Mapping) else {}
    if whole.get("source") in ("hf-hub", "local-dir") or overlay.get("state_dict") or whole.get("state_dict"):
        return overlay
    source = _named(overlay) or _named(whole) or packaged_weights(name)
    if source is not None:
        return {**overlay, **_from_source(str(source), name, kwargs)}
    if name in PRETRAINED:
        return {**overlay, "file": str(resolve(name, kwargs.get("cache_dir")))}
    return overlay


def checkpoint_filter(state_dict: Mapping[str, Tensor], model: NASNet) -> dict[str, Tensor]:
    """Return a checkpoint of any readable format with this network's names, as timm's ``pretrained_filter_fn``.

    The classifier and the first convolution keep their stored shapes for timm to adapt. An auxiliary head that the
    checkpoint lacks, or that has other classes, keeps the model's values. Weights that :func:`timm_overlay` put into
    the model's configuration are removed from it, so that it stays small and can be saved.

    Raises:
        WeightsError: if the checkpoint belongs to another network.
    """
    state = to_state_dict(model, state_dict, detect(state_dict), as_stored=True)
    if isinstance(cfg := getattr(model, "pretrained_cfg", None), dict):
        cfg.pop("state_dict", None)
    own_head = {name: value for name, value in model.state_dict().items() if name.startswith(AUXILIARY)}
    kept = {name: v for name, v in own_head.items() if name not in state or state[name].shape != v.shape}
    return {**state, **kept}


def _named(cfg: Mapping[str, Any]) -> str | None:
    """Return the location that a configuration names, in timm's order of precedence."""
    if cfg.get("file"):
        return str(cfg["file"])
    if cfg.get("hf_hub_id"):
        return HUB + "/".join(part for part in (cfg["hf_hub_id"], cfg.get("hf_hub_filename")) if part)
    return cfg.get("url") or None


def _from_source(source: str, name: str, kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the overlay for a location that the user names: the weights themselves, converted."""
    arrays = read_arrays(resolve(source, kwargs.get("cache_dir")))
    fmt = detect(arrays)
    cfg = resolve_pretrained_cfg(name, kwargs.get("pretrained_cfg"), kwargs.get("pretrained_cfg_overlay"))
    stored, asked = fmt.num_classes(arrays), kwargs.get("num_classes")
    classes = next((n for n in (asked, cfg.num_classes) if n and fmt.accepts_classes(stored, n)), stored)
    if asked is None and classes != cfg.num_classes:
        what = wrong_classes(classes, cfg.num_classes)
        raise WeightsError(f"{source}: it {what} (num_classes=N makes a new one of N classes)")
    wiring = {key: kwargs[key] for key in _WIRING if key in kwargs}
    network = NASNet(**wiring, num_classes=classes, device="meta")
    with naming(source):
        state = to_state_dict(network, arrays, fmt, as_stored=True)
    return {"file": source, "state_dict": state, "num_classes": classes}
