"""Writing files so that nothing good is lost: a new file takes its place only when it is whole and on disk."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Give a path beside ``path`` to write to; on success it takes ``path``'s place, on any error it is removed.

    A process killed in between, or a full disk, leaves whatever stood at ``path`` before.

    Raises:
        OSError: whatever the writing raised; ``path`` is then unchanged.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    os.close(handle)
    part = Path(name)
    try:
        yield part
        with part.open("rb") as file:
            os.fsync(file.fileno())
        # mkstemp makes files private; the result should have the permissions of any newly made file.
        umask = os.umask(0)
        os.umask(umask)
        part.chmod(0o666 & ~umask)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> None:
    """Write UTF-8 text to ``path`` whole or not at all."""
    with replacing(path) as part:
        part.write_text(text, encoding="utf-8")
