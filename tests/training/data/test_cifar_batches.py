"""CIFAR batches: whitening, augmentation and order."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from nasnet_det.training.data.cifar10 import MEAN, STD, DataError, load_cifar10
from nasnet_det.training.data.cifar_batches import CifarAugmentation, CifarBatches, DeviceImages, crop_and_flip, cut_out

CPU = torch.device("cpu")
PLAIN = CifarAugmentation(pad=0, flip=False)


def _batches(root: Path, augmentation: CifarAugmentation = PLAIN, **options: object) -> CifarBatches:
    data = load_cifar10(root, official=False)
    settings: dict = {"train": None, "validation": None, "batch_size": 16, "seed": 0, **options}
    return CifarBatches(data, augmentation=augmentation, device=CPU, **settings)


def test_whitening_per_channel_and_per_image(cifar_like: Path) -> None:
    images = load_cifar10(cifar_like, official=False).train
    which = torch.tensor([3, 75])
    pixels = torch.from_numpy(images.pictures[[3, 75]]).float()
    by_channel, labels = DeviceImages(images, CPU).take(which)
    expected = (pixels / 255 - torch.tensor(MEAN).view(1, 3, 1, 1)) / torch.tensor(STD).view(1, 3, 1, 1)
    torch.testing.assert_close(by_channel, expected)
    assert labels.tolist() == images.labels[[3, 75]].tolist()
    by_image, _ = DeviceImages(images, CPU, "image").take(which)
    torch.testing.assert_close(by_image.mean(dim=(1, 2, 3)), torch.zeros(2), atol=1e-5, rtol=0)
    torch.testing.assert_close(by_image.std(dim=(1, 2, 3), correction=0), torch.ones(2))


def test_whitening_per_image_equals_tensorflow(cifar_like: Path) -> None:
    tensorflow = pytest.importorskip("tensorflow")
    images = load_cifar10(cifar_like, official=False).train
    images.pictures[1] = 77  # a picture of one colour has no deviation
    by_image, _ = DeviceImages(images, CPU, "image").take(torch.arange(2))
    expected = tensorflow.image.per_image_standardization(images.pictures[:2].transpose(0, 2, 3, 1)).numpy()
    np.testing.assert_allclose(by_image.numpy().transpose(0, 2, 3, 1), expected, atol=2e-5)


def test_every_crop_is_a_window_of_the_padded_image() -> None:
    torch.manual_seed(0)
    images = torch.rand(64, 3, 8, 8) + 1  # never zero, so that padding is seen
    cropped = crop_and_flip(images, pad=2, flip=True)
    padded = functional.pad(images, (2, 2, 2, 2))
    positions = set()
    for before, after in zip(padded, cropped, strict=True):
        windows = {
            (top, left, flipped): window.flip(-1) if flipped else window
            for top in range(5)
            for left in range(5)
            for flipped in (False, True)
            for window in [before[:, top : top + 8, left : left + 8]]
        }
        found = [place for place, window in windows.items() if torch.equal(window, after)]
        assert len(found) == 1
        positions.add(found[0])
    assert {top for top, _, _ in positions} == set(range(5)) == {left for _, left, _ in positions}
    assert {flipped for _, _, flipped in positions} == {False, True}


def test_cutout_is_one_square_cut_off_at_the_border() -> None:
    torch.manual_seed(0)
    holes = cut_out(torch.ones(200, 3, 32, 32), 16) == 0
    assert torch.equal(holes[:, 0], holes[:, 1]) and torch.equal(holes[:, 0], holes[:, 2])
    heights, widths = holes[:, 0].any(2).sum(1), holes[:, 0].any(1).sum(1)
    assert torch.equal(heights * widths, holes[:, 0].sum((1, 2)))
    # A centre anywhere: from a full square inside to half of one at the border.
    assert heights.max() == widths.max() == 16 and 8 <= heights.min() < 12 and 8 <= widths.min() < 12


def test_an_epoch_shows_every_image_once_in_another_order(cifar_like: Path) -> None:
    batches = _batches(cifar_like)
    assert batches.steps_per_epoch == 100 // 16
    epochs = [torch.cat([images for images, _ in batches.training(epoch)]) for epoch in (0, 1)]
    sums = [sorted(epoch.sum(dim=(1, 2, 3)).tolist()) for epoch in epochs]
    assert len(sums[0]) == len(set(sums[0])) == 96
    assert not torch.equal(*epochs)
    again = torch.cat([images for images, _ in batches.training(0)])
    assert torch.equal(epochs[0], again)


def test_an_epoch_taken_up_goes_on_where_it_stood(cifar_like: Path) -> None:
    batches = _batches(cifar_like)
    whole, rest = list(batches.training(2)), list(batches.training(2, start=3))
    assert all(torch.equal(a[0], b[0]) for a, b in zip(whole[3:], rest, strict=True))


def test_validation_is_what_was_held_out(cifar_like: Path) -> None:
    held_out, rest = np.arange(10), np.arange(10, 100)
    batches = _batches(cifar_like, train=rest, validation=held_out)
    data = load_cifar10(cifar_like, official=False)
    labels = torch.cat([labels for _, labels in batches.validating()])
    assert labels.tolist() == data.train.labels[:10].tolist()
    assert batches.steps_per_epoch == 90 // 16


def test_wrong_settings_are_named(cifar_like: Path) -> None:
    with pytest.raises(DataError, match=r"100.*512"):
        _batches(cifar_like, batch_size=512)
    for mapping, words in (
        ({"padding": 4}, "padding"),
        ({"cutout": -1}, "cutout"),
        ({"whitening": "zca"}, "whitening"),
    ):
        with pytest.raises(DataError, match=words):
            CifarAugmentation.from_mapping(mapping)


def test_progressive_sizes_divide_the_epochs(cifar_like: Path) -> None:
    augmentation = CifarAugmentation.from_mapping({"pad": 0, "flip": False, "sizes": [16, 24, 32]})
    batches = _batches(cifar_like, augmentation, epochs=6)
    plain = _batches(cifar_like, epochs=6)
    sizes = []
    for epoch in range(6):
        (images, labels), (whole, expected) = next(batches.training(epoch)), next(plain.training(epoch))
        sizes.append(images.shape[-1])
        assert labels.equal(expected)
        # Resizing keeps the mean colour.
        torch.testing.assert_close(images.mean((2, 3)), whole.mean((2, 3)), atol=0.05, rtol=0)
    assert sizes == [16, 16, 24, 24, 32, 32]
    assert all(images.shape[-1] == 32 for images, _ in batches.validating())


@pytest.mark.parametrize("sizes", [[], 24, [24, 33], [7], [24.5], ["24"], [True], [float("nan")]])
def test_sizes_that_are_not_pixels_are_refused(sizes: object) -> None:
    with pytest.raises(DataError, match="sizes"):
        CifarAugmentation.from_mapping({"sizes": sizes})
