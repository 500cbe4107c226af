"""The fixture ``fuzz``, and options for the number of cases and their seed.

pytest tests/fuzz                          # some cases of each target
pytest tests/fuzz --fuzz-cases 10000       # so many of each target
pytest tests/fuzz -k genotype_file --fuzz-only 1234
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.fuzz.engine import Case, run

#: Cases of a target, unless ``--fuzz-cases`` says otherwise.
CASES = 40

Fuzz = Callable[..., None]


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("fuzz")
    group.addoption("--fuzz-cases", type=int, metavar="N", help=f"cases of each fuzz target (default: at most {CASES})")
    group.addoption("--fuzz-seed", type=int, default=0, metavar="SEED", help="seed of the cases (0)")
    group.addoption("--fuzz-only", type=int, metavar="NUMBER", help="run this case alone")


@pytest.fixture
def fuzz(request: pytest.FixtureRequest, tmp_path: Path) -> Fuzz:
    """Run a target's cases: ``fuzz(attempt)``; ``fuzz(attempt, share=0.1)`` for fewer of a slow target, unless
    ``--fuzz-cases`` is given; ``fuzz(attempt, different=5)`` where there are only five."""
    option = request.config.getoption
    # The options are absent if pytest loads this file only after it has read its own.
    cases, seed, only = (
        option(f"--fuzz-{name}", default) for name, default in (("cases", 0), ("seed", 0), ("only", None))
    )

    def run_cases(attempt: Callable[[Case], None], share: float = 1.0, different: int | None = None) -> None:
        target = request.node.name.removeprefix("test_")
        numbers = range(different or cases or max(2, round(CASES * share)))
        count = run(target, attempt, numbers if only is None else range(only, only + 1), seed, tmp_path)
        print(count)
        if count.failures:
            again = f'pytest tests/fuzz -k "{target}" --fuzz-seed {seed} --fuzz-only NUMBER'
            lines = "\n  ".join(count.failures.values())
            pytest.fail(f"{count}\n  {lines}\nagain: {again}\ninputs: {tmp_path}", pytrace=False)
        assert only is not None or count.refused, f"{count}: nothing was refused, so nothing was tried"

    return run_cases
