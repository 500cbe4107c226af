"""A server on this machine, and a cache of each test's own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from nasnet_det.weights.cache import CACHE_VARIABLE
from tests.weights.stored import Server, serving


@pytest.fixture
def server() -> Iterator[Server]:
    """A server to put files on."""
    with serving() as running:
        yield running


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the test's own, so that no test reads or fills the user's."""
    folder = tmp_path / "cache"
    monkeypatch.setenv(CACHE_VARIABLE, str(folder))
    return folder
