"""Files that are the same under other names: links, and copies byte for byte."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from os import SEEK_END
from pathlib import Path

from nasnet_det.safe_io.files import file_digest, file_key

#: The last bytes of a compressed image tell it from others of its size.
_END = 4096


def find_copies(paths: Sequence[Path], others: Sequence[Path]) -> dict[Path, Path]:
    """Return each of ``paths`` that is the same file as one of ``others``, a link to it or a copy, with that other.

    Few files are read: those of equal size at their end, and those that agree there.
    """
    found = _same(paths, others, file_key)
    paths = [path for path in paths if path not in found]
    for key in (_size, _end):
        paths, others = [*_same(paths, others, key)], [*_same(others, paths, key)]
    return found | _same(paths, others, file_digest)


def _same(paths: Sequence[Path], others: Sequence[Path], key: Callable[[Path], Hashable]) -> dict[Path, Path]:
    """Return each path with the first other of the same key; that of an empty, special or missing file is its path."""

    def key_or_path(path: Path) -> Hashable:
        try:
            return key(path) or path
        except (OSError, ValueError):  # ValueError for a name that no file can have
            return path

    known = {key_or_path(other): other for other in reversed(others)}
    return {path: known[value] for path in paths if (value := key_or_path(path)) in known}


def _size(path: Path) -> Hashable:
    return path.stat().st_size


def _end(path: Path) -> Hashable:
    with path.open("rb") as file:
        size = file.seek(0, SEEK_END)
        file.seek(max(0, size - _END))
        return size, file.read()
