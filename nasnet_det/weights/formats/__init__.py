"""Every format that can be read, and which of them a file has."""

from __future__ import annotations

from torch import Tensor

from nasnet_det.models.network import NASNet
from nasnet_det.safe_io.values import format_names
from nasnet_det.weights.formats import keras, tf_slim, timm_cadene
from nasnet_det.weights.formats import native as own
from nasnet_det.weights.layout import Arrays, Format, WeightsError, to_state_dict

FORMATS: dict[str, Format] = {
    "tf_slim": tf_slim.FORMAT,
    "keras": keras.FORMAT,
    "timm": timm_cadene.FORMAT,
    "own": own.FORMAT,
}


def detect(arrays: Arrays) -> Format:
    """The format of a file's tensors, seen in their names.

    Raises:
        WeightsError: if they are of no known format.
    """
    for fmt in FORMATS.values():
        prepared = fmt.prepare(arrays)
        if any(mark in prepared for mark in fmt.marks):
            return fmt
    example = format_names([next(iter(arrays), "nothing")])
    raise WeightsError(
        f"the tensors are named like no NASNet that is known (the first is '{example}'); known are: "
        + ", ".join(f"{fmt.title} ({fmt.marks[0]}, ...)" for fmt in FORMATS.values())
    )


def read_state_dict(model: NASNet, arrays: Arrays) -> dict[str, Tensor]:
    """The state dict of ``model`` from a file's tensors, of whatever format they are.

    Raises:
        WeightsError: if the format is unknown, or see :func:`nasnet_det.weights.layout.to_state_dict`.
    """
    return to_state_dict(model, arrays, detect(arrays))
