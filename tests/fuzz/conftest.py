"""How many cases, from which seed; what became of them is said at the end.

pytest tests/fuzz                          # a slice of each target
pytest tests/fuzz --fuzz-cases 10000       # the long way: so many of each target
pytest tests/fuzz -k genotype_file --fuzz-only 1234
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.fuzz.engine import Case, Count, run

#: Of each target, where nothing is asked for.
SLICE = 40
_counts: list[Count] = []

Fuzz = Callable[..., None]


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("fuzz")
    group.addoption("--fuzz-cases", type=int, metavar="N", help=f"cases of each fuzz target (at most {SLICE})")
    group.addoption("--fuzz-seed", type=int, default=0, metavar="SEED", help="what they are drawn from (0)")
    group.addoption("--fuzz-only", type=int, metavar="NUMBER", help="just this case")


@pytest.fixture
def fuzz(request: pytest.FixtureRequest, tmp_path: Path) -> Fuzz:
    """Tries a target's cases: ``fuzz(attempt)``; ``fuzz(attempt, share=0.1)`` for one that is slow, where no number is
    asked for; ``fuzz(attempt, different=5)`` for one that has no more."""

    def asked(name: str, default: Any) -> Any:
        return request.config.getoption(name, default)  # absent where pytest found this file after its options

    def tries(attempt: Callable[[Case], None], share: float = 1.0, different: int | None = None) -> None:
        target = request.node.name.removeprefix("test_")
        only, seed = asked("--fuzz-only", None), asked("--fuzz-seed", 0)
        cases = different or asked("--fuzz-cases", None) or max(2, round(SLICE * share))
        count = run(target, attempt, range(cases) if only is None else range(only, only + 1), seed, tmp_path)
        _counts.append(count)
        if count.failures:
            again = f'pytest tests/fuzz -k "{target}" --fuzz-seed {seed} --fuzz-only NUMBER'
            lines = "\n  ".join(count.failures.values())
            pytest.fail(f"{count}\n  {lines}\nagain: {again}\ninputs: {tmp_path}", pytrace=False)
        assert only is not None or count.refused, f"{count}: nothing was refused, so nothing was tried"

    return tries


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    if config.getoption("--fuzz-cases", None):
        terminalreporter.section("fuzz")
        for count in _counts:
            terminalreporter.line(str(count))
