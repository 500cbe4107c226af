"""A search's folder: the study it belongs to, a lock against a second search, and the files beside the study."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nasnet_det.safe_io.files import write_text
from nasnet_det.safe_io.locks import working_in
from nasnet_det.safe_io.values import reason
from nasnet_det.search.checkpoints import Checkpoints
from nasnet_det.search.storage import StudyError, storage_url
from nasnet_det.search.study import Study

SEARCH, RETRAINED = "search", "retrained"
#: The least free space on the folder's disk to begin a search: a strategy's state, twice, and some trials.
_LEAST_FREE = 64 * 2**20


class SearchFolder:
    """A folder with ``study.db``, ``search.json``, the strategies' states and children that wait for their next rung.

    Args:
        path: the folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def checkpoints(self) -> Checkpoints:
        """The checkpoints of children that wait for their next rung."""
        return Checkpoints(self.path / "children")

    def state(self, phase: str) -> Path:
        """Return the file of the strategy's state."""
        return self.path / f"{phase}.safetensors"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Create the folder and keep other searches out of it.

        Raises:
            FolderInUseError: if another search is running there.
            StudyError: if its disk has no room.
            OSError: if it cannot be made or written to.
        """
        with working_in(self.path):
            if (free := shutil.disk_usage(self.path).free) < _LEAST_FREE:
                raise StudyError(f"{self.path}: only {free / 2**20:.0f} MiB are free on its disk; make room first")
            yield

    def make_study(
        self,
        phase: str,
        identity: Mapping[str, Any],
        adopt: Mapping[str, Any],
        storage: str | None = None,
        name: str | None = None,
    ) -> Study:
        """Open or create the study of a phase and note where it is.

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
        """Open the study of a phase, which must exist.

        Args:
            storage: the database URL, where it needs a password.

        Raises:
            StudyError: if it does not.
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
            return {"storage": _shareable(noted["storage"]), "study": str(noted["study"])}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise StudyError(f"{path} cannot be read: {reason(error)}") from None


def _named(base: str, phase: str) -> str:
    return base if phase == SEARCH else f"{base}-{phase}"


def _shareable(storage: str | None) -> str | None:
    """Return a database URL as it may be written to a file: without its password."""
    # URL.set takes None for "unchanged", and a password that is there is written as ***.
    return None if storage is None else storage_url(storage)._replace(password=None).render_as_string()
