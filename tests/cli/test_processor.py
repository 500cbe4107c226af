"""Settings of a process that computes on a CPU."""

from __future__ import annotations

import ctypes

import pytest

from nasnet_det.cli.processor import keep_freed_memory


class Libc:
    def __init__(self) -> None:
        self.calls: list[tuple[int, int]] = []

    def mallopt(self, parameter: int, value: int) -> int:
        self.calls.append((parameter, value))
        return 1


@pytest.fixture
def libc(monkeypatch: pytest.MonkeyPatch) -> Libc:
    made = Libc()
    monkeypatch.setattr(ctypes, "CDLL", lambda name: made)
    monkeypatch.delenv("MALLOC_TRIM_THRESHOLD_", raising=False)
    monkeypatch.setenv("MALLOC_MMAP_THRESHOLD_", "1000")
    return made


def test_freed_memory_is_kept_but_for_what_the_user_set(libc: Libc, monkeypatch: pytest.MonkeyPatch) -> None:
    keep_freed_memory()
    assert libc.calls == [(-1, 2**31 - 1)]


def test_other_c_libraries_are_left_alone(libc: Libc, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    keep_freed_memory()
    assert not libc.calls
