"""The surroundings of the commands that read or write searches: Optuna, and signals that stop."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from nasnet_det.cli.shared.errors import needs


@contextmanager
def search_context() -> Iterator[Callable[[], bool]]:
    """Let Optuna log warnings only, and let SIGINT and SIGTERM stop a search at once; exit if Optuna is not installed.

    Yields a function that tells whether a signal came: Python drops an exception that a signal raises within a
    destructor or callback, so a search asks after every child as well.
    """
    with needs():
        import optuna

    came: list[int] = []

    def stop(number: int, frame: Any) -> None:
        came.append(number)
        raise KeyboardInterrupt

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(came)
    except KeyboardInterrupt:
        raise KeyboardInterrupt("stopped; run the same command again to continue") from None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
