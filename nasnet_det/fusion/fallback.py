"""Saying once that something takes the plain path."""

from __future__ import annotations

import warnings
from functools import cache


@cache
def warn_once(text: str) -> None:
    """Say what runs as it is, once a process."""
    warnings.warn(text, stacklevel=2)
