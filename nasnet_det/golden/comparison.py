"""Folders of recorded outputs, and the comparison of a tensor with the recorded one.

Arrays are stored channels last; maps may be stored at every 4th row and column.
"""

from __future__ import annotations

import json
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nasnet_det.safe_io.values import first_line

_STORED_EVERY = 4


class GoldenError(ValueError):
    """A folder that is incomplete or of no known kind; names the file or entry and what was expected."""


@dataclass(frozen=True)
class Comparison:
    """One tensor: the norm of the difference over the norm of the reference.

    Args:
        name: the tensor's name in the folder.
        error: the relative error.
        bound: the largest error allowed; None for a tensor that is shown only.
        note: a remark, such as the number of tensors.
    """

    name: str
    error: float
    bound: float | None
    note: str = ""

    @property
    def passed(self) -> bool:
        """True if the error is within the bound; NaN never is."""
        return self.bound is None or self.error <= self.bound


def relative_error(found: np.ndarray, reference: np.ndarray) -> float:
    """Return the norm of the difference over the norm of the reference, in double precision.

    It is infinite where the reference is zero and the difference is not.
    """
    difference = float(np.linalg.norm(found.astype(np.float64).ravel() - reference.astype(np.float64).ravel()))
    norm = float(np.linalg.norm(reference.astype(np.float64).ravel()))
    return difference / norm if norm else (0.0 if difference == 0.0 else float("inf"))


def read_meta(folder: Path) -> dict[str, Any]:
    """Read a folder's ``meta.json``.

    Raises:
        GoldenError: if it is missing or not a JSON object.
    """
    path = folder / "meta.json"
    try:
        meta = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise GoldenError(f"{path}: cannot be read ({first_line(error)})") from None
    if not isinstance(meta, dict):
        raise GoldenError(f"{path}: expected a JSON object")
    return meta


def arrays_of(path: Path) -> dict[str, np.ndarray]:
    """Read the arrays of an ``.npz`` file by name.

    Raises:
        GoldenError: if it cannot be read.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            return dict(file)
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise GoldenError(f"{path}: cannot be read ({first_line(error)})") from None


def as_stored(value: np.ndarray, reference: np.ndarray, where: str) -> np.ndarray:
    """Subsample a map to the positions that the folder stores."""
    if value.ndim == 4 and value.shape != reference.shape:
        value = value[:, ::_STORED_EVERY, ::_STORED_EVERY]
    if value.shape != reference.shape:
        raise GoldenError(f"{where} has the shape {reference.shape}, but the network gives {value.shape}")
    return value
