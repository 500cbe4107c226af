"""Which files are packages, by their content."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from nasnet_det.export import PackageError, load_package, read_info
from nasnet_det.export.package_files import PackageInfo, is_package
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


def test_other_files_are_no_packages(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(1)}, tmp_path / "checkpoint")
    (tmp_path / "config").write_text("MODEL:\n  DEVICE: cpu\n")
    save_file({"a" * length: torch.zeros(1) for length in range(1, 100)}, tmp_path / "weights")
    (tmp_path / "short").write_bytes(b"\x08\x01\0\0\0\0\0\0{")
    assert not any(map(is_package, [*tmp_path.iterdir(), tmp_path, tmp_path / "none"]))
