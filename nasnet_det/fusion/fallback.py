"""When the plain path is taken instead of a faster one, and saying so once."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cache
from typing import Any


@cache
def warn_once(text: str) -> None:
    """Say what runs as it is, once a process."""
    warnings.warn(text, stacklevel=2)


@cache
def fault_of(trial: Callable[..., None], *setting: Any) -> str:
    """What keeps a kernel from being used in a setting; empty if nothing does. Found out once a process.

    A kernel is compiled for the GPU that it meets, by the Triton that is installed. Both are many, so it is tried on a
    sample first: a slower path is better than none, and than wrong numbers.

    Args:
        trial: called with ``setting``; raises if the kernel cannot be compiled, does not run, or computes something
            else than it should.
    """
    try:
        trial(*setting)
    except Exception as error:  # whatever compilers and drivers raise
        words = " ".join(str(error).split())[:200] or type(error).__name__
        return f"its kernels failed their trial on {', '.join(map(str, setting))} ({words})"
    return ""
