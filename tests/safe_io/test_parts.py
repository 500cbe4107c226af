"""Checkpoints in parts are read from their index, and from nowhere else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from nasnet_det.safe_io.parts import is_index, read_parts
from nasnet_det.weights import WeightsError
from nasnet_det.weights.arrays import read_arrays

_TENSORS = {"model.a": torch.ones(2), "model.b": torch.zeros(3)}


def write(folder: Path, ending: str, parts: dict[str, Any] | None = None) -> Path:
    folder.mkdir(exist_ok=True)
    names = [f"model-0000{number}-of-00002.{ending}" for number in (1, 2)]
    for file, (name, value) in zip(names, _TENSORS.items(), strict=True):
        (save_file if ending == "safetensors" else torch.save)({name: value}, folder / file)
    index = folder / f"model.{ending}.index.json"
    listed = parts or dict(zip(_TENSORS, names, strict=True))
    index.write_text(json.dumps({"metadata": {"total_size": 20}, "weight_map": listed}, indent=2))
    return index


@pytest.mark.parametrize("ending", ["safetensors", "bin"])
def test_the_parts_are_one_checkpoint(tmp_path: Path, ending: str) -> None:
    index = write(tmp_path / "run", ending)
    assert is_index(index) and {*read_parts(index)} == {*_TENSORS}
    for path in (index, tmp_path / "run"):
        assert {name: len(array) for name, array in read_arrays(path).items()} == {"a": 2, "b": 3}


@pytest.mark.parametrize(
    ("parts", "named"),
    [
        ({"model.a": "../run/model-00001-of-00002.bin"}, r"\.\./run"),
        ({"model.a": "/etc/passwd"}, "/etc/passwd"),
        ({"model.a": 5}, "5"),
        ({"model.a": "model-00003-of-00002.bin"}, "model-00003"),
        ({"model.c": "model-00001-of-00002.bin"}, r"model\.c"),
        ([5], r"\[5\]"),
    ],
)
def test_what_an_index_names_and_is_not_there_is_told(tmp_path: Path, parts: Any, named: str) -> None:
    with pytest.raises(WeightsError, match=rf"index\.json.*{named}"):
        read_arrays(write(tmp_path / "run", "bin", parts))
