"""Atomic writing of files: a new file replaces an old one only once it is complete and on disk.

What a command reads can be protected: writing over it or deleting it is then an error, wherever in the package it is
tried.
"""

from __future__ import annotations

import csv
import errno
import functools
import hashlib
import io
import json
import os
import re
import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from typing import Any

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

#: What tells files apart: device and number on it.
FileKey = tuple[int, int]
#: Bytes that a file system takes as the name of a file or folder.
LONGEST_NAME = 255
_BLOCK = 1 << 20
#: What file systems give that take no more.
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
#: Bytes at the beginning of a file that tell whose it is.
_HEAD = 4096
#: The names of files that are being written.
_PART = re.compile(r"\..+\.[0-9a-f]{8}\.part")
#: A regular expression that no file begins with.
NOTHING = b"(?!)"
_protected: ContextVar[dict[FileKey, Path] | None] = ContextVar("protected", default=None)


class OverwriteError(ValueError):
    """An output that would replace or delete an input of the same command; names the file."""


@contextmanager
def protecting(paths: Iterable[str | Path] = ()) -> Iterator[None]:
    """Within the block, refuse to write over or delete these files; see :func:`protect` to add to them."""
    token = _protected.set(dict(_protected.get() or {}))
    try:
        protect(paths)
        yield
    finally:
        _protected.reset(token)


def protect(paths: Iterable[str | Path]) -> None:
    """Add inputs to those that the surrounding :func:`protecting` keeps; a folder means the files in it.

    A path that does not exist is ignored: its reader reports it. Outside of :func:`protecting` this does nothing.
    """
    kept = _protected.get()
    if kept is None:
        return
    for path in map(Path, paths):
        is_folder = exists(path) and path.is_dir()
        files = [entry for entry in path.iterdir() if entry.is_file()] if is_folder else [path]
        kept.update({key: file for file in files if (key := file_key(file)) is not None})


def check_writable(path: str | Path, own: bytes = b"") -> None:
    """Raise an error for a path that must not be written over, or a link to where nothing can be written.

    Args:
        path: the file to be written.
        own: a regular expression that is found at the beginning of every file that the package writes there; another
            file is a user's, unless it is empty.

    Raises:
        OverwriteError: if it is a protected input, under this or another name, or was not written by the package.
        IsADirectoryError: if it is a folder.
        OSError: if it cannot be read, to be told by its beginning, or is a link to a file or folder that is read-only.
    """
    if Path(path).is_symlink():
        target = Path(os.path.realpath(path))
        expect_folder(target.parent)
        if exists(target) and not os.access(target, os.W_OK):  # as in the stores of DVC and git-annex
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(target))
    if file_key(path) in (_protected.get() or {}):
        raise OverwriteError(
            f"{path} is an input of this command and would be overwritten or deleted: give another --output"
        )
    if Path(path).is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if exists(path) and not Path(path).is_file():
        raise OverwriteError(f"{path} is a device or a pipe, which a file would replace: name a file")
    if own and exists(path) and not begins_with(path, own) and Path(path).stat().st_size:
        raise OverwriteError(
            f"{path} was not written by this command, and would be overwritten: give another path for the output, or "
            "move that file away"
        )


def begins_with(path: str | Path, pattern: bytes) -> bool:
    """Return whether a regular expression is found in the first 4096 bytes of a file; False if there is no file."""
    try:
        with Path(path).open("rb") as file:
            return re.search(pattern, file.read(_HEAD)) is not None
    except (FileNotFoundError, NotADirectoryError):
        return False


