"""Folders that one process at a time works in."""

from __future__ import annotations

import errno
import signal
from pathlib import Path

import pytest

from nasnet_det.safe_io.locks import FolderInUseError, working_in
from tests.helpers import another_process


def test_one_process_works_in_a_folder(tmp_path: Path) -> None:
    pytest.importorskip("fcntl")
    folder = tmp_path / "new"
    with another_process("locks", f"working_in(Path({str(folder)!r}))") as process:
        with pytest.raises(FolderInUseError, match=folder.name), working_in(folder):
            pass
        process.send_signal(signal.SIGKILL)
        process.wait()
        with working_in(folder), working_in(tmp_path / "newer"):
            (folder / "a").touch()
    assert [path.name for path in tmp_path.rglob("*")] == ["new", "a"]


def test_a_file_in_the_folder_s_place_is_named(tmp_path: Path) -> None:
    (tmp_path / "taken").touch()
    for folder in (tmp_path / "taken", tmp_path / "taken" / "below"):
        with pytest.raises(NotADirectoryError) as error, working_in(folder):
            pass
        assert error.value.filename == str(tmp_path / "taken")


def test_a_file_system_without_locks_is_worked_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fcntl = pytest.importorskip("fcntl")

    def refuse(*arguments: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "lockf", refuse)
    with working_in(tmp_path / "new"):
        assert (tmp_path / "new").is_dir()
