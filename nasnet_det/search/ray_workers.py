"""Workers on Ray: on a cluster, or on this machine alone.

A worker is a Ray actor, a process of its own that keeps the data on its device from child to child. An actor that dies
(killed, out of memory, its machine gone) is replaced by a new one, wherever there is room, and its child
is reported as *lost*.
"""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import ray
from ray.exceptions import RayActorError, RayError, RayTaskError

from nasnet_det.search.child import DeviceLost, Trained
from nasnet_det.search.workers import Evaluator, Job, Outcome, WorkersError

_CONNECT_SECONDS = 10
_START_SECONDS = 300
_START_ATTEMPTS = 3
#: Seconds without a result after which the children in training are named.
_TELL_SECONDS = 300.0


class _Actor:
    """The actor in a worker's process."""

    def __init__(self, evaluator: Evaluator) -> None:
        self.evaluator = evaluator

    def check(self) -> None:
        self.evaluator.check()

    def evaluate(self, job: Job) -> Trained:
        return self.evaluator(job)

    def process(self) -> int:
        return os.getpid()


class RayWorkers:
    """Children on Ray's actors.

    Args:
        evaluator: what they do.
        count: how many workers; None for as many as the cluster has room for now.
        address: of a running cluster (``host:port``, ``ray://host:port`` or ``auto``); None starts Ray here.
        gpus: what each worker asks for; may be a fraction, so that several share a GPU.
        cpus: likewise.
        log: called with a line about the children in training now and then.

    Raises:
        WorkersError: without a cluster at the address, or if it has no room for a single worker.
    """

    def __init__(
        self,
        evaluator: Evaluator,
        count: int | None = None,
        address: str | None = None,
        gpus: float = 0.0,
        cpus: float = 1.0,
        log: Callable[[str], None] = lambda line: None,
    ) -> None:
        self._log = log
        with _signals_kept():
            self._connect(address, count, cpus)
        try:
            room = self._room(cpus, gpus)
            if room < 1:
                raise WorkersError(
                    f"a worker asks Ray for {cpus:g} CPUs and {gpus:g} GPUs, but the cluster has "
                    f"{ray.cluster_resources().get('CPU', 0):g} and {ray.cluster_resources().get('GPU', 0):g} in all"
                )
            self.slots = count or room
            self._evaluator = ray.put(evaluator)
            options: dict[str, Any] = {"num_cpus": cpus, "num_gpus": gpus, "max_restarts": 0}
            self._make = ray.remote(_Actor).options(**options).remote
            self._idle: deque[Any] = deque(self._make(self._evaluator) for _ in range(self.slots))
            #: The job and the actor of each child in training, and when it began.
            self._running: dict[Any, tuple[Job, Any, float]] = {}
        except BaseException:
            ray.shutdown()
            raise

    def check(self) -> None:
        """Check in one worker that children can be trained.

        Raises:
            WorkersError: if no worker starts; else what the evaluator raises.
        """
        done, _ = ray.wait([actor.check.remote() for actor in self._idle], num_returns=1, timeout=_START_SECONDS)
        if not done:
            raise WorkersError(f"no worker has started in {_START_SECONDS} s: is the cluster busy with other work?")
        try:
            ray.get(done[0])
        except RayTaskError as error:
            raise error.cause from None
        except RayError as error:
            raise WorkersError(f"a worker died as it started: {_words(error)}") from None

    def submit(self, job: Job) -> None:
        actor = self._idle.popleft()
        self._running[actor.evaluate.remote(job)] = job, actor, time.monotonic()

    def wait(self) -> list[Outcome]:
        done: list[Any] = []
        while not done:
            done, _ = ray.wait(list(self._running), num_returns=1, timeout=_TELL_SECONDS)
            if not done:
                minutes = [(job.trial, (time.monotonic() - began) / 60) for job, _, began in self._running.values()]
                self._log("in training: " + ", ".join(f"child {trial} for {m:.0f} min" for trial, m in minutes))
        return [self._outcome(reference) for reference in done]

    def processes(self) -> list[int]:
        """The process ids of the idle workers, each on its own machine."""
        return ray.get([actor.process.remote() for actor in self._idle])

    def close(self) -> None:
        ray.shutdown()

    def _outcome(self, reference: Any) -> Outcome:
        job, actor, _ = self._running.pop(reference)
        try:
            trained = ray.get(reference)
        except RayTaskError as error:
            if not isinstance(error.cause, DeviceLost):
                raise error.cause from None
            ray.kill(actor)  # its process cannot use the device any more
            return self._replace(job, str(error.cause))
        except RayActorError as error:
            return self._replace(job, _words(error))
        except RayError as error:
            raise WorkersError(f"Ray failed: {_words(error)}; the same command continues the search") from None
        self._idle.append(actor)
        return Outcome(job.number, trained)

    def _replace(self, job: Job, words: str) -> Outcome:
        self._idle.append(self._make(self._evaluator))
        return Outcome(job.number, None, words)

    def _room(self, cpus: float, gpus: float) -> int:
        have = ray.cluster_resources()
        asked = {"CPU": cpus, "GPU": gpus}
        return int(min((have.get(name, 0.0) / amount + 1e-9 for name, amount in asked.items() if amount), default=1))

    @staticmethod
    def _connect(address: str | None, count: int | None, cpus: float) -> None:
        if ray.is_initialized():
            raise WorkersError("this process uses Ray already")
        quiet: dict[str, Any] = {"logging_level": "ERROR", "log_to_driver": False}
        if address is None:
            # Workers on this machine share its cores as its system sees fit: as many as asked for, they start.
            cores = max(os.cpu_count() or 1, int((count or 1) * cpus + 0.999))
            _start_here(num_cpus=cores, include_dashboard=False, **quiet)
            return
        _reach(address)
        try:
            ray.init(address=address, **quiet)
        except (ConnectionError, RuntimeError, ValueError, RayError, TimeoutError) as error:
            raise WorkersError(f"no Ray cluster can be used at {address}: {_words(error)}") from None


@contextmanager
def _signals_kept() -> Iterator[None]:
    """Keep this process's handler of SIGTERM: Ray sets one that ends the process with a stack trace."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)


def _start_here(**options: Any) -> None:
    """Start Ray on this machine; on a busy one its processes may need longer than it waits for them, so try again."""
    for attempt in reversed(range(_START_ATTEMPTS)):
        try:
            ray.init(address="local", **options)  # not a cluster that others started on this machine
            return
        except Exception as error:  # Ray raises a bare Exception if its processes take too long
            ray.shutdown()
            if not attempt:
                raise WorkersError(
                    f"Ray does not start on this machine: {_words(error)}; --workers 0 does without it"
                ) from None


def _reach(address: str) -> None:
    """Check within seconds that something listens at an address; Ray itself would try for minutes."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if address in ("auto", "local") or not (colon and port.isdigit()):
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_SECONDS).close()
    except OSError as error:
        raise WorkersError(
            f"nothing answers at Ray address {address} ({error.strerror or error}); start the cluster "
            "(ray start --head), or leave --ray out to use this machine alone"
        ) from None


def _words(error: BaseException) -> str:
    """Return the message of an error of Ray in one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines)[:300] or type(error).__name__
