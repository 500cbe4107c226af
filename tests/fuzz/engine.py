"""The engine of the fuzz tests: cases drawn from a seed, tried under watch.

A case makes an input in its own empty folder and hands it to the package. It is right if the package works, or raises
one error of the documented type, of a few lines at most, that names the thing; and if it then left no file, ran no code
of the input, took no time or memory to speak of. Case 0 of every target is the unchanged input, which must work.

A case follows from the target's name, ``--fuzz-seed`` and its number alone: a failure is repeated by ``--fuzz-only``.
"""

from __future__ import annotations

import faulthandler
import random
import resource
import shutil
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

#: What one case may take, in the processor's time.
SECONDS = 20.0
MEGABYTES = 768
_ADDRESS_SPACE = 6 << 30  # beyond what the process has: what asks for more is refused by the system
#: An error longer than this is not one a user can read.
LONGEST_MESSAGE = 1200
_DIFFERENT_FAILURES = 12


class Wrong(Exception):
    """What a case did that it must not."""


class Hung(BaseException):
    """A case that took too long; no handler of the package's catches it."""


@dataclass
class Case:
    """One case: its number, its random numbers and its empty folder. Case 0 changes nothing."""

    number: int
    random: random.Random
    folder: Path
    refused: bool = False

    @property
    def pristine(self) -> bool:
        """Whether the input is to be left as it is."""
        return self.number == 0

    @contextmanager
    def allows(self, *errors: type[Exception], naming: Any = "", making: tuple[str, ...] = ()) -> Iterator[None]:
        """Run the package: it may work, or raise one of these errors, whose message holds ``naming``; then the folder
        must be as before. Where it works it may make the files ``making``."""
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
    """What became of a target's cases."""

    target: str
    cases: int = 0
    refused: int = 0
    seconds: float = 0.0
    failures: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return (
            f"{self.target}: {self.cases} cases, {self.cases - self.refused} worked, {self.refused} refused, "
            f"{len(self.failures)} different failures, {self.seconds:.0f} s"
        )


def run(target: str, attempt: Callable[[Case], None], numbers: range, seed: int, folder: Path) -> Count:
    """Try cases of a target; an input that fails stays in ``folder``, under its number."""
    count, began = Count(target), time.monotonic()
    for number in numbers:
        place = folder / str(number)
        place.mkdir()
        case = Case(number, random.Random(f"{target} {seed} {number}"), place)
        try:
            with _watched():
                attempt(case)
        except (Exception, Hung) as error:
            _note(count, number, error)
            if isinstance(error, Hung) or len(count.failures) >= _DIFFERENT_FAILURES:
                break
        else:
            shutil.rmtree(place)
        count.cases += 1
        count.refused += case.refused
        if number and number % 1000 == 0:
            print(f"  {target}: {number} of {numbers.stop}", file=sys.__stderr__, flush=True)
    count.seconds = time.monotonic() - began
    return count


@contextmanager
def _watched() -> Iterator[None]:
    """Bound time, address space and the peak of memory."""

    def hang(number: int, frame: FrameType | None) -> None:
        raise Hung(f"took more than {SECONDS:.0f} s, lately in {''.join(traceback.format_stack(frame, 2))}")

    before = signal.signal(signal.SIGPROF, hang)
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    size, resident = _memory("VmSize"), _reset_peak()
    resource.setrlimit(resource.RLIMIT_AS, (size + _ADDRESS_SPACE, hard))
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    faulthandler.dump_traceback_later(20 * SECONDS, exit=True)  # waiting for ever, or a hang that no signal ends
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of inputs that are meant to be strange
            yield
        peak = (_memory("VmHWM") - resident) >> 20
        if peak > MEGABYTES:
            raise Wrong(f"it took {peak} MB of memory")
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        faulthandler.cancel_dump_traceback_later()
        signal.signal(signal.SIGPROF, before)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def _memory(name: str) -> int:
    """Bytes of a line of ``/proc/self/status``."""
    text = Path("/proc/self/status").read_text()
    return int(text[text.index(f"{name}:") :].split(maxsplit=2)[1]) << 10


def _reset_peak() -> int:
    """Forget the highest resident size so far; gives the present one."""
    Path("/proc/self/clear_refs").write_text("5")
    return _memory("VmRSS")


def _listing(folder: Path) -> dict[str, tuple[int, int]]:
    """Every file below, with its size and time."""
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
    """Keep the first of each kind of failure: its type, and where it came from."""
    cause = error.__cause__ if isinstance(error, Wrong) and error.__cause__ else error
    frames = traceback.extract_tb(cause.__traceback__)
    positions = [f"{Path(frame.filename).name}:{frame.lineno}" for frame in frames][-3:]
    key = f"{type(error).__name__} at {' > '.join(positions)}"
    count.failures.setdefault(key, f"case {number}: {key}\n      {type(error).__name__}: {str(error)[:400]}")
