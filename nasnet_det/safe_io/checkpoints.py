"""PyTorch checkpoints written by other tools, read as data.

timm's training script, Lightning, DataParallel and ``torch.compile`` each wrap a state dict in their own way. Here the
wrapping is undone with the semantics of ``timm.models.load_state_dict``: a moving average is preferred to the weights
that it averages, and the prefixes that wrappers add to parameter names are removed.
"""

from __future__ import annotations

import logging
import pickle
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch

from nasnet_det.safe_io.file_kinds import KERAS_3, other_content
from nasnet_det.safe_io.pickles import MADE
from nasnet_det.safe_io.values import format_names

logger = logging.getLogger(__name__)

Value = TypeVar("Value")

_NOUN = "(state_dict|model|weights|params|net|network|module)"
#: Keys and module names under which tools keep a moving average of the weights, then the weights themselves.
_AVERAGE = re.compile(f"({_NOUN}_)?(ema|swa|averaged?|avg|shadow)(_{_NOUN})?")
#: A word for one in any other key, whose parameters must then be the weights'.
_WORD = re.compile(r"(?i)(?<![a-z])(ema|swa|avg|averaging|average[ds]?|polyak|shadow)(?![a-z])")
_WEIGHTS = ("state_dict", "model", "model_state_dict", "module", "net", "network")
#: What DistributedDataParallel and Lightning modules put before parameter names.
_PREFIXES = ("module.", "model.", "net.", "network.")
#: The names of the network in a Lightning module that has other weights, too.
_NETWORKS = ("model", "net")
#: What torch.compile, FSDP, activation checkpointing and Fabric put into parameter names, wherever a module is wrapped.
_WRAPPERS = re.compile(r"\b(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module|_forward_module)\.")
#: Counters that PyTorch's AveragedModel, timm, MMEngine and ema-pytorch keep beside averaged weights.
_COUNTERS = ("n_averaged", "updates", "steps", "step", "initted")


class SeveralNetworksError(ValueError):
    """A checkpoint of several networks, none of which is the average of another; names them."""

    @classmethod
    def of(cls, names: Iterable[Any]) -> SeveralNetworksError:
        """Return the error that names them."""
        return cls(f"it holds several networks, {format_names(map(repr, names))}: save one in a file of its own")


class StateDict(NamedTuple):
    """A state dict found in a checkpoint.

    Args:
        tensors: values by parameter name, without the prefixes of wrappers.
        name: the key that held it, dotted where it was nested; empty if the file is the state dict itself.
    """

    tensors: dict[str, Any]
    name: str


class _Placeholder(dict):
    """Stands for an object of a class that PyTorch does not know; holds nothing and calls nothing."""

    def __new__(cls, *args: Any, **kwargs: Any) -> _Placeholder:
        return super().__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__()

    def __setstate__(self, state: Any) -> None:
        del state


def load_torch(path: str | Path) -> Any:
    """Load a file of ``torch.save`` on the CPU with ``weights_only=True``; nothing in it is executed.

    Objects that training scripts keep beside the weights (``argparse.Namespace``, paths, config classes) become empty
    placeholders, as their classes are neither imported nor called.

    Raises:
        ValueError: for a file of Keras 3.
        pickle.UnpicklingError: if the file is incomplete, or needs a function or a module that PyTorch blocks.
        Exception: almost any other, if the file is damaged.
    """
    if other_content(path) == KERAS_3:
        raise ValueError(KERAS_3)
    unknown: list[str] = ["argparse.Namespace"]
    with suppress(Exception):  # a file of the format before PyTorch 1.6, or one that torch.load will refuse
        unknown += torch.serialization.get_unsafe_globals_in_checkpoint(str(path))
    data = {".".join(name): made for name, made in MADE.items()}
    allowed: list[Any] = [
        (data.get(name) or type(name.rpartition(".")[2], (_Placeholder,), {}), name) for name in dict.fromkeys(unknown)
    ]
    allowed += {type(np.dtype(kind)) for kind in np.typecodes["AllInteger"] + np.typecodes["Float"] + "?"}
    try:
        with Path(path).open("rb") as file, torch.serialization.safe_globals(allowed):
            return torch.load(file, map_location="cpu", weights_only=True)  # by a path it would go by the ending
    except (pickle.UnpicklingError, LookupError, EOFError):  # PyTorch advises weights_only=False
        raise pickle.UnpicklingError(
            "it is incomplete, or requires code to be loaded; nothing in it was executed: save model.state_dict()"
        ) from None


