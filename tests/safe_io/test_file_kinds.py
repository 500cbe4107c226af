"""Files of other kinds are told by their content, or else by their ending."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest
import torch

from nasnet_det.safe_io.file_kinds import is_text, other_content


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b"", "empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 9\n", "git lfs pull"),
        (b"\xef\xbb\xbf\n<!DOCTYPE HTML>", "web page"),
        (b"<html lang=en>", "web page"),
        (b"PK\x03\x04 the first half", "cut off"),
        (b"\x89HDF\r\n\x1a\n and more", "HDF5"),
        (b"\x1c\0\0\0TFL3\0\0", "TensorFlow Lite"),
        (b'<?xml version="1.0"?>\n<net name="Model0" version="11">', "OpenVINO"),
        (b"7z\xbc\xaf\x27\x1c", "unpack"),
        (b"a" + b"\0" * 256 + b"ustar", "unpack"),
    ],
)
def test_files_in_place_of_others_are_told(tmp_path: Path, content: bytes, word: str) -> None:
    (tmp_path / "model.pth").write_bytes(content)
    assert word in other_content(tmp_path / "model.pth")
    (tmp_path / "model.pth").write_bytes(b"\x80\x02" + content[:200])
    assert other_content(tmp_path / "model.pth") == other_content(tmp_path / "nowhere") == ""


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("model.onnx", "ONNX"),
        ("model.pdparams", "PaddlePaddle"),
        ("net.CAFFEMODEL", "Caffe"),
        ("model.ckpt.data-00000-of-00001", "TensorFlow"),
        ("yolo.weights", "Darknet"),
    ],
)
def test_formats_without_a_beginning_of_their_own_are_told_by_their_ending(
    tmp_path: Path, name: str, word: str
) -> None:
    (tmp_path / name).write_bytes(b"\x08\x07\x12\x07")
    assert word in other_content(tmp_path / name)


@pytest.mark.parametrize(
    ("member", "word"),
    [
        ("model/archive_format", "nasnet-det"),
        ("net/constants.pkl", "TorchScript"),
        ("arr_0.npy", "NumPy"),
        ("model.weights.h5", "Keras 3"),
        ("photos/1.jpg", "unpack"),
    ],
)
def test_archives_are_told_by_their_members(tmp_path: Path, member: str, word: str) -> None:
    with zipfile.ZipFile(tmp_path / "model.pth", "w") as archive:
        archive.writestr(member, "content")
    assert word in other_content(tmp_path / "model.pth")


def test_checkpoints_of_pytorch_are_nothing_else(tmp_path: Path) -> None:
    torch.save({"model": {"a": torch.zeros(1)}}, tmp_path / "model.pth")
    assert other_content(tmp_path / "model.pth") == "" and not is_text(tmp_path / "model.pth")
    (tmp_path / "notes.txt").write_text("names: [fox]\n")
    assert other_content(tmp_path / "notes.txt") == "" and is_text(tmp_path / "notes.txt")
