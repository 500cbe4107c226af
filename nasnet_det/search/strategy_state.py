"""The file of a strategy's state: nested plain values and NumPy arrays as safetensors, with a digest."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from nasnet_det.safe_io.files import replacing
from nasnet_det.safe_io.values import format_value, parse_json
from nasnet_det.search.storage import StudyError

#: What reading or loading a damaged state raises.
MALFORMED = (SafetensorError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError, OSError)


def write_state(path: Path, state: Mapping[str, Any]) -> None:
    """Write a state: arrays by their path, everything else as JSON beside them.

    Raises:
        StudyError: if it cannot be written.
    """
    arrays: dict[str, np.ndarray] = {}
    text = json.dumps(_without_arrays(state, arrays, ""))
    try:
        with replacing(path) as part:
            save_file(arrays, part, metadata={"state": text, "sha256": _digest(text, arrays)})
    except OSError as error:
        raise StudyError(
            f"the strategy's state {path} cannot be written: {error.strerror or error}; "
            "make room, then run the same command again"
        ) from None


def read_state(path: Path) -> dict[str, Any] | None:
    """Read what :func:`write_state` wrote; None if the file does not exist.

    Raises:
        StudyError: if it is damaged.
    """
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata()
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dictionary)
        text = metadata["state"]
        if metadata.get("sha256", _digest(text, arrays)) != _digest(text, arrays):
            raise ValueError("its digest differs from its content")
        state: dict[str, Any] = parse_json(text)
        for name, array in arrays.items():
            *parents, last = name.split("/")
            inner = state
            for parent in parents:
                inner = inner[parent]
            inner[last] = array
    except MALFORMED as error:
        raise damaged(path, error) from None
    return state


def damaged(path: Path, error: Exception) -> StudyError:
    """Return the error for a file that is not a state of this study."""
    return StudyError(f"{path} is damaged ({format_value(str(error))}); remove it: its content is then recomputed")


def _digest(text: str, arrays: Mapping[str, np.ndarray]) -> str:
    content = hashlib.sha256(text.encode("utf-8", "surrogatepass"))
    for name, array in sorted(arrays.items()):
        content.update(f"{name} {array.dtype} {array.shape}".encode("utf-8", "surrogatepass"))
        content.update(np.ascontiguousarray(array).tobytes())
    return content.hexdigest()


def _without_arrays(value: Any, arrays: dict[str, np.ndarray], where: str) -> Any:
    if isinstance(value, np.ndarray):
        arrays[where] = value
        return None
    if isinstance(value, Mapping):
        return {key: _without_arrays(v, arrays, f"{where}/{key}" if where else key) for key, v in value.items()}
    return value