def expect_folder(path: str | Path) -> None:
    """Raise an OSError unless files can be written to a folder, which need not exist yet.

    Raises:
        NotADirectoryError, PermissionError: naming the file that is not a folder, or the read-only folder.
        OSError: for a name that is too long.
    """
    path = Path(path).absolute()
    if any(len(os.fsencode(part)) > LONGEST_NAME for part in path.parts):
        raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG), str(path))
    place = next(place for place in (path, *path.parents) if os.path.lexists(place))  # links to nothing, too
    if not place.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(place))
    if not os.access(place, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(place))


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yield a path beside ``path`` to write to; on success it replaces ``path``, on any error it is removed.

    A process killed in between, or a full disk, leaves the earlier content of ``path``. What killed processes were
    writing in its folder is removed. A symbolic link stays: the file that it points to is replaced.

    Raises:
        OverwriteError: if ``path`` is a protected input.
        OSError: if writing fails; ``path`` is then unchanged.
    """
    check_writable(path)
    path = Path(os.path.realpath(path)) if Path(path).is_symlink() else Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(path.parent.absolute())
    part = path.parent / f".{path.name[:50]}.{secrets.token_hex(4)}.part"  # of 4 bytes each
    with part.open("xb") as held:
        mode = os.fstat(held.fileno()).st_mode
        try:
            if fcntl is None:  # Windows renames no open file
                held.close()
            else:
                with suppress(OSError):
                    fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield part
            if part.stat().st_mode != mode:  # safetensors replaces it by a file that only its owner reads
                with suppress(OSError):
                    part.chmod(mode)
            with part.open("r+b") as file:
                os.fsync(file.fileno())
            part.replace(path)
        except Exception as error:
            _expect_room(part, path, error)
            raise
        finally:
            part.unlink(missing_ok=True)


def _expect_room(part: Path, path: Path, error: Exception) -> None:
    """Raise the OSError that names ``path`` if the file system takes no more; libraries give errors of their own."""
    if isinstance(error, OSError) and error.errno not in _NO_ROOM:
        return
    try:
        with part.open("ab") as file:
            file.write(bytes(_BLOCK))
            file.flush()
            os.fsync(file.fileno())
    except OSError as reason:
        raise type(reason)(reason.errno, reason.strerror, str(path)) from error


@functools.cache
def _remove_abandoned(folder: Path) -> None:
    """Remove, once a process, what killed processes were writing: files of :func:`replacing` that no process holds."""
    for path in folder.iterdir() if fcntl is not None else ():
        if _PART.fullmatch(path.name):
            with suppress(OSError), path.open("r+b") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink()


def write_text(path: str | Path, text: str) -> None:
    """Write UTF-8 text to ``path`` whole or not at all; what UTF-8 cannot have, as in names of files, is escaped."""
    with replacing(path) as part:
        part.write_text(text, encoding="utf-8", errors="backslashreplace")


def write_json(path: str | Path, data: Any) -> None:
    """Write a value as JSON to ``path``, whole or not at all."""
    write_text(path, json.dumps(data))


def write_csv(path: str | Path, rows: Iterable[Iterable[Any]]) -> None:
    """Write rows as CSV to ``path``, whole or not at all."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    write_text(path, text.getvalue())


def remove(path: str | Path) -> None:
    """Delete a file if it exists.

    Raises:
        OverwriteError: if it is a protected input.
    """
    check_writable(path)
    Path(path).unlink(missing_ok=True)


def short_name(name: str, ending: str = "") -> str:
    """Return a name with an ending that file systems take: of one that is too long, the end is replaced by a digest."""
    encoded, room = os.fsencode(name), LONGEST_NAME - len(os.fsencode(ending))
    if len(encoded) > room:
        digest = hashlib.sha256(encoded).hexdigest()[:16]
        name = f"{encoded[: room - 17].decode(errors='ignore')}-{digest}"
    return name + ending


def exists(path: str | Path) -> bool:
    """Return True if a path exists; False also for a name that no file can have."""
    return file_key(path) is not None


def file_key(path: str | Path) -> FileKey | None:
    """Return the identity of a file, the same under all its names; None if the file does not exist."""
    try:
        status = Path(path).stat()
    except (OSError, ValueError):
        return None
    return status.st_dev, status.st_ino


def expand_home(text: str) -> str:
    """Return a path, or ``KEY=PATH``, with the home folder for a ``~`` at its beginning, as a shell does."""
    key, equals, path = text.rpartition("=")
    return f"{key}{equals}{Path(path).expanduser()}" if path == "~" or path.startswith("~/") else text


def file_digest(path: Path, algorithm: str = "sha256") -> str:
    """Return the hexadecimal hash of a file's content."""
    state = hashlib.new(algorithm, usedforsecurity=False)
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            state.update(block)
    return state.hexdigest()
