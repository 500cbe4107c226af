"""Checkpoints in parts, as Hugging Face's libraries save large ones: an index in JSON names the file of each tensor."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from nasnet_det.safe_io.checkpoints import load_torch
from nasnet_det.safe_io.values import format_value, named, parse_json


def is_index(path: str | Path) -> bool:
    """Return whether a file is such an index, ``model.safetensors.index.json`` or ``pytorch_model.bin.index.json``."""
    with Path(path).open("rb") as file:
        return re.match(rb'\s*\{(?s:.{0,1000}?)"weight_map"', file.read(1100)) is not None


def parts_of(index: str | Path) -> dict[Path, list[str]]:
    """Return the files of an index, which are beside it, with the names of the tensors in each.

    Raises:
        ValueError: if it names files elsewhere, or one that is missing.
    """
    listed = parse_json(Path(index).read_bytes())["weight_map"]
    if not isinstance(listed, dict) or not listed:
        raise ValueError(f"its weight_map is {format_value(listed)}: expected the file of each tensor")
    parts: dict[Path, list[str]] = {}
    for tensor, name in listed.items():
        if not isinstance(name, str) or Path(name).name != name or "\\" in name:
            raise ValueError(f"it names the part {format_value(name)}: expected a file beside it")
        parts.setdefault(Path(index).with_name(name), []).append(tensor)
    if missing := [part.name for part in parts if not part.is_file()]:
        raise ValueError(f"of its parts {named(missing)} are missing: put them all beside it")
    return parts


def read_parts(index: str | Path) -> dict[str, Any]:
    """Return the tensors of all parts of an index; nothing in them is executed.

    Raises:
        ValueError: as :func:`parts_of` does, and if a tensor is missing.
        Exception: almost any other, if a part is damaged.
    """
    tensors: dict[str, Any] = {}
    for part, names in parts_of(index).items():
        found = load_file(part) if part.suffix == ".safetensors" else load_torch(part)
        if absent := [name for name in names if name not in found]:
            raise ValueError(f"its part {part.name} has no {named(absent)}: download or copy it again")
        tensors |= found
    return tensors
