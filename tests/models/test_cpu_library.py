"""Libraries are compiled once and kept; without a compiler there are none, and no error."""

from __future__ import annotations

import logging
import pwd
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from nasnet_det.models import cpu_library
from nasnet_det.models.cpu_library import load_library

pytestmark = pytest.mark.skipif(sys.platform != "linux" or not shutil.which("g++"), reason="no g++ on Linux")


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A C++ file with a header, and a cache of its own."""
    monkeypatch.setenv("NASNET_DET_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("CXX", raising=False)
    load_library.cache_clear()
    path = tmp_path / "twice.cpp"
    (tmp_path / "factor.h").write_text("constexpr int factor = 2;")
    path.write_text('#include "factor.h"\nextern "C" int twice(int value) { return factor * value; }')
    return path


def twice(source: Path, value: int) -> int:
    """Return what the compiled function makes of a number."""
    library = load_library(source)
    assert library is not None
    return library.twice(value)


@pytest.mark.parametrize("changed", ["factor.h", "twice.cpp"])
def test_a_library_is_compiled_once_unless_its_files_change(
    source: Path, changed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert twice(source, 21) == 42
    (kept,) = (source.parent / "cache").iterdir()
    load_library.cache_clear()
    monkeypatch.setattr(cpu_library, "_compile", lambda *arguments: pytest.fail("compiled again"))
    assert load_library(source) is not None
    load_library.cache_clear()
    monkeypatch.undo()
    monkeypatch.setenv("NASNET_DET_CACHE", str(source.parent / "cache"))
    file = source.parent / changed
    file.write_text(file.read_text().replace("= 2", "= 4").replace("factor *", "2 * factor *"))
    assert twice(source, 21) == 84 and kept.exists()


@pytest.mark.parametrize(
    "damage", [lambda data: b"", lambda data: data[:4000], lambda data: data[:-4000] + data[:4000]]
)
def test_a_damaged_library_is_compiled_again(source: Path, damage: Callable[[bytes], bytes]) -> None:
    load_library(source)
    (kept,) = (source.parent / "cache").iterdir()
    whole = kept.read_bytes()
    kept.unlink()  # this process uses the file
    kept.write_bytes(damage(whole))
    load_library.cache_clear()
    assert twice(source, 21) == 42 and len(kept.read_bytes()) == len(whole)


def test_a_cache_that_cannot_be_written_is_done_without(source: Path) -> None:
    (source.parent / "cache").write_text("a file in its place")
    assert twice(source, 21) == 42


def test_a_library_that_may_not_be_executed_where_it_is_kept_is_loaded_from_elsewhere(
    source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a home that is mounted without execution."""
    load: Callable[[Path], object] = cpu_library._load

    def refuse(library: Path) -> object:
        if library.parent == source.parent / "cache":
            raise PermissionError(library)
        return load(library)

    monkeypatch.setattr(cpu_library, "_load", refuse)
    assert twice(source, 21) == 42


def test_a_user_without_a_home_trains_without_compiled_functions(
    source: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As in a container that is run under any number."""
    caplog.set_level(logging.INFO, cpu_library.__name__)
    for name in ("NASNET_DET_CACHE", "TORCH_HOME", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", {}.__getitem__)
    assert load_library(source) is None and "NASNET_DET_CACHE" in caplog.text


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


@pytest.mark.parametrize("compiler", ["false", "no-such-compiler -O1", "'", "g++ -no-such-option"])
def test_a_compiler_of_the_users_that_cannot_compile_is_told_and_another_is_used(
    source: Path, compiler: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("CXX", compiler)
    assert twice(source, 21) == 42
    (record,) = caplog.records
    assert record.levelname == "WARNING" and compiler in record.message
    load_library.cache_clear()
    caplog.clear()
    monkeypatch.setenv("CXX", "g++ -O1")
    assert load_library(source) is not None and not caplog.records
