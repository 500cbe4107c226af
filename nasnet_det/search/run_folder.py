"""A search's folder: which study it is of, one search at a time, and what is kept beside the study."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nasnet_det.safe_io.files import write_text
from nasnet_det.search.study import Study, StudyError, storage_url

try:
    import fcntl
except ImportError:  # Windows: two searches in one folder are then not noticed before they write
    fcntl = None  # type: ignore[assignment]

SEARCH, RETRAINED = "search", "retrained"
#: What must be free on the folder's disk before a search begins: a strategy's state, twice, and some trials.
_LEAST_FREE = 64 * 2**20


class RunFolder:
    """``study.db``, ``search.json`` and the strategies' states.

    Args:
        path: the folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def state(self, phase: str) -> Path:
        """The file of the strategy's state."""
        return self.path / f"{phase}.safetensors"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Make the folder and keep other searches out of it.

        Raises:
            StudyError: if another one is at work there, or it cannot be made or has no room.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            free = shutil.disk_usage(self.path).free
            lock = (self.path / ".lock").open("w")
        except OSError as error:
            raise StudyError(f"{self.path} cannot be used: {error.strerror or error}") from None
        with lock:
            if free < _LEAST_FREE:
                raise StudyError(f"{self.path}: only {free / 2**20:.0f} MiB are free on its disk; make room first")
            try:
                if fcntl is not None:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise StudyError(
                    f"another search is at work in {self.path}; wait for it or choose another --out"
                ) from None
            yield

    def make_study(
        self,
        phase: str,
        identity: Mapping[str, Any],
        adopt: Mapping[str, Any],
        storage: str | None = None,
        name: str | None = None,
    ) -> Study:
        """Open or make the study of a phase and note where it is.

        Args:
            phase: ``search`` or ``retrained``.
            identity, adopt: as of :meth:`Study.open`.
            storage: a database URL; ``study.db`` in the folder if None.
            name: the study's name there; the folder's if None.

        Raises:
            StudyError: as :meth:`Study.open`; or if the folder's study is elsewhere.
        """
        noted = self._noted()
        place = storage or noted.get("storage")
        base = name or noted.get("study") or self.path.resolve().name
        wanted = {"storage": _shareable(place), "study": base}
        if noted and wanted != noted:
            raise StudyError(f"{self.path} is of study {noted['study']!r} in {noted['storage'] or 'study.db'}")
        study = Study.open(place or self.path / "study.db", _named(base, phase), identity, adopt)
        if not noted:
            write_text(self.path / "search.json", json.dumps(wanted, indent=2) + "\n")
        return study

    def open_study(self, phase: str, storage: str | None = None) -> Study:
        """The study of a phase, which must be there.

        Args:
            storage: the database URL, where it needs a password.

        Raises:
            StudyError: if it is not.
        """
        noted = self._noted()
        if not noted:
            raise StudyError(f"{self.path} is not the folder of a search (it has no search.json)")
        place = storage or noted.get("storage") or self.path / "study.db"
        return Study.open(place, _named(noted["study"], phase))

    def _noted(self) -> dict[str, Any]:
        path = self.path / "search.json"
        if not path.is_file():
            return {}
        try:
            noted = json.loads(path.read_text(encoding="utf-8"))
            return {"storage": noted["storage"], "study": str(noted["study"])}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise StudyError(f"{path} cannot be read: {error}") from None


def _named(base: str, phase: str) -> str:
    return base if phase == SEARCH else f"{base}-{phase}"


def _shareable(storage: str | None) -> str | None:
    """A database URL as it may lie in a file: without its password."""
    return None if storage is None else storage_url(storage).set(password=None).render_as_string()
