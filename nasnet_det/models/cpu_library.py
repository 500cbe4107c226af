"""Libraries compiled from a C++ file of this package on first use, for :mod:`~nasnet_det.models.cpu_kernels`."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import hashlib
import logging
import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from nasnet_det.safe_io.cache import cache_folder
from nasnet_det.safe_io.files import replacing
from nasnet_det.safe_io.values import first_line

logger = logging.getLogger(__name__)
_COMPILE = ("-O3", "-march=native", "-std=c++17", "-fPIC", "-fopenmp", "-c")
_SECONDS = 120


@functools.cache
def load_library(source: Path) -> ctypes.CDLL | None:
    """Compile and load a C++ file for this processor, or load what was compiled before.

    The compiler is the first of ``$CXX``, g++ and c++ that can; a warning tells of a ``$CXX`` that cannot. The library
    is kept in the cache's folder. OpenMP's functions are those that the process has loaded, which are PyTorch's.

    Args:
        source: the C++ file, of functions under ``extern "C"``; headers that it includes are in its folder.

    Returns:
        the library; None, with the reason logged, if compiling or loading fails or the system is not Linux.
    """
    if sys.platform != "linux":
        return None
    named = os.environ.get("CXX")
    for command in dict.fromkeys(filter(None, (named, "g++", "c++"))):
        try:
            return _library(source, shlex.split(command))
        except (OSError, ValueError, subprocess.SubprocessError) as error:
            words = " ".join(str(getattr(error, "stderr", None) or first_line(error)).split())[:300]
            level = logging.WARNING if command == named else logging.INFO  # nobody asked for the others
            logger.log(level, f"{source.name} is not compiled by {command}: {words}")
    return None


def _library(source: Path, compiler: Sequence[str]) -> ctypes.CDLL:
    """Return the library that a compiler makes, or has made before.

    Raises:
        OSError, SubprocessError: if it cannot be made or loaded.
    """
    kept = cache_folder() / f"{source.stem}-{_digest(source, compiler)}.so"
    if (library := _load_kept(kept)) is not None:
        return library
    with tempfile.TemporaryDirectory() as folder:
        made = _compile(compiler, source, Path(folder))
        with contextlib.suppress(OSError), replacing(kept) as target:
            data = made.read_bytes()
            target.write_bytes(data + hashlib.sha256(data).digest())
        return _load_kept(kept) or _load(made)


def _load_kept(library: Path) -> ctypes.CDLL | None:
    """Load a library of the cache; None if it is not there, does not end with its own hash (a damaged one would end the
    process), or is where this user may read or execute nothing."""
    try:
        data = library.read_bytes()
        return _load(library) if hashlib.sha256(data[:-32]).digest() == data[-32:] else None
    except OSError:
        return None


def _load(library: Path) -> ctypes.CDLL:
    return ctypes.CDLL(str(library), mode=os.RTLD_NOW)


def _digest(source: Path, compiler: Sequence[str]) -> str:
    """Return a hash of all that a library depends on: the file, the headers beside it, the compiler and the processor's
    instructions."""
    version = subprocess.run([*compiler, "--version"], capture_output=True, check=True, timeout=_SECONDS).stdout
    processor = next(
        (line for line in Path("/proc/cpuinfo").read_bytes().splitlines() if line.startswith(b"flags")), b""
    )
    files = (source, *sorted(source.parent.glob("*.h")))
    parts = (*(file.read_bytes() for file in files), version, processor, " ".join(_COMPILE).encode())
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]


def _compile(compiler: Sequence[str], source: Path, folder: Path) -> Path:
    compiled, library = folder / "compiled.o", folder / "library.so"
    # Linked without -fopenmp, so that no second OpenMP is loaded.
    for arguments in ((*_COMPILE, str(source), "-o", str(compiled)), ("-shared", str(compiled), "-o", str(library))):
        subprocess.run(
            [*compiler, *arguments], capture_output=True, text=True, errors="replace", check=True, timeout=_SECONDS
        )
    return library