def find_state_dict(data: Any, averaged: bool = True) -> StateDict:
    """Find the state dict in the content of a checkpoint.

    Args:
        data: what :func:`load_torch` returned.
        averaged: prefer a moving average of the weights to the weights themselves, where both are there.

    Raises:
        SeveralNetworksError: if it holds several, none of which is known as the weights or as their average.
        ValueError: if the content is something else; names its kind.
    """
    names: list[str] = []
    others = [key for key in _held_deeper(data) if averaged]
    while isinstance(data, Mapping):
        averaged = averaged and "message_hub" not in data  # MMEngine exchanges the two when it saves them
        weights: Any = next((data[key] for key in _WEIGHTS if _holds_tensors(data.get(key))), {})
        averages = [key for key in data if isinstance(key, str) and _is_average(key, data[key], weights)]
        keys = [*averages, *_WEIGHTS] if averaged else [*_WEIGHTS, *averages]
        inner = [key for key in keys if isinstance(data.get(key), _Placeholder) or _is_filled(data.get(key))]
        if not inner and not _holds_tensors(data):
            inner = _under_other_keys(data, averaged)
        if not inner:
            break
        names.append(inner[0])
        taken = _parameters(data[inner[0]])
        others += [
            key
            for key, value in data.items()
            if key != inner[0]
            and isinstance(value, Mapping)
            and value
            and (key in keys or _parameters({key: value}) & taken)
        ]
        data = data[inner[0]]
    if not isinstance(data, Mapping) or (isinstance(data, _Placeholder) and not data):
        raise ValueError(f"it holds {_describe(data)}, not a state dict: save model.state_dict()")
    if not all(isinstance(name, str) for name in data):
        raise ValueError("its state dict has keys that are not parameter names")
    tensors, member = _unwrap(data)
    name = ".".join([*names, *([member] if member else [])])
    skipped = [f"{other!r}" for other in dict.fromkeys(others) if averaged or other in _WEIGHTS]
    if skipped or _AVERAGE.fullmatch(member):
        logger.warning(f"took the weights in {name!r}" + (f", not those in {', '.join(skipped)}" if skipped else ""))
    elif name not in ("", "model"):
        logger.info(f"took the weights in {name!r}")
    return StateDict(tensors, name)


def _under_other_keys(data: Mapping[Any, Any], averaged: bool) -> list[Any]:
    """Return the keys of the only weights, and of averages of them, where none of the usual keys is there."""
    found = [key for key, value in data.items() if _holds_tensors(value)]
    found = found or [key for key in data if _parameters({key: data[key]})]
    averages = [key for key in found if _is_average(str(key), data[key], {k: data[k] for k in found if k != key})]
    weights = [key for key in found if key not in averages]
    if len(weights) > 1:
        raise SeveralNetworksError.of(weights)
    return [*averages, *weights] if averaged else [*weights, *averages]


def _is_average(key: str, value: Any, weights: Any) -> bool:
    """Return True for the key of a moving average: a usual name, or a word for it and the parameters of the weights."""
    words = re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", key)
    return bool(_AVERAGE.fullmatch(key) or (_WORD.search(words) and _parameters(value) & _parameters(weights)))


