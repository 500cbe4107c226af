"""The engine of the fuzz tests: cases drawn from a seed, run under limits.

A case writes an input into its own empty folder and hands it to the package. It passes if the package works, or raises
one error of a documented type, a few lines long, that names the input; and if it left no file, ran no code of the input
and stayed within the limits of time and memory. Case 0 of every target is the unchanged input, which must work.

A case is a function of the target's name, ``--fuzz-seed`` and its number: ``--fuzz-only NUMBER`` repeats a failure.
"""

from __future__ import annotations

import faulthandler
import random
import resource
import shutil
import signal
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

#: The limits of a case: seconds of processor time, resident megabytes, and bytes of address space.
SECONDS, MEGABYTES, _ADDRESS_SPACE = 20.0, 768, 6 << 30
#: The longest error message that a user can still read.
LONGEST_MESSAGE = 1200
_DIFFERENT_FAILURES = 12


class Wrong(Exception):
    """A case that broke a rule of this module."""


class Hung(BaseException):
    """A case that took too long; no handler of the package catches it."""


@dataclass
class Case:
    """A case: its number, its generator and its empty folder; ``pristine`` if it must not change its input."""

    number: int
    random: random.Random
    folder: Path
    refused: bool = False

    @property
    def pristine(self) -> bool:
        return self.number == 0

    @contextmanager
    def allows(self, *errors: type[Exception], naming: Any = "", making: tuple[str, ...] = ()) -> Iterator[None]:
        """Run the package: it works and may write the files ``making``; or it raises one of ``errors``, with ``naming``
        in its message, and leaves the folder as before."""
        before = _listing(self.folder)
        try:
            yield
        except errors as error:
            self.refused = True
            _check_message(error, str(naming), self.pristine)
            making = ()
        left = {name for name, size in _listing(self.folder).items() if before.get(name) != size} - set(making)
        if left:
            raise Wrong(f"it left or changed {', '.join(sorted(left))}")


@dataclass
class Count:
    """The outcome of a target's cases."""

    target: str
    cases: int = 0
    refused: int = 0
    failures: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.target}: {self.cases} cases, {self.refused} refused, {len(self.failures)} different failures"


def run(target: str, attempt: Callable[[Case], None], numbers: range, seed: int, folder: Path) -> Count:
    """Run cases of a target; the folder of a case that fails is kept as ``folder/NUMBER``."""
    count = Count(target)
    for number in numbers:
        case = Case(number, random.Random(f"{target} {seed} {number}"), folder / str(number))
        case.folder.mkdir()
        try:
            with _limited():
                attempt(case)
        except (Exception, Hung) as error:
            _note(count, number, error)
            if isinstance(error, Hung) or len(count.failures) >= _DIFFERENT_FAILURES:
                break
        else:
            shutil.rmtree(case.folder)
        count.cases += 1
        count.refused += case.refused
    return count


@contextmanager
def _limited() -> Iterator[None]:
    """Limit time, address space and the peak of resident memory."""

    def hang(number: int, frame: FrameType | None) -> None:
        raise Hung(f"took more than {SECONDS:.0f} s, lately in {''.join(traceback.format_stack(frame, 2))}")

    before = signal.signal(signal.SIGPROF, hang)
    limits = resource.getrlimit(resource.RLIMIT_AS)
    Path("/proc/self/clear_refs").write_text("5")  # forgets the peak so far
    size, resident = _memory("VmSize"), _memory("VmRSS")
    resource.setrlimit(resource.RLIMIT_AS, (size + _ADDRESS_SPACE, limits[1]))
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    faulthandler.dump_traceback_later(20 * SECONDS, exit=True)  # waiting for ever, or a hang that no signal ends
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the inputs are meant to be strange
            yield
        if (peak := (_memory("VmHWM") - resident) >> 20) > MEGABYTES:
            raise Wrong(f"it took {peak} MB of memory")
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        faulthandler.cancel_dump_traceback_later()
        signal.signal(signal.SIGPROF, before)
        resource.setrlimit(resource.RLIMIT_AS, limits)


def _memory(name: str) -> int:
    """Return a line of ``/proc/self/status`` in bytes."""
    text = Path("/proc/self/status").read_text()
    return int(text[text.index(f"{name}:") :].split(maxsplit=2)[1]) << 10


def _listing(folder: Path) -> dict[str, tuple[int, int]]:
    """Return every file below a folder with its size and modification time."""
    found = ((path, path.lstat()) for path in folder.rglob("*") if not path.is_dir() or path.is_symlink())
    return {str(path.relative_to(folder)): (stat.st_size, stat.st_mtime_ns) for path, stat in found}


def _check_message(error: Exception, naming: str, pristine: bool) -> None:
    message = str(error)
    if pristine:
        raise Wrong(f"the unchanged input is refused: {message}") from error
    if naming not in message:
        raise Wrong(f"the error does not name {naming}: {message[:300]}") from error
    if len(message) > LONGEST_MESSAGE or message.count("\n") > 2:
        raise Wrong(f"the error has {len(message)} letters: {message[:300]}") from error


def _note(count: Count, number: int, error: BaseException) -> None:
    """Keep the first failure of each kind: its type and the last lines of code it passed through."""
    cause = error.__cause__ if isinstance(error, Wrong) and error.__cause__ else error
    frames = traceback.extract_tb(cause.__traceback__)[-3:]
    key = f"{type(error).__name__} at {' > '.join(f'{Path(f.filename).name}:{f.lineno}' for f in frames)}"
    count.failures.setdefault(key, f"case {number}: {key}\n      {type(error).__name__}: {str(error)[:400]}")
