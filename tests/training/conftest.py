"""A small data set in CIFAR-10's binary form, made here: every class has its own colour, so it can be learned."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.helpers import write_cifar, write_image_folder

#: In each of the six batches.
IMAGES = 20


@pytest.fixture(scope="session")
def cifar_like(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of six batches."""
    return write_cifar(tmp_path_factory.mktemp("cifar"), IMAGES)


@pytest.fixture(scope="session")
def image_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An ImageNet folder of three classes, 8 training and 4 validation pictures each, every class of its own colour."""
    return write_image_folder(tmp_path_factory.mktemp("imagenet"))


@pytest.fixture(scope="session")
def cifar10_root() -> Path:
    """The real CIFAR-10, where NASNET_DET_CIFAR10 names its folder."""
    root = os.environ.get("NASNET_DET_CIFAR10")
    if not root:
        pytest.skip("NASNET_DET_CIFAR10 names no folder of CIFAR-10")
    return Path(root)