def _parameters(value: Any) -> set[str]:
    """Return the last two parts of the names of all tensors in nested mappings, those of optimizers left out."""
    if not isinstance(value, Mapping):
        return set()
    own = {".".join(str(name).split(".")[-2:]) for name, item in value.items() if isinstance(item, torch.Tensor)}
    inner = [item for name, item in value.items() if name != "callbacks" and "optim" not in str(name).lower()]
    return own.union(*map(_parameters, inner))


def _held_deeper(data: Any) -> Iterator[str]:
    """Yield the dotted keys of averages that callbacks hold, as Lightning's do."""
    callbacks = data.get("callbacks") if isinstance(data, Mapping) else None
    for callback, state in callbacks.items() if isinstance(callbacks, Mapping) else ():
        for key, value in state.items() if isinstance(state, Mapping) else ():
            tensors = list(value.values()) if isinstance(value, Mapping) else value
            if _WORD.search(str(key)) and isinstance(tensors, list) and any(map(torch.is_tensor, tensors)):
                yield f"callbacks.{callback}.{key}"


def _is_filled(value: Any) -> bool:
    """Return True for a mapping that holds values by name; torch_ema's averages, for one, are a list."""
    return _holds_tensors(value) or (
        isinstance(value, Mapping) and any(isinstance(item, Mapping) for item in value.values())
    )


def _holds_tensors(value: Any) -> bool:
    return isinstance(value, Mapping) and any(isinstance(item, (torch.Tensor, np.ndarray)) for item in value.values())


def _unwrap(state: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    """Remove wrappers' prefixes; of a Lightning module take its average, or else its network, and leave out the rest.

    Returns:
        the tensors, and the name of the network that was chosen among several.
    """
    tensors = {_WRAPPERS.sub("", name): value for name, value in state.items() if name not in _COUNTERS}
    members = dict.fromkeys(name.partition(".")[0] for name in tensors)
    for member in (*filter(_AVERAGE.fullmatch, members), *_NETWORKS):
        chosen = {name: value for name, value in tensors.items() if name.startswith(f"{member}.")}
        if chosen:
            inner, within = _unwrap({name.removeprefix(f"{member}."): value for name, value in chosen.items()})
            return inner, member if len(chosen) < len(tensors) else within
    for prefix in _PREFIXES:
        if tensors and all(name.startswith(prefix) for name in tensors):
            return _unwrap({name.removeprefix(prefix): value for name, value in tensors.items()})
    return tensors, ""


def without_prefix(tensors: Mapping[str, Value], fits: Callable[[Mapping[str, Value]], bool]) -> Mapping[str, Value]:
    """Remove a prefix, such as the attribute of a Lightning module that held the network; leave out what lacks it.

    Args:
        tensors: values by parameter name.
        fits: tells whether such values are the network's; if no prefix makes them so, all stay.

    Raises:
        SeveralNetworksError: if more than one prefix makes them so.
    """
    inner, prefix = tensors, ""
    while inner and not fits(inner):
        members: dict[str, dict[str, Value]] = {}
        for name, value in inner.items():
            first, dot, rest = name.partition(".")
            members.setdefault(first + dot, {})[rest] = value
        fitting = [first[:-1] for first, member in members.items() if fits(member)]
        if len(fitting) > 1:
            raise SeveralNetworksError.of(fitting)
        chosen = [f"{first}." for first in fitting] or [*members]
        if len(chosen) != 1 or "" in members[chosen[0]]:
            return tensors
        inner, prefix = members[chosen[0]], prefix + chosen[0]
        if others := members.keys() - {*chosen}:
            logger.warning(f"took the weights in {prefix[:-1]!r}, not those in {', '.join(map(repr, sorted(others)))}")
    if prefix:
        logger.info(f"took the weights in {prefix[:-1]!r}")
    return inner or tensors


def _describe(value: Any) -> str:
    kind = type(value).__name__
    return f"a whole pickled {kind}" if isinstance(value, _Placeholder) else f"a {kind}"
