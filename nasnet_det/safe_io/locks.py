"""Folders that one process at a time works in."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from nasnet_det.safe_io.files import exists, expect_folder

try:
    import fcntl
except ImportError:  # Windows: two processes in one folder are not noticed
    fcntl = None  # type: ignore[assignment]

#: The file that a process holds while it works in a folder.
_LOCK = ".lock"


class FolderInUseError(ValueError):
    """A folder that another process is writing to; names it."""


@contextmanager
def working_in(folder: Path) -> Iterator[None]:
    """Make a folder and keep it to this process until the block ends, where the file system has locks.

    Raises:
        FolderInUseError: if another process is in such a block with it.
        OSError: if nothing can be written to it; names it, or the file that is in its place.
    """
    expect_folder(folder)
    is_new = not exists(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / _LOCK).open("a") as held:
        try:
            if fcntl is not None:
                fcntl.lockf(held, fcntl.LOCK_EX | fcntl.LOCK_NB)  # its processes that are forked do not hold it
        except (BlockingIOError, PermissionError):
            raise FolderInUseError(
                f"{folder}: another process is writing to it: wait for its end, stop it, or give another folder"
            ) from None
        except OSError:  # a file system without locks
            pass
        try:
            yield
        finally:
            with suppress(OSError):  # Windows removes no open file, nothing a folder with files
                (folder / _LOCK).unlink()
                if is_new:
                    folder.rmdir()
