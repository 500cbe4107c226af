"""Data sets of torchvision by name."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from nasnet_det.search.child import train_child
from nasnet_det.search.child_config import ChildConfig
from nasnet_det.search.command import data_asked
from nasnet_det.search.image_data import find_images, inspect_images, load_images
from nasnet_det.search.torchvision_images import TorchvisionImages
from nasnet_det.training.data.cifar10 import DataError, split
from tests.helpers import ONE_BLOCK


def test_a_data_set_of_torchvision(tmp_path: Path) -> None:
    """MNIST's files, made here: gray pictures become RGB."""
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for part, count in (("train", 40), ("t10k", 5)):
        pictures, labels = rng.integers(0, 255, (count, 28, 28)), np.arange(count) % 10
        header = struct.pack(">IIII", 2051, count, 28, 28)
        (raw / f"{part}-images-idx3-ubyte").write_bytes(header + pictures.astype(np.uint8).tobytes())
        header = struct.pack(">II", 2049, count)
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(header + labels.astype(np.uint8).tobytes())
    name = data_asked(f"mnist@{tmp_path}")
    assert name == f"torchvision:MNIST@{tmp_path}"
    found = inspect_images(name)
    assert len(found.classes) == 10 and (found.train_images, found.validation_images) == (30, 10)
    assert (found.image_size, found.stem) == (28, "cifar")
    config = ChildConfig(
        name, num_cells=1, num_filters=4, epochs=1, batch_size=16, train_images=30, validation_images=10, image_size=28
    )
    assert train_child(ONE_BLOCK, config, seed=0, device="cpu").status == "ok"


def test_data_sets_with_arguments_of_their_own(tmp_path: Path) -> None:
    raw, folder = tmp_path / "EMNIST" / "raw", tmp_path / "train" / "n01440764"
    raw.mkdir(parents=True)
    folder.mkdir(parents=True)
    (raw / "emnist-balanced-test-images-idx3-ubyte").touch()
    (raw / "emnist-balanced-test-labels-idx1-ubyte").touch()
    (raw / "emnist-balanced-train-images-idx3-ubyte").write_bytes(struct.pack(">IIII", 2051, 9, 28, 28) + bytes(7056))
    (raw / "emnist-balanced-train-labels-idx1-ubyte").write_bytes(struct.pack(">II", 2049, 9) + bytes(range(9)))
    emnist = find_images(f"torchvision:EMNIST@{tmp_path}")
    assert len(emnist.classes) == 47 and emnist.labels.tolist() == list(range(9))

    Image.new("RGB", (64, 64)).save(folder / "1.jpg")
    torch.save(({"n01440764": ("tench", "Tinca tinca")}, []), tmp_path / "meta.bin")
    assert TorchvisionImages("ImageNet", str(tmp_path)).size(0) == (64, 64)


def test_images_that_are_drawn_when_they_are_read_are_the_same_every_time() -> None:
    source = find_images("torchvision:FakeData@datasets")
    train, validation = split(1000, 10, 100, 0)
    images, *_ = load_images("torchvision:FakeData@datasets", 224, 100, 10, 0)
    expected = [np.asarray(source.read(int(number))).transpose(2, 0, 1) for number in (*train, *validation)]
    assert np.array_equal(images.train.pictures, expected)


def test_data_sets_without_a_folder_and_what_a_failed_download_leaves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torchvision import datasets

    found = inspect_images(data_asked("fakedata"))
    assert len(found.classes) == 10 and found.train_images + found.validation_images == 1000

    class Broken(datasets.VisionDataset):
        def __init__(self, root: str, download: bool = False) -> None:
            (Path(root) / "Broken" / "raw").mkdir(parents=True, exist_ok=True)
            if download:
                raise RuntimeError("no connection")
            raise ModuleNotFoundError("No module named 'lmdb'")

    monkeypatch.setattr(datasets, "Broken", Broken, raising=False)
    monkeypatch.setattr(datasets, "__all__", (*datasets.__all__, "Broken"))
    (tmp_path / "mine" / "empty").mkdir(parents=True)
    for folder in (tmp_path / "new", tmp_path / "mine"):
        with pytest.raises(DataError, match=r"Broken.*no connection"):
            find_images(f"torchvision:Broken@{folder}")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["empty", "mine"]
