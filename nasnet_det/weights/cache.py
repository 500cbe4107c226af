"""Cache of downloaded (and usually converted) files, verified at every use and safe for concurrent processes.

Each file has a record ``FILE.json`` with its location, the hash of the download and the hash of the cached file. The
first hash is compared whenever the file is downloaded again, the second at every use.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from shutil import copyfile
from typing import Any

from filelock import FileLock

from nasnet_det.safe_io.cache import CACHE_VARIABLE
from nasnet_det.safe_io.files import file_digest, replacing, write_text
from nasnet_det.safe_io.values import first_line
from nasnet_det.weights.download import check_digest, fetched
from nasnet_det.weights.layout import WeightsError


def cached(
    target: Path, location: str, make: Callable[[Path, Path], Any] = copyfile, digest: str | None = None
) -> Path:
    """Return a file of the cache, after downloading and converting it if it is missing.

    Args:
        target: the file.
        location: the location to download from (see :func:`nasnet_det.weights.download.fetched`).
        make: writes the file at its second argument from the download at its first.
        digest: the published hash, ``ALGORITHM:HASH``. Without one, the first hash seen is recorded and compared later.

    Raises:
        WeightsError: if the download or the conversion fails, for another hash than the expected one, or if the cached
            file was changed. The cache is then unchanged.
    """
    if is_cached(target):
        return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(target.with_name(f".{target.name}.lock")):
            if not is_cached(target):  # another process may have written it meanwhile
                _fetch_and_make(target, location, make, digest)
    except OSError as error:
        raise WeightsError(
            f"{target.parent}: the cache is not writable ({error}): set {CACHE_VARIABLE} to another folder"
        ) from None
    return target


def is_cached(target: Path) -> bool:
    """Return whether a file of the cache exists with its recorded hash.

    Raises:
        WeightsError: if it exists with another hash.
    """
    expected = _read_record(target).get("kept_sha256")
    if expected is None or not target.is_file():
        return False
    if file_digest(target) != expected:
        raise WeightsError(f"{target}: was changed or damaged after it was written: delete it to download it again")
    return True


def _fetch_and_make(target: Path, location: str, make: Callable[[Path, Path], Any], digest: str | None) -> None:
    with fetched(location, target.parent) as file:
        if digest is not None:
            check_digest(file, digest, location)
        seen = file_digest(file)
        before = _read_record(target).get("sha256", seen)
        if seen != before:
            raise WeightsError(
                f"{location}: its SHA-256 is {seen}, but was {before} at the first download: the file was "
                f"replaced. If you trust the new one, delete {_record(target)}"
            )
        with replacing(target) as part:
            make(file, part)
    entry = {
        "location": location,
        "sha256": seen,
        "published_hash": digest,
        "kept_sha256": file_digest(target),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }
    write_text(_record(target), json.dumps(entry, indent=2) + "\n")


def _record(target: Path) -> Path:
    return target.with_name(f"{target.name}.json")


def _read_record(target: Path) -> dict[str, Any]:
    try:
        return json.loads(_record(target).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, ValueError) as error:
        raise WeightsError(
            f"{_record(target)}: cannot be read ({first_line(error)}): delete it to download the weights again"
        ) from None
