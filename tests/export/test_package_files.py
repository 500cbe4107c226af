"""Which files are packages, by their content."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from nasnet_det.export import PackageError, load_package, read_info
from nasnet_det.export.package_files import PackageInfo, is_package, refuse_pickles
from nasnet_det.export.runtimes import Package


def test_a_file_that_is_no_package_is_named(tmp_path: Path) -> None:
    contents = {"a.onnx": b"\x00\xff", "b.pt2": b"PK\x03\x04", "c.onnx": b"", "of_others.onnx": b"\x08\x08"}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(PackageError, match=name):
            read_info(tmp_path / name)
    with pytest.raises(PackageError, match="none"):
        load_package(tmp_path / "none.onnx")
    with pytest.raises(PackageError, match="image_size"):
        _ = Package(nn.Identity(), PackageInfo("onnxruntime", ())).pretrained_cfg


@pytest.mark.filterwarnings("ignore:Duplicate name:UserWarning")
def test_programs_that_may_ask_for_pickles_are_refused(tmp_path: Path) -> None:
    """PyTorch ignores the case of names, and reads another one of two files of a name, or of two archives."""

    def written(*members: tuple[str, str]) -> bytes:
        with zipfile.ZipFile(tmp_path / "program.pt2", "w") as archive:
            for member in members:
                archive.writestr(*member)
        return (tmp_path / "program.pt2").read_bytes()

    asks, other = (json.dumps({"config": {"weight": {"use_pickle": value}}}) for value in (True, False))
    name = "archive/model_weights_config.json"
    contents = [
        written((name, asks)),
        written((name.upper(), asks)),
        written((name, asks), (name, other)),
        written((name.upper(), other), (name, other)),
        written((name, asks)) + written((name, other)),
    ]
    for content in contents:
        (tmp_path / "program.pt2").write_bytes(content)
        with pytest.raises(PackageError, match=r"program\.pt2"):
            refuse_pickles(tmp_path / "program.pt2")
    written((name, other))
    refuse_pickles(tmp_path / "program.pt2")


def test_other_files_are_no_packages(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(1)}, tmp_path / "checkpoint")
    (tmp_path / "config").write_text("MODEL:\n  DEVICE: cpu\n")
    save_file({"a" * length: torch.zeros(1) for length in range(1, 100)}, tmp_path / "weights")
    (tmp_path / "short").write_bytes(b"\x08\x01\0\0\0\0\0\0{")
    assert not any(map(is_package, [*tmp_path.iterdir(), tmp_path, tmp_path / "none"]))
