"""Images of one's own: classes, split, size and statistics are found out; what cannot be used is named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nasnet_det.search.child import child_network, train_child
from nasnet_det.search.child_config import ChildConfig
from nasnet_det.search.image_data import channel_statistics, find_images, inspect_images, load_images
from nasnet_det.training.data.cifar10 import DataError, is_cifar10, split
from tests.helpers import ONE_BLOCK


def fill(folder: Path, count: int, size: tuple[int, int] = (20, 20), colour: int = 100, suffix: str = ".png") -> None:
    """Write pictures of one colour with noise."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(colour)
    for number in range(count):
        pixels = rng.integers(colour - 9, colour + 9, (size[1], size[0], 3)).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}{suffix}")


def test_class_folders_are_split_by_seed(tmp_path: Path) -> None:
    fill(tmp_path / "a", 12, colour=50)
    fill(tmp_path / "b" / "more", 18, (24, 30), colour=200, suffix=".JPG")
    (tmp_path / "empty").mkdir()
    (tmp_path / "a").rename(tmp_path / "b" / ".stored")
    (tmp_path / "a").symlink_to(tmp_path / "b" / ".stored")
    (tmp_path / "circle").symlink_to(tmp_path)
    (tmp_path / ".git" / "a").mkdir(parents=True)
    fill(tmp_path / "__MACOSX" / "c", 2)
    (tmp_path / "a" / "notes.txt").write_text("no picture")
    (tmp_path / "a" / "._0.png").write_text("")
    found = inspect_images(str(tmp_path))
    assert found.classes == ("a", "b") and (found.train_images, found.validation_images) == (27, 3)
    assert (found.image_size, found.stem, found.has_split) == (24, "cifar", False)
    data, train, validation = load_images(str(tmp_path), 16, 20, 5, 0)
    assert data.train.pictures.shape == (25, 3, 16, 16) and (len(train), len(validation)) == (20, 5)
    means = data.train.pictures.mean(axis=(1, 2, 3))
    assert ((means > 125) == data.train.labels.astype(bool)).all()
    expected = data.train.pictures[:20] / 255
    np.testing.assert_allclose(data.mean, expected.mean(axis=(0, 2, 3)))
    np.testing.assert_allclose(data.std, expected.std(axis=(0, 2, 3)))
    again, *_ = load_images.__wrapped__(str(tmp_path), 16, 10, 5, 0)
    few = {picture.tobytes() for picture in again.train.pictures[:10]}
    assert few <= {picture.tobytes() for picture in data.train.pictures[:20]}
    (tmp_path / "a" / "notes.txt").write_text("still no picture")
    assert inspect_images.__wrapped__(str(tmp_path)).digest == found.digest
    find_images.cache_clear()
    fill(tmp_path / "a", 1, suffix=".bmp")
    assert inspect_images.__wrapped__(str(tmp_path)).digest != found.digest


def test_no_class_vanishes_from_a_stratified_split() -> None:
    labels = np.repeat([0, 1, 2, 3], [100, 2, 9, 1])
    counts = []
    for seed in range(5):
        train, validation = split(len(labels), 11, 101, seed, labels)
        assert not set(train) & set(validation) and len({*train, *validation}) == 112
        assert {*split(len(labels), 6, 50, seed, labels)[0]} <= {*train}
        counts.append(np.bincount(labels[validation], minlength=4).tolist())
    assert counts == [[9, 1, 1, 0]] * 5


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_split_is_kept_and_the_test_images_are_left_alone(wrapped: bool, tmp_path: Path) -> None:
    root = tmp_path / "archive" if wrapped else tmp_path
    for part, count in (("Train", 6), ("valid", 2), ("test", 9)):
        for name, colour in (("a", 40), ("b", 220)):
            fill(root / part / name, count, (300, 200), colour)
    found = inspect_images(str(tmp_path))
    assert (found.train_images, found.validation_images, found.has_split) == (12, 4, True)
    assert (found.image_size, found.stem) == (128, "imagenet")
    data, _, validation = load_images(str(tmp_path), 32, 12, 4, 0)
    assert len(data.train) == 16 and sorted(data.train.labels[validation]) == [0, 0, 1, 1]
    with pytest.raises(DataError, match="13"):
        load_images(str(tmp_path), 32, 13, 4, 0)


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    for name in ("bus", "train", "test"):
        fill(tmp_path / name, 3)
    assert find_images(str(tmp_path)).classes == ("bus", "test", "train")


