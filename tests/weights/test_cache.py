"""Fetched once, checked at every use: hashes, broken connections, damaged files, processes at the same time."""

from __future__ import annotations

import hashlib
import json
import socket
import threading
from pathlib import Path
from shutil import copyfile

import pytest

from nasnet_det.weights import WeightsError
from nasnet_det.weights.cache import cached
from nasnet_det.weights.download import Unreachable
from tests.weights.stored import Server

CONTENT = b"weights" * 1000


def kept(folder: Path) -> set[str]:
    """Return the files of a cache, without its locks."""
    return {path.name for path in folder.iterdir() if not path.name.endswith(".lock")} if folder.exists() else set()


def shout(source: Path, target: Path) -> None:
    target.write_bytes(source.read_bytes().upper())


def test_fetched_once_and_converted_then_offline(server: Server, cache: Path) -> None:
    server.files["a.h5"] = CONTENT
    path = cached(cache / "a", server.url("a.h5"), shout)
    assert path.read_bytes() == CONTENT.upper()
    server.files.clear()
    assert cached(cache / "a", server.url("a.h5"), shout) == path
    assert server.asked == ["a.h5"]
    record = json.loads((cache / "a.json").read_text())
    assert record["location"] == server.url("a.h5")
    assert record["sha256"] == hashlib.sha256(CONTENT).hexdigest()
    assert record["kept_sha256"] == hashlib.sha256(CONTENT.upper()).hexdigest()
    assert kept(cache) == {"a", "a.json"}


@pytest.mark.parametrize(
    "digest", [f"md5:{hashlib.md5(CONTENT).hexdigest()}", f"sha256:{hashlib.sha256(CONTENT).hexdigest()[:8]}"]
)
def test_the_published_hash_is_met(digest: str, server: Server, cache: Path) -> None:
    server.files["a.h5"] = CONTENT
    assert cached(cache / "a", server.url("a.h5"), digest=digest).is_file()


@pytest.mark.parametrize("digest", ["md5:0123", "sha256:4567"])
def test_another_hash_is_refused_and_nothing_kept(digest: str, server: Server, cache: Path) -> None:
    server.files["a.h5"] = CONTENT
    algorithm, _, expected = digest.partition(":")
    found = hashlib.new(algorithm, CONTENT).hexdigest()
    with pytest.raises(WeightsError, match=f"{found}.*{expected}"):
        cached(cache / "a", server.url("a.h5"), digest=digest)
    assert kept(cache) == set()


def test_the_hash_seen_first_is_kept_and_compared(server: Server, cache: Path) -> None:
    server.files["a.h5"] = CONTENT
    path = cached(cache / "a", server.url("a.h5"))
    path.unlink()
    server.files["a.h5"] = CONTENT + b"other"
    with pytest.raises(WeightsError, match=r"a\.json"):
        cached(cache / "a", server.url("a.h5"))
    assert not path.exists()
    (cache / "a.json").unlink()
    assert cached(cache / "a", server.url("a.h5")).read_bytes() == CONTENT + b"other"


def test_a_broken_connection_keeps_nothing(server: Server, cache: Path) -> None:
    server.files["a.h5"] = CONTENT
    server.claimed["a.h5"] = len(CONTENT) + 5
    with pytest.raises(Unreachable, match=r"a\.h5"):
        cached(cache / "a", server.url("a.h5"))
    assert kept(cache) == set()


def test_a_file_that_is_not_there(server: Server, cache: Path) -> None:
    with pytest.raises(Unreachable, match=r"nothing\.h5"):
        cached(cache / "a", server.url("nothing.h5"))
    assert kept(cache) == set()


def test_no_network_names_the_way_out(cache: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(Unreachable, match=r"a\.h5.*file=PATH"):
        cached(cache / "a", f"http://127.0.0.1:{port}/a.h5")
    assert kept(cache) == set()


def test_an_error_in_the_making_keeps_nothing(server: Server, cache: Path) -> None:
    def fail(source: Path, target: Path) -> None:
        target.write_bytes(b"half")
        raise WeightsError("another network's")

    server.files["a.h5"] = CONTENT
    with pytest.raises(WeightsError, match="another network's"):
        cached(cache / "a", server.url("a.h5"), fail)
    assert kept(cache) == set()
    assert cached(cache / "a", server.url("a.h5"), copyfile).read_bytes() == CONTENT


def test_a_changed_file_is_refused_until_it_is_deleted(server: Server, cache: Path) -> None:
    server.files["a.h5"] = CONTENT
    path = cached(cache / "a", server.url("a.h5"))
    path.write_bytes(CONTENT[:-1])
    with pytest.raises(WeightsError, match="cache/a"):
        cached(cache / "a", server.url("a.h5"))
    path.unlink()
    assert cached(cache / "a", server.url("a.h5")).read_bytes() == CONTENT


def test_a_file_without_its_record_is_fetched_again(server: Server, cache: Path) -> None:
    cache.mkdir()
    (cache / "a").write_bytes(b"left by a process that was killed")
    server.files["a.h5"] = CONTENT
    assert cached(cache / "a", server.url("a.h5")).read_bytes() == CONTENT


def test_an_unreadable_record_is_named(server: Server, cache: Path) -> None:
    cache.mkdir()
    (cache / "a.json").write_text("{")
    with pytest.raises(WeightsError, match=r"a\.json"):
        cached(cache / "a", server.url("a.h5"))


def test_a_cache_that_cannot_be_written_names_the_variable(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    server.files["a.h5"] = CONTENT
    with pytest.raises(WeightsError, match="NASNET_DET_CACHE"):
        cached(tmp_path / "file" / "a", server.url("a.h5"))


def test_many_at_once_fetch_once(server: Server, cache: Path) -> None:
    server.files["a.h5"] = CONTENT
    results: list[bytes] = []

    def use() -> None:
        results.append(cached(cache / "a", server.url("a.h5")).read_bytes())

    threads = [threading.Thread(target=use) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [CONTENT] * 8
    assert server.asked == ["a.h5"]
