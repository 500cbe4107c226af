"""The fixtures ``shared`` and ``golden``, the option --run-slow, and tests without optional dependencies."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

#: The modules of each extra. With ``NASNET_DET_WITHOUT=search,export`` tests run as if those were not installed.
EXTRAS = {
    "detection": ("detectron2", "fvcore", "iopath", "omegaconf", "hydra", "yacs", "pycocotools", "tensorboard"),
    "fast-eval": ("faster_coco_eval",),
    "data": ("supervision", "defusedxml"),
    "search": ("optuna", "ray"),
    "tensorflow": ("tensorflow", "tf_keras", "tf_slim", "keras"),
    "train": ("tensorboard",),
    "loggers": ("wandb", "mlflow"),
    "export": ("onnx", "onnxscript", "onnxruntime"),
    "openvino": ("openvino",),
}
MISSING = set(filter(None, os.environ.get("NASNET_DET_WITHOUT", "").split(",")))
#: Modules that a remaining extra brings as well are kept.
WITHOUT = {module for extra in MISSING for module in EXTRAS[extra]}.difference(
    *(modules for extra, modules in EXTRAS.items() if extra not in MISSING)
)


class Without:
    """A finder of modules that hides those of ``WITHOUT``."""

    def __init__(self, finder: Any) -> None:
        self.finder = finder

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        return None if name.partition(".")[0] in WITHOUT else self.finder.find_spec(name, path, target)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.finder, name)


if WITHOUT:
    sys.meta_path[:] = map(Without, sys.meta_path)

import torch  # noqa: E402 (it looks for some of them)

SHARED = Path(os.environ.get("NASNET_DET_SHARED", Path(__file__).resolve().parents[2] / "shared"))

torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))
# The first backward pass starts threads for the devices there are. After a test that compiles, PyTorch counts a GPU of
# its own invention among them, and no process that a later test forks could train.
torch.ones(1, requires_grad=True).sum().backward()


@pytest.fixture(autouse=True)
def forget_compiled() -> Iterator[None]:
    """Let no test's compiled functions make another's more general, which takes several times as long to compile."""
    yield
    if "torch._dynamo" in sys.modules:
        torch._dynamo.reset()


def pytest_collection_finish() -> None:
    """Leave the objects of imported modules out of garbage collections: that takes a tenth of the tests' time."""
    gc.collect()
    gc.freeze()


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
    """The folder of reference material; skips the test where it is absent."""
    if not SHARED.is_dir():
        pytest.skip(f"no reference material at {SHARED} (a user's checkout has none)")
    return SHARED


@pytest.fixture(scope="session")
def golden(shared: Path) -> Path:
    """The folder of outputs of the original implementations."""
    return shared / "golden"
