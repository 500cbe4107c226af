"""Stopping long work between two steps when SIGINT or SIGTERM comes."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def stop_on_signal() -> Iterator[Callable[[], bool]]:
    """Yield a function that tells whether SIGINT or SIGTERM came; a second one ends the process as usual.

    Such a signal often reaches the whole process group, and with it the workers of a PyTorch loader. The step in
    progress then still ends: PyTorch's error about a worker's death, which could come anywhere in it, is held back.
    """
    came = threading.Event()
    before: dict[signal.Signals, Any] = {}

    def note(number: int, frame: Any) -> None:
        came.set()
        signal.signal(number, before[signal.Signals(number)])
        if hasattr(signal, "SIGCHLD"):  # not on Windows
            before.setdefault(signal.SIGCHLD, signal.signal(signal.SIGCHLD, signal.SIG_DFL))

    if threading.current_thread() is threading.main_thread():
        before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield came.is_set
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
