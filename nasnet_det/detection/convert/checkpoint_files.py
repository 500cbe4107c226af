"""Checkpoints of detectors as files: this project's and detectron2's ``.pth``, and the ``.pkl`` of detectron2's model
zoo. They are data: nothing in them is executed, and what comes out are tensors of finite numbers."""

from __future__ import annotations

import json
import pickle
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from nasnet_det.detection.convert.identity import CheckpointError
from nasnet_det.safe_io.checkpoints import find_state_dict, load_torch
from nasnet_det.safe_io.file_kinds import is_text, other_content
from nasnet_det.safe_io.files import replacing
from nasnet_det.safe_io.parts import is_index, read_parts
from nasnet_det.safe_io.pickles import from_pickle
from nasnet_det.safe_io.values import first_line, format_value, parse_json

#: What the readers of a damaged or hostile file raise.
MALFORMED = (
    *(pickle.UnpicklingError, RuntimeError, EOFError, ValueError, TypeError, LookupError, AttributeError),
    *(AssertionError, ImportError, OSError, ArithmeticError, MemoryError, struct.error, SafetensorError),
)
_GIVE_ANOTHER = (
    "give one that training saved or nasnet-det convert-detector wrote; weights of a classification network are given "
    "as MODEL.NASNET.PRETRAINED"
)


def read_checkpoint_file(file: str, averaged: bool = True) -> dict[str, Any]:
    """Read a checkpoint into detectron2's form: ``model``, a state dict, and what else was saved.

    Args:
        file: a file of ``torch.save`` from any training tool, one in safetensors, the index of one in parts, or a
            ``.pkl`` of detectron2's model zoo.
        averaged: prefer a moving average of the weights (see :func:`nasnet_det.safe_io.checkpoints.find_state_dict`);
            False to resume a run.

    Raises:
        CheckpointError: if it is damaged, wants code to be run, or holds other things than tensors as its weights.
    """
    try:
        with Path(file).open("rb") as opened:
            head = opened.read(9)
        if head[8:] == b"{":  # after the length of a header in JSON
            return _read_safetensors(file)
        if is_index(file):
            return {"model": _tensors(find_state_dict(read_parts(file), averaged).tensors, file)}
        pickled = file.endswith(".pkl") and not head.startswith(b"PK")  # else an archive of torch.save
        if pickled:
            data: Any = from_pickle(Path(file).read_bytes(), encoding="latin1")
        else:
            data = load_torch(file)
        if not isinstance(data, dict):
            raise ValueError(f"it holds a {type(data).__name__}")
        if (pickled or file.endswith(".pyth")) and not ("model" in data and "__author__" in data):
            # Caffe2's and pycls's, whose names detectron2 then matches
            state = data.get("model_state", data.get("blobs", data))
            author = "pycls" if file.endswith(".pyth") else "Caffe2"
            return {"model": _tensors(state, file), "__author__": author, "matching_heuristics": True}
        state = find_state_dict(data, averaged).tensors
    except CheckpointError:
        raise
    except MALFORMED as error:
        text = is_text(file) and not is_index(file)
        raise refused(file, ValueError("it is a text") if text else error) from error
    return {**(data if "model" in data else {}), "model": _tensors(state, file)}


def write_safetensors(
    file: str | Path, state: Mapping[str, Tensor], config: str, categories: Sequence[Mapping[str, Any]]
) -> None:
    """Write weights with what is needed to use them: the config as YAML, and ``id`` and ``name`` of each class."""
    tensors = {name: value.detach().cpu().contiguous().clone() for name, value in state.items()}
    described = {"format": "pt", "config": config, "categories": json.dumps(list(categories))}
    with replacing(file) as part:
        save_file(tensors, part, described)


def _read_safetensors(file: str) -> dict[str, Any]:
    state = find_state_dict(load_file(file)).tensors
    with safe_open(file, "pt") as opened:
        described = opened.metadata() or {}
    found: dict[str, Any] = {"model": _tensors(state, file)}
    if "config" in described:
        found |= {"config": described["config"], "categories": parse_json(described.get("categories", "[]"))}
    return found


def refused(file: str, error: BaseException, advice: str = _GIVE_ANOTHER) -> CheckpointError:
    """Return the error for a file that its reader fails on, with what to do."""
    reason = other_content(file) or first_line(error)
    return CheckpointError(f"{file} is not a checkpoint that can be read ({reason}): {advice}")


def _tensors(state: Any, file: str) -> dict[str, Tensor]:
    """A state dict, its arrays made tensors; what detectron2 does not read left out."""
    if not isinstance(state, dict):
        raise CheckpointError(f"{file} holds no state dict but a {type(state).__name__}")
    found = {}
    for name, value in state.items():
        if str(name).endswith(("_momentum", "num_batches_tracked")) and not torch.is_tensor(value):
            continue
        tensor = torch.from_numpy(value) if isinstance(value, np.ndarray) and value.dtype.kind in "fiub" else value
        if not isinstance(name, str) or not torch.is_tensor(tensor):
            entry = f"{format_value(name)} is a {type(tensor).__name__}"
            raise CheckpointError(f"{file}: {entry}, expected a tensor")
        plain = tensor.layout == torch.strided and not tensor.is_complex()
        if not plain or tensor.is_meta or tensor.untyped_storage().nbytes() < tensor.nbytes:
            raise CheckpointError(
                f"{file}: {format_value(name)} is complex, sparse, or larger than its storage in the file"
            )
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise CheckpointError(f"{file}: {format_value(name)} holds values that are not finite")
        found[name] = tensor
    return found
