"""A search's folder and its lock."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

pytest.importorskip("optuna")

from nasnet_det.search.run_folder import SearchFolder


def test_a_search_runs_where_the_file_system_has_no_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fcntl = pytest.importorskip("fcntl")

    def refuse(*arguments: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with SearchFolder(tmp_path / "search").locked():
        assert (tmp_path / "search").is_dir()
