"""Checkpoints of children that wait for their next rung.

A checkpoint saves time and nothing else: a child without one is trained from the beginning, to the same result.
"""

from __future__ import annotations

import re
from collections.abc import Container
from dataclasses import dataclass
from pathlib import Path

from nasnet_det.safe_io.files import replacing
from nasnet_det.search.storage import StudyError


@dataclass(frozen=True)
class Checkpoints:
    """A folder with a file for each child that waits.

    Args:
        folder: created with the first checkpoint.
    """

    folder: Path

    def read(self, trial: int) -> bytes | None:
        """Return a trial's checkpoint, or None without one."""
        path = self._path(trial)
        try:
            return path.read_bytes() if path.is_file() else None
        except OSError:
            return None

    def write(self, trial: int, content: bytes) -> None:
        """Replace a trial's checkpoint.

        Raises:
            StudyError: if it cannot be written.
        """
        try:
            with replacing(self._path(trial)) as part:
                part.write_bytes(content)
        except OSError as error:
            raise StudyError(
                f"the child's checkpoint {self._path(trial)} cannot be written: {error.strerror or error}; "
                "make room, then run the same command again"
            ) from None

    def remove(self, trial: int) -> None:
        """Remove a trial's checkpoint if there is one."""
        self._path(trial).unlink(missing_ok=True)

    def keep_only(self, trials: Container[int]) -> None:
        """Remove the checkpoints of all trials but these, and what a killed search was writing."""
        for path in self.folder.glob("*trial_*"):
            number = re.fullmatch(r"(\.?)trial_(\d+)\.pt(\.\w+\.part)?", path.name, re.ASCII)
            if number and (number[1] or int(number[2]) not in trials):
                path.unlink()

    def _path(self, trial: int) -> Path:
        return self.folder / f"trial_{trial:06d}.pt"
