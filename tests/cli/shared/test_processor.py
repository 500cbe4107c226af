"""Settings of a process that computes on a CPU."""

from __future__ import annotations

import ctypes
import os

import pytest

from nasnet_det.cli.shared.processor import keep_freed_memory, prepare_processor


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


@pytest.mark.parametrize(("policy", "expected"), [(None, "PASSIVE"), ("ACTIVE", "ACTIVE")])
def test_threads_wait_passively_unless_the_user_decides(
    libc: Libc, monkeypatch: pytest.MonkeyPatch, policy: str | None, expected: str
) -> None:
    monkeypatch.setenv("OMP_WAIT_POLICY", policy or "")
    if policy is None:
        monkeypatch.delenv("OMP_WAIT_POLICY")
    prepare_processor()
    assert os.environ["OMP_WAIT_POLICY"] == expected
