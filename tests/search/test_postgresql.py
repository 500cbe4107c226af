"""A search on a real PostgreSQL server, started here on the loopback address."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("optuna")
pytest.importorskip("psycopg2")
import optuna

from nasnet_det.search.storage import StudyError
from nasnet_det.search.study import Study
from tests.helpers import kill_at_random
from tests.search.fakes import outcome, run_search, same_state


def find_server() -> Path | None:
    """The folder of PostgreSQL's programs; Debian keeps them off the path."""
    found = shutil.which("pg_ctl")
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin")) if found is None else [Path(found).parent]
    return folders[-1] if folders and (folders[-1] / "initdb").exists() else None


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """The URL of a fresh server, gone afterwards. It refuses to run as root, so root hands it to ``postgres``."""
    programs = find_server()
    if programs is None:
        pytest.skip("no PostgreSQL server here (apt-get install postgresql)")
    user = None
    if os.geteuid() == 0:
        try:
            user = pwd.getpwnam("postgres")
        except KeyError:
            pytest.skip("root may not run a PostgreSQL server, and there is no user postgres")
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    # A folder of its own under /tmp: pytest's is root's alone.
    folder = Path(tempfile.mkdtemp(prefix="nasnet_det-postgresql-", dir="/tmp"))
    if user is not None:
        os.chown(folder, user.pw_uid, user.pw_gid)

    def run(program: str, *arguments: str) -> None:
        identity = {} if user is None else {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
        log = (folder / "log").open("a") if user is None else subprocess.DEVNULL
        subprocess.run(
            [programs / program, "-D", folder / "data", *arguments],
            check=True,
            cwd=folder,
            stdout=log,
            stderr=log,
            timeout=120,
            **identity,
        )

    try:
        run("initdb", "-U", "searcher", "-A", "trust", "-E", "UTF8", "--no-sync")
        options = f"-h 127.0.0.1 -p {port} -k {folder} -F"
        run("pg_ctl", "-w", "-t", "100", "-l", str(folder / "server.log"), "-o", options, "start")
        try:
            yield f"postgresql+psycopg2://searcher:pass@127.0.0.1:{port}/postgres"
        finally:
            run("pg_ctl", "-w", "-m", "immediate", "stop")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def test_a_search_on_postgresql_is_that_on_sqlite(server: str, tmp_path: Path) -> None:
    run_search(tmp_path / "sqlite", "ppo", 45, pending=3)
    run_search(tmp_path / "server", "ppo", 45, pending=3, storage=server)
    assert outcome(tmp_path / "server", server) == outcome(tmp_path / "sqlite")
    assert same_state(tmp_path / "server", tmp_path / "sqlite")
    study = optuna.load_study(study_name="fake", storage=server)
    assert len(study.trials) == 45 and study.best_trial.user_attrs["genotype"]["format"] == "nasnet_det.genotype"
    study._storage.remove_session()
    with pytest.raises(StudyError, match=r"seed .*the default.*\b1\b") as caught:
        Study.open(server, "fake", {"seed": 1})
    assert "pass" not in str(caught.value)
    optuna.delete_study(study_name="fake", storage=server)


def test_a_driver_killed_on_postgresql_loses_nothing(server: str, tmp_path: Path) -> None:
    run_search(tmp_path / "calm", "guided", 40, pending=2)
    kill_at_random(search_there, (tmp_path / "killed", server), 5, 1.0, seed=4)
    assert outcome(tmp_path / "killed", server) == outcome(tmp_path / "calm")
    assert same_state(tmp_path / "killed", tmp_path / "calm")


def search_there(out: Path, server: str) -> None:
    run_search(out, "guided", 40, pending=2, storage=server)
