"""What a search's folder keeps of its study's place."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("optuna")

from nasnet_det.search.run_folder import SEARCH, SearchFolder
from nasnet_det.search.study import Study


@pytest.mark.parametrize("kept", ["postgresql+psycopg2://me@host/db", "postgresql+psycopg2://me:***@host/db"])
def test_a_password_is_neither_kept_nor_made_up(kept: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    monkeypatch.setattr(Study, "open", lambda place, *_: opened.append(place))
    folder = SearchFolder(tmp_path)
    folder.make_study(SEARCH, {}, {}, "postgresql+psycopg2://me:secret@host/db")
    noted = json.loads((tmp_path / "search.json").read_text())
    assert noted["storage"] == "postgresql+psycopg2://me@host/db"
    (tmp_path / "search.json").write_text(json.dumps({**noted, "storage": kept}))  # as earlier versions wrote it
    folder.make_study(SEARCH, {}, {})
    folder.make_study(SEARCH, {}, {}, "postgresql+psycopg2://me:secret@host/db")
    assert opened == [
        "postgresql+psycopg2://me:secret@host/db",
        "postgresql+psycopg2://me@host/db",
        "postgresql+psycopg2://me:secret@host/db",
    ]
