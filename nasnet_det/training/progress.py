"""Lines about a training within its epochs, for logs: what a progress bar shows on a terminal."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from tqdm import tqdm

#: Seconds until the first line, and the longest between two; in between they double.
_FIRST, _LONGEST = 10.0, 600.0


@dataclass
class StepLines:
    """Lines about the speed of training, now and then; called at every step, as ``tick`` of
    :func:`~nasnet_det.training.run.fit` is.

    Args:
        total: the number of steps of the training.
        batch_size: images in a step.
        log: called with a line.
    """

    total: int
    batch_size: int
    log: Callable[[str], None]
    _loss: str = ""
    _first: int | None = None
    _began: float = 0.0
    _wait: float = field(default_factory=lambda: _FIRST)
    _told: float = field(default_factory=time.monotonic)

    def __call__(self, step: int, loss: float | None) -> None:
        """Take note of a step; ``loss`` is the epoch's mean, where it is known."""
        now = time.monotonic()
        self._loss = self._loss if loss is None else f"  loss {loss:.4f}"
        if self._first is None:  # the first compiles and captures
            self._first, self._began = step, now
        elif now - self._told >= self._wait and now > self._began:
            speed = (step - self._first) / (now - self._began)
            left = tqdm.format_interval((self.total - step) / speed)
            self.log(f"step {step}/{self.total}{self._loss}  {speed * self.batch_size:.0f} images/s  {left} left")
            self._told, self._wait = now, min(2 * self._wait, _LONGEST)
