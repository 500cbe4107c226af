"""The readable formats, one module each, and detection of a file's format."""

from __future__ import annotations

from torch import Tensor

from nasnet_det.models.network import NASNet
from nasnet_det.safe_io.values import format_names
from nasnet_det.weights.formats import keras, native, tf_slim, timm_cadene
from nasnet_det.weights.layout import Arrays, Format, WeightsError, to_state_dict

FORMATS: dict[str, Format] = {
    "tf_slim": tf_slim.FORMAT,
    "keras": keras.FORMAT,
    "timm": timm_cadene.FORMAT,
    "own": native.FORMAT,
}


def detect(arrays: Arrays) -> Format:
    """Return the format of a file, recognized by the names of its tensors.

    Raises:
        WeightsError: if the format is unknown.
    """
    if (fmt := _format_of(arrays)) is not None:
        return fmt
    example = format_names([next(iter(arrays), "nothing")])
    raise WeightsError(
        f"unknown format: no NASNet has tensors with such names (the first is '{example}'); known formats: "
        + ", ".join(f"{fmt.title} ({fmt.marks[0]}, ...)" for fmt in FORMATS.values())
    )


def _format_of(arrays: Arrays) -> Format | None:
    for fmt in FORMATS.values():
        prepared = fmt.prepare(arrays)
        if any(mark in prepared for mark in fmt.marks):
            return fmt
    return None


def is_known(arrays: Arrays) -> bool:
    """Return True for tensors of a readable format."""
    return _format_of(arrays) is not None


def read_state_dict(model: NASNet, arrays: Arrays) -> dict[str, Tensor]:
    """Return the state dict of ``model`` from a file's tensors of any readable format.

    Raises:
        WeightsError: if the format is unknown; see also :func:`nasnet_det.weights.layout.to_state_dict`.
    """
    return to_state_dict(model, arrays, detect(arrays))
