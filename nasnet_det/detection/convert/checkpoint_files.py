"""Checkpoints of detectors as files: this project's and detectron2's ``.pth``, and the ``.pkl`` of detectron2's model
zoo. They are data: nothing in them is executed, and what comes out are tensors of finite numbers."""

from __future__ import annotations

import pickle
import struct
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from torch import Tensor

from nasnet_det.detection.convert.identity import CheckpointError
from nasnet_det.safe_io.pickles import from_pickle
from nasnet_det.safe_io.values import format_value

#: What the readers of a damaged or hostile file raise.
MALFORMED = (
    *(pickle.UnpicklingError, RuntimeError, EOFError, ValueError, TypeError, LookupError, AttributeError),
    *(AssertionError, ImportError, OSError, ArithmeticError, MemoryError, struct.error, SafetensorError),
)


def read_checkpoint_file(file: str) -> dict[str, Any]:
    """A checkpoint in detectron2's form: ``model``, a state dict, and what else was saved.

    Raises:
        CheckpointError: if it is damaged, wants code to be run, or holds other things than tensors as its weights.
    """
    try:
        if file.endswith(".pkl"):
            data = from_pickle(Path(file).read_bytes(), encoding="latin1")
        else:
            data = torch.load(file, map_location="cpu", weights_only=True)
    except MALFORMED as error:
        raise refused(file, error) from error
    if not isinstance(data, dict):
        raise CheckpointError(f"{file} holds no checkpoint but a {type(data).__name__}")
    if "model" in data and ("__author__" in data or not file.endswith((".pkl", ".pyth"))):
        loaded = data
    elif not file.endswith((".pkl", ".pyth")):
        loaded = {"model": data}
    else:  # Caffe2's and pycls's, whose names detectron2 then matches
        state = data.get("model_state", data.get("blobs", data))
        author = "pycls" if file.endswith(".pyth") else "Caffe2"
        loaded = {"model": state, "__author__": author, "matching_heuristics": True}
    return {**loaded, "model": _tensors(loaded["model"], file)}


def refused(file: str, error: BaseException) -> CheckpointError:
    """What to say of a file that makes its reader fail."""
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
    return CheckpointError(
        f"{file} is not a checkpoint that can be read ({reason}): give one that training saved or "
        "nasnet-det convert-detector wrote"
    )


def _tensors(state: Any, file: str) -> dict[str, Tensor]:
    """A state dict, its arrays made tensors; what detectron2 does not read left out."""
    if not isinstance(state, dict):
        raise CheckpointError(f"{file} holds no state dict but a {type(state).__name__}")
    found = {}
    for name, value in state.items():
        if str(name).endswith(("_momentum", "num_batches_tracked")) and not torch.is_tensor(value):
            continue
        tensor = torch.from_numpy(value) if isinstance(value, np.ndarray) and value.dtype.kind in "fiub" else value
        if not isinstance(name, str) or not torch.is_tensor(tensor) or tensor.layout != torch.strided or tensor.is_meta:
            raise CheckpointError(f"{file}: {format_value(name)} names no tensor of numbers")
        if tensor.is_complex() or tensor.untyped_storage().nbytes() < tensor.nbytes:
            raise CheckpointError(f"{file}: {format_value(name)} is complex, or stands for more than the file holds")
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise CheckpointError(f"{file}: {format_value(name)} holds values that are not finite")
        found[name] = tensor
    return found
