"""Workers on Ray, local and on a running cluster: lost ones are replaced, a killed driver's search can continue."""

from __future__ import annotations

import atexit
import os
import random
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("ray")
pytest.importorskip("optuna")
import ray

from nasnet_det.genotypes.published import PUBLISHED
from nasnet_det.search import ray_workers
from nasnet_det.search.child import Trained
from nasnet_det.search.ray_workers import RayWorkers
from nasnet_det.search.workers import Job, WorkersError
from nasnet_det.training.data.cifar10 import DataError
from tests.helpers import kill_at_random
from tests.search.fakes import FakeChild, outcome, run_search, same_state


@pytest.fixture(autouse=True)
def importable_by_workers(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Workers must find this project and its tests, wherever pytest was started."""
    root = str(Path(__file__).resolve().parents[2])
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")])))
    monkeypatch.setenv("RAY_worker_niceness", "0")  # at Ray's 15 they wait for the other tests
    yield
    ray.shutdown()


class WithoutData(FakeChild):
    def check(self) -> None:
        raise DataError("no CIFAR-10 there")


class BadRun(FakeChild):
    def __call__(self, job: Job) -> Trained:
        raise DataError("the data are gone")


def ray_search(out: Path, strategy: str, trials: int, pending: int, evaluator: FakeChild, retries: int = 3) -> None:
    """A search with two workers."""
    workers = RayWorkers(evaluator, count=2, cpus=0.5)
    try:
        workers.check()
        run_search(out, strategy, trials, pending, workers=workers, retries=retries)
    finally:
        workers.close()


def kill_workers(processes: Path, kills: int, between: float) -> None:
    """Kill a worker that has evaluated something, now and then."""
    rng, killed = random.Random(0), 0
    deadline = time.monotonic() + 500
    while killed < kills and time.monotonic() < deadline:
        time.sleep(rng.uniform(0, between))
        for entry in sorted(processes.iterdir())[:1]:
            entry.unlink()
            try:
                os.kill(int(entry.name), signal.SIGKILL)
                killed += 1
            except ProcessLookupError:
                pass


@pytest.mark.parametrize("kills", [2, pytest.param(20, marks=pytest.mark.slow)])
def test_killed_workers_lose_nothing(kills: int, tmp_path: Path) -> None:
    trials = 20 + 6 * kills
    processes = tmp_path / "processes"
    processes.mkdir()
    killer = threading.Thread(target=kill_workers, args=(processes, kills, 1.0))
    killer.start()
    ray_search(tmp_path / "killed", "ppo", trials, 6, FakeChild(0.3, processes), retries=20)
    killer.join()
    run_search(tmp_path / "calm", "ppo", trials, 6)
    assert outcome(tmp_path / "killed") == outcome(tmp_path / "calm")
    assert same_state(tmp_path / "killed", tmp_path / "calm")


@pytest.mark.slow
def test_a_killed_driver_s_workers_go_and_its_search_goes_on(tmp_path: Path) -> None:
    arguments = (tmp_path / "killed", "ppo", 120, 6, FakeChild(0.2))
    began = time.monotonic()
    # A fork of a process that has used Ray hangs.
    kill_at_random(ray_search, (tmp_path / "timed", *arguments[1:]), 0, 0, seed=0, method="spawn")
    # Ray's start takes most of it, so most kills come before or soon after the first results.
    kill_at_random(ray_search, arguments, 20, time.monotonic() - began, seed=0, method="spawn")
    run_search(tmp_path / "calm", "ppo", 120, 6)
    assert outcome(tmp_path / "killed") == outcome(tmp_path / "calm")
    assert same_state(tmp_path / "killed", tmp_path / "calm")


def test_what_no_worker_can_do_is_said_before_any_child() -> None:
    with pytest.raises(WorkersError, match=r"127\.0\.0\.1:1"):
        RayWorkers(FakeChild(), 1, address="127.0.0.1:1")
    with pytest.raises(WorkersError, match="1000 GPUs"):
        RayWorkers(FakeChild(), 1, gpus=1000)
    terminated: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: terminated.append(number))
    workers = RayWorkers(WithoutData(), 1)
    try:
        os.kill(os.getpid(), signal.SIGTERM)  # whose handler Ray replaces
        assert terminated == [signal.SIGTERM]
        with pytest.raises(DataError, match="no CIFAR-10 there"):
            workers.check()
    finally:
        signal.signal(signal.SIGTERM, before)
        workers.close()


def test_what_an_evaluator_raises_ends_the_search(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="the data are gone"):
        ray_search(tmp_path, "random", 4, 2, BadRun())


def test_a_running_cluster_is_used_and_left_running(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two nodes of a CPU each, both on this machine: as many workers as they have room for."""
    from ray.cluster_utils import Cluster

    # A node's hook at exit keeps its connections. From Python 3.13 on a forked process drops the hooks it inherits, and
    # dies of closing these: so would those of later tests.
    monkeypatch.setattr(atexit, "register", lambda hook, *arguments, **options: hook)
    lines: list[str] = []
    monkeypatch.setattr(ray_workers, "_TELL_SECONDS", 0.05)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        cluster.add_node(num_cpus=1)
        for _ in range(2):
            workers = RayWorkers(FakeChild(0.3), address=cluster.address, log=lines.append)
            try:
                workers.check()
                assert workers.slots == 2
                workers.submit(Job(0, 7, PUBLISHED["nasnet_a"], seed=0))
                assert [outcome.number for outcome in workers.wait()] == [0]
                assert "child 7 for 0 min" in lines[-1]
            finally:
                workers.close()
    finally:
        cluster.shutdown()