def test_what_a_split_leaves_out_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for part, name, colour in (("train", "a", 40), ("train", "b", 90), ("train", "c", 140), ("val", "a", 40)):
        fill(tmp_path / part / name, 3, colour=colour)
    fill(tmp_path / "dev" / "a", 2)
    fill(tmp_path / "valid" / "a", 2)
    load_images(str(tmp_path), 20, 9, 3, 0)
    unused, classes, twice = (record.getMessage() for record in caplog.records)
    assert unused.endswith("dev, valid") and "b, c" in classes and "3 images" in twice
    caplog.clear()
    load_images(str(tmp_path), 20, 2, 1, 0)
    assert "train on" in caplog.text


def test_what_cannot_be_used_is_named(tmp_path: Path) -> None:
    fill(tmp_path / "one" / "a", 3)
    fill(tmp_path / "flat", 3)
    (tmp_path / "nothing").mkdir()
    for part, name in (("train", "a"), ("train", "b"), ("val", "c")):
        fill(tmp_path / "other" / part / name, 2)
    for part, name in (("val", "a"), ("test", "a")):
        fill(tmp_path / "untrained" / part / name, 2)
    for part in ("train", "val"):
        fill(tmp_path / "unsorted" / part, 2)
        fill(tmp_path / "nested" / "training" / part / "a", 2)
    fill(tmp_path / "tested" / "test" / "a", 2)
    fill(tmp_path / "tested" / "test" / "b", 2)
    fill(tmp_path / "tiny" / "a", 4, (4, 4))
    fill(tmp_path / "tiny" / "b", 4, (4, 4))
    for name, word in (
        ("one", "one"),
        ("flat", "class folders"),
        ("nothing", "CLASS"),
        ("other", "c"),
        ("untrained", "train/CLASS"),
        ("unsorted", "train/CLASS"),
        ("nested", "train, val"),
        ("tested", "test"),
        ("tiny", "4"),
    ):
        with pytest.raises(DataError, match=word) as caught:
            inspect_images(str(tmp_path / name))
        assert str(tmp_path / name) in str(caught.value)
    with pytest.raises(DataError, match="absent"):
        find_images(str(tmp_path / "absent"))
    with pytest.raises(DataError, match="NoSuchSet"):
        find_images(f"torchvision:NoSuchSet@{tmp_path}")
    with pytest.raises(DataError, match="VisionDataset"):
        find_images(f"torchvision:VisionDataset@{tmp_path}")
    with pytest.raises(DataError, match="MNIST"):
        find_images(f"torchvision:MNIST@{tmp_path / 'flat' / '0.png'}")


def test_few_unreadable_images_are_left_out_and_many_refused(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("a", "b"):
        fill(tmp_path / name, 15)
    (tmp_path / "a" / "3.png").write_bytes(b"damaged")
    data, train, validation = load_images(str(tmp_path), 16, 24, 6, 0)
    assert len(data.train) == 29 == len(train) + len(validation) and "3.png" in caplog.text
    for number in range(8):
        (tmp_path / "b" / f"{number}.png").write_bytes(b"damaged")
    with pytest.raises(DataError, match="9 of 30"):
        load_images(str(tmp_path), 17, 24, 6, 0)


def test_larger_images_are_trained_through_the_strided_stem(tmp_path: Path) -> None:
    for name, colour in (("a", 40), ("b", 120), ("c", 220)):
        fill(tmp_path / name, 8, (90, 80), colour)
    found = inspect_images(str(tmp_path))
    assert (found.image_size, found.stem) == (80, "imagenet")
    config = ChildConfig(
        str(tmp_path), num_cells=1, num_filters=4, epochs=1, batch_size=8, train_images=16, validation_images=6,
        image_size=found.image_size, stem=found.stem,
    )  # fmt: skip
    result = train_child(ONE_BLOCK, config, seed=0, device="cpu")
    network = child_network(ONE_BLOCK, config, num_classes=3)
    assert result.status == "ok" and result.num_params == sum(p.numel() for p in network.parameters())
    assert network.fc.out_features == 3


def test_cifar_is_told_from_pictures(tmp_path: Path) -> None:
    assert not is_cifar10(str(tmp_path))
    (tmp_path / "data_batch_3.bin").write_bytes(b"")
    assert is_cifar10(str(tmp_path))
    mean, std = channel_statistics(np.zeros((2, 3, 4, 4), np.uint8))
    assert mean == (0.0,) * 3 and min(std) > 0
