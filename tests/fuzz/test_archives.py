"""Archives of weights: only regular files of bounded size are unpacked, and no file is left after reading."""

from __future__ import annotations

import bz2
import gzip
import importlib.util
import io
import lzma
import tarfile
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch

from nasnet_det.training.data.cifar10 import DataError
from nasnet_det.training.data.cifar10_source import official_batches
from nasnet_det.weights import WeightsError, arrays, read_arrays
from tests.fuzz.conftest import Fuzz
from tests.fuzz.engine import Case
from tests.fuzz.mutate import spoil_bytes

NAMES = (
    *("../outside.pth", "/outside.pth", "a/../../outside.pth", "..", ".", "", "/", "a//b.pth", "./x.pth", "a/./b.h5"),
    *("C:\\x.pth", "..\\x.pth", "weights.pth", "sub/weights.pth", "weights.index", "x" * 300 + ".pth", "a\nb.pth"),
    *("\udc80.pth", "ü.pth", "a/" * 100 + "x.pth", "model.ckpt.index", "model.ckpt.data-00000-of-00001", "dev/null"),
)
if importlib.util.find_spec("tensorflow") is None:  # needed for an archive with a checkpoint
    NAMES = tuple(name for name in NAMES if not name.endswith(".index"))
KINDS = (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE)


@pytest.fixture
def scratch(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder in which archives are unpacked."""
    folder = tmp_path_factory.mktemp("scratch")
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def weights() -> bytes:
    buffer = io.BytesIO()
    torch.save({"a": torch.ones(20)}, buffer)
    return buffer.getvalue()


def _member(tar: tarfile.TarFile, name: str, content: bytes = b"", **more: Any) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    for key, value in more.items():
        setattr(member, key, value)
    tar.addfile(member, io.BytesIO(content))


def hostile_tar(case: Case, content: bytes) -> bytes:
    """Return a tar archive of weights and a few hostile members."""
    buffer, random = io.BytesIO(), case.random
    layout = random.choice((tarfile.PAX_FORMAT, tarfile.GNU_FORMAT))
    with tarfile.open(fileobj=buffer, mode="w", format=layout, errors="surrogateescape") as tar:
        _member(tar, "weights.pth", content)
        for _ in range(0 if case.pristine else random.randint(1, 4)):
            kind = random.randrange(6)
            if kind < 2:
                _member(tar, random.choice(NAMES), random.choice((b"", b"data", content)))
            elif kind == 2:
                link = random.choice(("weights.pth", "/etc/passwd", "../..", str(case.folder), "loop", ""))
                _member(tar, random.choice((*NAMES, "loop")), type=random.choice(KINDS), linkname=link)
            elif kind == 3:
                for number in range(10_100 if case.number % 1000 == 7 else random.choice((3, 10, 100))):
                    _member(tar, f"many/{number}")
            elif kind == 4:
                _member(tar, random.choice(NAMES), content, pax_headers={"size": random.choice(("-1", "x", "9" * 30))})
            else:
                _member(tar, "zeros.bin", bytes(random.choice((10**3, 10**5))))
    return buffer.getvalue()


def _compressed(data: bytes, case: Case) -> bytes:
    packers = (bytes, lambda d: gzip.compress(d, 1), lambda d: bz2.compress(d, 1), lambda d: lzma.compress(d, preset=0))
    return case.random.choice(packers)(data)


def test_archive(fuzz: Fuzz, scratch: Path) -> None:
    """Archives of hostile members, half of them also spoiled before or after their compression."""
    content = weights()

    def attempt(case: Case) -> None:
        path, spoiled = case.folder / "published.tar.gz", case.random.choice((None, None, "tar", "file"))
        tar = hostile_tar(case, content)
        data = _compressed(spoil_bytes(tar, case) if spoiled == "tar" else tar, case)
        path.write_bytes(spoil_bytes(data, case) if spoiled == "file" else data)
        with case.allows(WeightsError, naming=path):
            read_arrays(path)
        assert not list(scratch.iterdir()), "something unpacked was left"
        assert not (case.folder.parent / "outside.pth").exists()

    fuzz(attempt, share=2)


def test_archive_bomb(fuzz: Fuzz, scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An archive of zeros, two hundred times its own size."""
    monkeypatch.setattr(arrays, "_LEAST_ALLOWED", 4 << 20)
    zeros = 64 << 20
    head = tarfile.TarInfo("weights.pth")
    head.size = zeros
    packed = gzip.compress(head.tobuf() + bytes(zeros), 1)

    def attempt(case: Case) -> None:
        path = case.folder / "bomb.tar.gz"
        path.write_bytes(gzip.compress(hostile_tar(case, weights())) if case.pristine else packed)
        with case.allows(WeightsError, naming=path):
            read_arrays(path)
        assert case.pristine or case.refused
        assert not list(scratch.iterdir())

    fuzz(attempt, different=2)


def test_archive_of_cifar(fuzz: Fuzz) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for number in range(1, 6):
            _member(tar, f"cifar-10-batches-bin/data_batch_{number}.bin", b"x" * 100)
        _member(tar, "cifar-10-batches-bin/test_batch.bin", b"x" * 100)
    data = buffer.getvalue()

    def attempt(case: Case) -> None:
        path = case.folder / "cifar.tar.gz"
        whole = case.random.random() < 0.5
        path.write_bytes(spoil_bytes(data, case) if whole else gzip.compress(spoil_bytes(gzip.decompress(data), case)))
        with case.allows(DataError, naming=path):
            list(official_batches(path))

    fuzz(attempt)
