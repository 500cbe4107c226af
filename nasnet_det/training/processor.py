"""Settings of a process that computes on a CPU: how its memory is kept and how its threads wait."""

from __future__ import annotations

import ctypes
import os

#: glibc's mallopt parameters (malloc.h) with the environment variables of the same meaning and our values: allocations
#: up to 32 MiB come from the heap, and the heap is not trimmed.
_MALLOPT = {-3: ("MALLOC_MMAP_THRESHOLD_", 32 * 2**20), -1: ("MALLOC_TRIM_THRESHOLD_", 2**31 - 1)}

#: How threads of OpenMP wait: GNU's, of PyTorch's Linux packages, for about 20 microseconds before they sleep.
_WAITING = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "2000"}


def prepare_processor() -> None:
    """Set up this process, and those that it starts, for computing on a CPU; call it before PyTorch is imported.

    Threads of OpenMP wait actively for some microseconds, which the short operations of small networks need, and sleep
    after that: spinning longer takes the processor of a busy machine from the thread that they wait for.
    ``OMP_WAIT_POLICY`` or ``GOMP_SPINCOUNT`` in the environment overrides this.
    """
    if not os.environ.keys() & _WAITING.keys():
        os.environ.update(_WAITING)
    keep_freed_memory()


def keep_freed_memory() -> None:
    """Let glibc keep freed memory for later allocations of this process and of those that it starts.

    By default glibc returns large freed blocks to the system, so that every training step maps the memory of its
    activations again, which takes a quarter of a small network's step (``docs/speed.md``). A variable that is set in
    the environment is left alone, and so are other C libraries.
    """
    for parameter, (variable, value) in _MALLOPT.items():
        if variable not in os.environ:
            os.environ[variable] = str(value)
            try:
                ctypes.CDLL(None).mallopt(parameter, value)
            except (AttributeError, OSError, TypeError):  # not glibc
                return
