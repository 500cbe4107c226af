"""Run timm's own ``tests/test_models.py``, unchanged, on the models registered by this package.

    pip download --no-binary timm --no-deps timm==1.0.31 && tar xf timm-1.0.31.tar.gz
    python tests/run_timm_tests.py timm-1.0.31 -k "darts and not pretrained"

The tests come with timm's sdist, not with its wheel. Other arguments go to pytest. Tests whose names contain
``pretrained`` download weights.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import timm
from timm.models import _registry

import nasnet_det  # noqa: F401, registers the models

NAMES = set(timm.list_models(module="timm_models"))


class OnlyOurModels:
    """A pytest plugin that deselects the tests of other models."""

    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        config.hook.pytest_deselected(items=[item for item in items if _model_name(item) not in NAMES])
        items[:] = [item for item in items if _model_name(item) in NAMES]


def _model_name(item: pytest.Item) -> str:
    """Return the model that a test is parametrized with, without the tag of its weights."""
    call = getattr(item, "callspec", None)
    return call.params.get("model_name", "").partition(".")[0] if call else ""


def main(arguments: list[str]) -> int:
    """Run the tests of an unpacked sdist; returns pytest's exit status."""
    sdist, *options = arguments
    # timm's tests of ``forward_intermediates`` and pruning choose models by the file that defines them.
    _registry._module_to_models["nasnet"] |= NAMES
    return int(pytest.main([str(Path(sdist) / "tests" / "test_models.py"), *options], plugins=[OnlyOurModels()]))


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    sys.exit(main(sys.argv[1:]))
