"""What every test may use: the shared reference material, where it is there, and the switch for slow tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

SHARED = Path(os.environ.get("NASNET_DET_SHARED", Path(__file__).resolve().parents[2] / "shared"))

torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--run-slow", action="store_true", help="also run tests that take minutes")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("--run-slow"):
        skip = pytest.mark.skip(reason="slow; run with --run-slow")
        for item in items:
            if "slow" in item.keywords:
                item.add_marker(skip)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of reference material; a test that needs it is skipped where it is absent."""
    if not SHARED.is_dir():
        pytest.skip(f"no reference material at {SHARED} (a user's checkout has none)")
    return SHARED


@pytest.fixture(scope="session")
def golden(shared: Path) -> Path:
    """The folder of what the original implementations compute."""
    return shared / "golden"
