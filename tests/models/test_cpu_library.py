"""Libraries are compiled once and kept; without a compiler there are none, and no error."""

from __future__ import annotations

import logging
import shutil
import sys
from pathlib import Path

import pytest

from nasnet_det.models import cpu_library
from nasnet_det.models.cpu_library import load_library

pytestmark = pytest.mark.skipif(sys.platform != "linux" or not shutil.which("g++"), reason="no g++ on Linux")


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A C++ file, and a cache of its own."""
    monkeypatch.setenv("NASNET_DET_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("CXX", raising=False)
    load_library.cache_clear()
    path = tmp_path / "twice.cpp"
    path.write_text('extern "C" int twice(int value) { return 2 * value; }')
    return path


def test_a_library_is_compiled_once(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library = load_library(source)
    assert library is not None and library.twice(21) == 42
    (kept,) = (source.parent / "cache").iterdir()
    load_library.cache_clear()
    monkeypatch.setattr(cpu_library, "_compile", lambda *arguments: pytest.fail("compiled again"))
    assert load_library(source) is not None
    load_library.cache_clear()
    monkeypatch.undo()
    monkeypatch.setenv("NASNET_DET_CACHE", str(source.parent / "cache"))
    source.write_text(source.read_text().replace("2 *", "4 *"))
    changed = load_library(source)
    assert changed is not None and changed.twice(21) == 84 and kept.exists()


def test_a_cache_that_cannot_be_written_is_done_without(source: Path) -> None:
    (source.parent / "cache").write_text("a file in its place")
    library = load_library(source)
    assert library is not None and library.twice(21) == 42


def test_what_cannot_be_compiled_is_logged(
    source: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, cpu_library.__name__)
    source.write_text("no C++")
    assert load_library(source) is None and "twice.cpp" in caplog.text
    assert not (source.parent / "cache").exists()
    load_library.cache_clear()
    caplog.clear()
    monkeypatch.setenv("PATH", str(source.parent))
    assert load_library(source) is None and "g++" in caplog.text
