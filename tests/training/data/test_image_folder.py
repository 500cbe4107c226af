"""An ImageNet folder: timm's transforms, an order that a resumed run continues, unreadable images, classes by name."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from timm.data import create_transform

from nasnet_det.training.data.cifar10 import DataError
from nasnet_det.training.data.image_folder import FolderBatches, Pictures, Preprocessing
from nasnet_det.training.recipe import load_recipe
from nasnet_det.training.seeds import seed_step

CPU = torch.device("cpu")
INPUT = Preprocessing((3, 48, 48), (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
PAPER = load_recipe("imagenet_paper_mobile").augmentation


def _batches(root: Path, augmentation: Any = PAPER, **options: Any) -> FolderBatches:
    settings = {"batch_size": 4, "seed": 0, "workers": 0, **options}
    return FolderBatches(root, INPUT, augmentation, device=CPU, **settings)


def _all(batches: Any) -> tuple[torch.Tensor, torch.Tensor]:
    images, labels = zip(*batches, strict=True)
    return torch.cat(images), torch.cat(labels)


def test_validation_is_timms_preprocessing(image_folder: Path) -> None:
    images, labels = _all(_batches(image_folder).validating())
    transform = create_transform((3, 48, 48), interpolation="bicubic", crop_pct=0.875, mean=(0.5,) * 3, std=(0.5,) * 3)
    with Image.open(image_folder / "val" / "n01443537" / "2.png") as image:
        torch.testing.assert_close(images[6], transform(image), atol=1e-6, rtol=0)
    assert labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4


def test_training_images_are_augmented_and_in_range(image_folder: Path) -> None:
    batches = _batches(image_folder)
    assert (batches.steps_per_epoch, batches.num_classes, batches.input_size) == (6, 3, (3, 48, 48))
    images, labels = _all(batches.training(0))
    assert sorted(labels.tolist()) == [0] * 8 + [1] * 8 + [2] * 8
    assert images.shape == (24, 3, 48, 48) and images.min() >= -1 and images.max() <= 1
    again, _ = _all(batches.training(1))
    assert not torch.equal(images, again)


@pytest.mark.parametrize("workers", [0, 2])
def test_an_epoch_taken_up_goes_on_with_the_same_pixels(image_folder: Path, workers: int) -> None:
    whole, _ = _all(_batches(image_folder).training(3))
    rest, _ = _all(_batches(image_folder, workers=workers).training(3, start=4))
    assert torch.equal(whole[16:], rest)


def test_reading_leaves_a_steps_random_numbers_alone(image_folder: Path) -> None:
    seed_step(0, 0)
    expected = float(torch.rand(()))
    seed_step(0, 0)
    next(_batches(image_folder).training(0))
    assert float(torch.rand(())) == expected


def test_processes_share_an_epoch(image_folder: Path) -> None:
    alone, _ = _all(_batches(image_folder, batch_size=8).training(0))
    first, second = (_all(_batches(image_folder, rank=rank, world=2).training(0))[0] for rank in (0, 1))
    together = torch.stack([first.view(3, 4, 3, 48, 48), second.view(3, 4, 3, 48, 48)], dim=1).flatten(0, 2)
    assert torch.equal(alone, together)
    counts = [len(_all(_batches(image_folder, rank=rank, world=5).validating())[1]) for rank in range(5)]
    assert counts == [3, 3, 2, 2, 2]


def test_erasing_is_on_the_device(image_folder: Path) -> None:
    plain = {"hflip": 0.0, "scale": [1.0, 1.0], "color_jitter": 0.0}
    erased, _ = _all(_batches(image_folder, {**plain, "re_prob": 1.0}).training(0))
    whole, _ = _all(_batches(image_folder, plain).training(0))
    assert ((erased == 0) & (whole != 0)).flatten(1).any(1).all()


def test_an_unreadable_training_image_is_named_and_passed_over(
    image_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = tmp_path / "data"
    shutil.copytree(image_folder, root)
    broken = root / "train" / "n01440764" / "3.png"
    broken.write_bytes(broken.read_bytes()[:200])
    with caplog.at_level(logging.WARNING):
        images, _ = _all(_batches(root).training(0))
    assert len(images) == 24 and str(broken) in caplog.text
    for path in (root / "train").rglob("*.png"):
        path.write_bytes(b"")
    with pytest.raises(DataError, match=r"^\S+png cannot be read.* 10 images"):
        _all(_batches(root).training(0))


@pytest.mark.parametrize("workers", [0, 1])
def test_an_unreadable_validation_image_ends_it(image_folder: Path, tmp_path: Path, workers: int) -> None:
    root = tmp_path / "data"
    shutil.copytree(image_folder, root)
    broken = root / "val" / "n01443537" / "1.png"
    whole = broken.read_bytes()
    batches = _batches(root, workers=workers)
    broken.write_bytes(whole[:200])
    with pytest.raises(DataError, match=r"n01443537/1\.png"):
        _all(batches.validating())
    for content in (b"no image", whole[:200]):
        broken.write_bytes(content)
        with pytest.raises(DataError, match=r"1 of .*n01443537/1\.png"):  # before training starts
            _batches(root)


def test_one_class_is_refused(tmp_path: Path) -> None:
    for name in ("n01440764", "n01443537"):  # as in Tiny ImageNet
        (tmp_path / "train" / name / "images").mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(tmp_path / "train" / name / "images" / "1.png")
    with pytest.raises(DataError, match="'images'"):
        _batches(tmp_path)


def test_wrong_folders_and_settings_are_named(image_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="train/CLASS/"):
        _batches(tmp_path)
    (tmp_path / "train").mkdir()
    with pytest.raises(DataError, match=f"{tmp_path}.* train/CLASS/"):
        _batches(tmp_path)
    with pytest.raises(DataError, match=r"24.*32"):
        _batches(image_folder, batch_size=32)
    with pytest.raises(DataError, match="colour"):
        _batches(image_folder, {"colour": 1})
    with pytest.raises(DataError, match=r"n01440764.* cat, dog"):
        Pictures(image_folder / "val", INPUT.evaluation_transform(), ["cat", "dog"])


def test_labels_follow_the_names_given(image_folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    names = ["x", "n01484850", "n01440764", "y", "n01443537"]
    with caplog.at_level(logging.WARNING):
        pictures = Pictures(image_folder / "val", INPUT.evaluation_transform(), names)
    assert "2 of 5 classes: x, y" in caplog.text
    assert [pictures[number, 0][1] for number in (0, 4, 8)] == [2, 4, 1]


def test_folders_of_one_name_that_become_one_class_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for folder in ("cat/day", "dog/day", "dog/night"):
        (tmp_path / folder).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(tmp_path / folder / "1.png")
    assert Pictures(tmp_path, lambda picture: picture).classes == ["day", "night"]
    assert all(str(tmp_path / name) in caplog.text for name in ("cat/day", "dog/day")) and "night" not in caplog.text


def test_damaged_neighbours_do_not_end_training(tmp_path: Path) -> None:
    for number in range(40):
        path = tmp_path / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        Image.new("RGB", (8, 8)).save(path)
    pictures = Pictures(tmp_path, lambda picture: torch.zeros(3, 8, 8))
    for path, _ in pictures.samples[:12]:
        path.write_bytes(b"")
    assert all(not isinstance(pictures[number, 0], str) for number in range(12))


def test_folders_that_macos_or_a_tool_adds_are_no_classes(tmp_path: Path) -> None:
    for folder in ("b", "a", ".hidden", "__MACOSX/a"):
        (tmp_path / folder).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(tmp_path / folder / "1.png")
    (tmp_path / "b").rename(tmp_path / ".stored")
    (tmp_path / "b").symlink_to(tmp_path / ".stored")
    for folder in ("a", ".stored"):
        (tmp_path / folder / "up").symlink_to(tmp_path)
    Image.new("RGB", (8, 8)).save(tmp_path / "stray.png")
    found = Pictures(tmp_path, lambda picture: picture)
    assert found.classes == ["a", "b"]
    assert [Path(path).parent.name for path, _ in found.samples] == ["a", "b"]
    assert [label for _, label in found.samples] == [0, 1]
