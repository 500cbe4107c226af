"""LazyConfig whose values have types: an override is read as the type of what it replaces, or refused.

detectron2's own takes anything: a word for a number fails late, and ``no`` for a switch counts as true. What types do
not tell is checked when the training data are looked at, before training.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from functools import partial
from typing import Any

from detectron2.config import LazyCall as UntypedCall
from detectron2.config import instantiate
from omegaconf import (
    BooleanNode,
    DictConfig,
    FloatNode,
    IntegerNode,
    ListConfig,
    OmegaConf,
    StringNode,
    ValidationError,
)

from nasnet_det.detection.config import ConfigError
from nasnet_det.detection.supported import check_numbers, check_processes, tried_schedule
from nasnet_det.safe_io.values import format_names


class _FiniteNode(FloatNode):
    def _validate_and_convert_impl(self, value: Any) -> float:
        number = super()._validate_and_convert_impl(value)
        if not math.isfinite(number):
            raise ValidationError("Value '$VALUE' is not a finite number")
        return number

    def __deepcopy__(self, memo: dict[int, Any]) -> _FiniteNode:
        copied = _FiniteNode(0.0)
        self._deepcopy_impl(copied, memo)
        return copied


_NODES: dict[str, Any] = {"bool": BooleanNode, "int": IntegerNode, "float": _FiniteNode, "str": StringNode}


class LazyCall(UntypedCall):
    """detectron2's ``LazyCall`` with types, and with the target's plain defaults, so that these have types, too."""

    def __call__(self, **kwargs: Any) -> DictConfig:
        """Return the call as a config."""
        known = inspect.signature(self._target).parameters.values()
        defaults = {one.name: one.default for one in known if type(one.default).__name__ in _NODES}
        hints = {one.name: getattr(one.annotation, "__name__", str(one.annotation)) for one in known}
        call = {name: _node(value, hints.get(name, "_empty")) for name, value in {**defaults, **kwargs}.items()}
        made: DictConfig = super().__call__(**call)
        return made


def typed(**values: Any) -> DictConfig:
    """Return a section of a LazyConfig whose values have types, and so those of sections within it that are not calls.

    It raises omegaconf's errors for values of another type, numbers that are not finite, and unknown names.
    """
    nodes = {name: typed(**value) if _is_section(value) else _node(value) for name, value in values.items()}
    return DictConfig(nodes, flags={"allow_objects": True, "struct": True})


def _is_section(value: Any) -> bool:
    return isinstance(value, Mapping) and "_target_" not in value


def _node(value: Any, hint: str = "_empty") -> Any:
    """Return a plain value or a list as a node that keeps its type; others, and those of several types, as they are."""
    if "|" in hint or (isinstance(value, str) and "${" in value) or value == math.inf:
        return value
    if isinstance(value, (list, tuple)):
        return ListConfig(list(value), ref_type=list[Any], is_optional=False, flags={"allow_objects": True})
    kind = type(value).__name__ if hint == "_empty" else hint
    return _NODES[kind](value, is_optional=False) if kind in _NODES else value


def check_training(train: DictConfig) -> None:
    """Check what detectron2's script reads late, or not at all, of the config that holds the section ``train``.

    Raises:
        ConfigError: for sections that an override has added, periods, a schedule without a rate, and one of several
            processes that have not joined: the script does not join torchrun's.
        Exception: what the loader and the evaluator of the test set raise, which are built.
    """
    check_processes()
    root: Any = train._get_root()
    # A section of a file has flags of its own; of a config that was saved as YAML none has.
    known = [name for name in root if getattr(root._get_node(name)._metadata, "flags", None)]
    if known and (added := [name for name in root if name not in known]):
        raise ConfigError(f"the config has no {format_names(added)}: it has {format_names(known)}")
    for name in ("max_iter", "log_period", "checkpointer.period"):
        check_numbers(f"train.{name}", OmegaConf.select(train, name))
    tried_schedule(partial(instantiate, root.lr_multiplier), train.max_iter, "lr_multiplier", "it, or train.max_iter")
    for name in ("test", "evaluator"):
        instantiate(root.dataloader.get(name))
