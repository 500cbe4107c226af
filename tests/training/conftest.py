"""A small data set in CIFAR-10's binary form, made here: every class has its own colour, so it can be learned."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nasnet_det.training.data.cifar10 import TEST_BATCH, TRAIN_BATCHES, Images, to_binary

#: In each of the six batches.
IMAGES = 20


def made_images(number: int, seed: int) -> Images:
    """Noise around one colour a class."""
    random = np.random.default_rng(seed)
    labels = np.arange(number, dtype=np.uint8) % 10
    colours = np.random.default_rng(0).integers(40, 215, (10, 3))
    noise = random.integers(-40, 40, (number, 3, 32, 32))
    return Images((colours[labels][:, :, None, None] + noise).astype(np.uint8), labels)


@pytest.fixture(scope="session")
def cifar_like(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of six batches."""
    root = tmp_path_factory.mktemp("cifar")
    for seed, name in enumerate((*TRAIN_BATCHES, TEST_BATCH)):
        (root / f"{name}.bin").write_bytes(to_binary(made_images(IMAGES, seed)))
    return root


@pytest.fixture(scope="session")
def image_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An ImageNet folder of three classes, 8 training and 4 validation pictures each, every class of its own colour."""
    root = tmp_path_factory.mktemp("imagenet")
    random = np.random.default_rng(0)
    for split, number in (("train", 8), ("val", 4)):
        for label, name in enumerate(("n01440764", "n01443537", "n01484850")):
            (root / split / name).mkdir(parents=True)
            for i in range(number):
                pixels = random.integers(0, 60, (50 + i, 64, 3))
                pixels[..., label] += 180
                Image.fromarray(pixels.astype(np.uint8)).save(root / split / name / f"{i}.png")
    return root


@pytest.fixture(scope="session")
def cifar10_root() -> Path:
    """The real CIFAR-10, where NASNET_DET_CIFAR10 names its folder."""
    root = os.environ.get("NASNET_DET_CIFAR10")
    if not root:
        pytest.skip("NASNET_DET_CIFAR10 names no folder of CIFAR-10")
    return Path(root)
