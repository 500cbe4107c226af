"""Settings that a detector ignores: a config that notes which of its values the parts of a detector read."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator
from typing import Any

from detectron2.config import CfgNode

from nasnet_det.detection.config import defaults, own_configs, read_config

#: The sections that the parts of a training read.
_SECTIONS = ("MODEL", "SOLVER")
#: What is read elsewhere, or is set for several architectures at once.
_ELSEWHERE = (
    *("MODEL.WEIGHTS", "MODEL.DEVICE", "MODEL.MASK_ON", "MODEL.ROI_HEADS.NUM_CLASSES", "MODEL.RETINANET.NUM_CLASSES"),
    *("MODEL.NASNET.PRETRAINED", "MODEL.NASNET.FUSED", "MODEL.NASNET.LABEL_IDS"),
    *("SOLVER.IMS_PER_BATCH", "SOLVER.CHECKPOINT_PERIOD", "SOLVER.REFERENCE_WORLD_SIZE", "SOLVER.AMP.ENABLED"),
)


class ReadKeys(set[str]):
    """Keys that were read; copies of a config note them in the same set."""

    def __deepcopy__(self, memo: Any) -> ReadKeys:
        return self


class NotedConfig(CfgNode):
    """A config that adds the keys of values that are read as attributes to a set."""

    def __getattr__(self, name: str) -> Any:
        value = super().__getattr__(name)
        if not isinstance(value, CfgNode):
            self.__dict__["keys_read"].add(f"{self.__dict__['above']}{name}")
        return value


def noting(cfg: CfgNode, read: ReadKeys, above: str = "") -> NotedConfig:
    """Return a copy of a config that adds what is read of it to ``read``.

    Args:
        above: the key of the node, with a dot.
    """
    noted = NotedConfig()
    noted.__dict__.update(keys_read=read, above=above)
    for key, value in cfg.items():
        noted[key] = noting(value, read, f"{above}{key}.") if isinstance(value, CfgNode) else value
    return noted


def unread(cfg: CfgNode, read: ReadKeys) -> list[str]:
    """Return the keys of ``MODEL`` and ``SOLVER`` whose value was chosen, but not read.

    Chosen are values that neither the defaults nor one of the project's configs have, and that are not empty.
    """
    found = _values(cfg) - _values(defaults())
    chosen = {key for key, _ in (found - _usual() if found else found)}
    return sorted(chosen - read - {*_ELSEWHERE})


@functools.cache
def _usual() -> frozenset[tuple[str, str]]:
    return frozenset().union(*(_values(read_config(name)) for name in own_configs()))


def _values(cfg: CfgNode) -> frozenset[tuple[str, str]]:
    """Return the keys and values of the sections; of lists those that are not empty."""
    flat = (pair for section in _SECTIONS for pair in _flat(cfg[section], f"{section}."))
    return frozenset((key, json.dumps(value)) for key, value in flat if value not in ("", [], ()))  # as files have it


def _flat(node: CfgNode, above: str) -> Iterator[tuple[str, Any]]:
    for key, value in node.items():
        if isinstance(value, CfgNode):
            yield from _flat(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", value
