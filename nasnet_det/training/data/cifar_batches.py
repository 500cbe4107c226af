"""CIFAR batches. Images are kept on the device; whitening and augmentation run there, a batch at a time.

Sources: paper appendix A.1 (whitening, 40 x 40, random 32 x 32 crop, flip); cutout as in DeVries and Taylor
(arXiv:1708.04552): a square of zeros centred anywhere, cut off at the border.

The paper's "whitening" is standardization: in its authors' later CIFAR code with the data set's mean and standard
deviation of each channel (``channel``), which timm's preprocessing can express too; in TensorFlow's
``per_image_whitening`` of that time with those of each image (``image``).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from nasnet_det.safe_io.settings import build
from nasnet_det.training.data.cifar10 import MEAN, SIDE, STD, Cifar10, DataError, Images, load_cifar10
from nasnet_det.training.seeds import epoch_order

Whitening = Literal["channel", "image"]
Pixels = Annotated[int, Field(ge=0, le=SIDE)]
#: Smaller images leave too little after a network's two reductions.
Side = Annotated[int, Field(ge=8, le=SIDE)]
_VALIDATION_BATCH = 500


@dataclass(frozen=True)
class CifarAugmentation:
    """Augmentation of training images.

    Args:
        pad: zeros added on each side of the whitened image before a random crop of the original size.
        flip: mirror half of the images.
        cutout: the side of the square of zeros; 0 for none.
        whitening: ``channel`` or ``image``; validation images are whitened in the same way.
        sizes: progressive resizing of images of 32 pixels: the training images are resized to the first side in the
            first part of the epochs, to the second in the next, and so on, in parts of equal numbers of epochs.
            Validation is always at 32.
    """

    pad: Pixels = 4
    flip: bool = True
    cutout: Pixels = 0
    whitening: Whitening = "channel"
    sizes: Annotated[tuple[Side, ...], Field(min_length=1)] = (SIDE,)

    def size_at(self, progress: float) -> int:
        """Return the side of the training images after ``progress`` (0 to 1) of the epochs."""
        return self.sizes[min(int(progress * len(self.sizes)), len(self.sizes) - 1)]

    @classmethod
    def from_mapping(cls, data: Mapping[str, Any]) -> CifarAugmentation:
        """Build from a recipe's ``augmentation``.

        Raises:
            DataError: for a setting that is unknown, or of the wrong type or range.
        """
        return build(cls, data, DataError, "augmentation")


def crop_and_flip(images: Tensor, pad: int, flip: bool) -> Tensor:
    """Return a random crop of each of ``(N, C, H, W)`` padded by ``pad`` zeros; with ``flip``, half are mirrored."""
    number, _, height, width = images.shape
    device = images.device
    top, left = torch.randint(0, 2 * pad + 1, (2, number, 1), device=device)
    rows = top + torch.arange(height, device=device)
    columns = left + torch.arange(width, device=device)
    if flip:
        mirrored = torch.rand((number, 1), device=device) < 0.5
        columns = torch.where(mirrored, columns.flip(1), columns)
    padded = functional.pad(images, (pad, pad, pad, pad)).permute(0, 2, 3, 1)
    which = torch.arange(number, device=device)[:, None, None]
    return padded[which, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def cut_out(images: Tensor, side: int) -> Tensor:
    """Return ``(N, C, H, W)`` with a square of zeros in each image, its centre anywhere in the image."""
    number, _, height, width = images.shape
    device = images.device
    row, column = (torch.randint(0, size, (number, 1), device=device) for size in (height, width))
    in_rows, in_columns = (
        (position >= centre - side // 2) & (position < centre - side // 2 + side)
        for centre, position in (
            (row, torch.arange(height, device=device)),
            (column, torch.arange(width, device=device)),
        )
    )
    return images.masked_fill((in_rows[:, :, None] & in_columns[:, None, :])[:, None], 0.0)


def resize(images: Tensor, size: int) -> Tensor:
    """Return ``(N, C, H, W)`` resized to squares of ``size`` pixels, bilinearly with antialiasing."""
    if images.shape[-2:] == (size, size):
        return images
    return functional.interpolate(images, (size, size), mode="bilinear", antialias=True, align_corners=False)


class DeviceImages:
    """Images on a device, whitened batch by batch.

    Args:
        images: the images and their labels.
        device: the device to keep them on.
        whitening: see :class:`CifarAugmentation`. Per image the deviation is at least 1 / sqrt(pixels), as in TF.
        mean, std: the statistics of each channel, on a scale of 0 to 1.
    """

    def __init__(
        self,
        images: Images,
        device: torch.device,
        whitening: Whitening = "channel",
        mean: Sequence[float] = MEAN,
        std: Sequence[float] = STD,
    ) -> None:
        self.pictures = torch.from_numpy(images.pictures).to(device)
        self.labels = torch.from_numpy(images.labels).to(device).long()
        if whitening == "image":
            self.mean, self.std = _mean_and_deviation_of_each(self.pictures)
        else:
            self.mean, self.std = (torch.tensor(v, device=device).view(1, 3, 1, 1) * 255 for v in (mean, std))

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Return whitened images ``(N, 3, 32, 32)``, float32, and labels ``(N,)``, int64."""
        per_image = len(self.mean) > 1
        mean, std = (self.mean[indices], self.std[indices]) if per_image else (self.mean, self.std)
        return (self.pictures[indices].float() - mean) / std, self.labels[indices]


class CifarBatches:
    """Batches of CIFAR images (:class:`~nasnet_det.training.engine.Batches`).

    The order of an epoch depends on ``seed`` and the epoch alone. Augmentation draws from PyTorch's default generator,
    which the training loop seeds for every step.

    Args:
        data: the data set.
        train: indices of the training images; None for all.
        validation: indices of the training images to validate on; None for the test set.
        batch_size: images in a batch. An incomplete last batch is dropped.
        augmentation: augmentation of the training images.
        device: the device of the batches.
        seed: the seed of the order.
        epochs: the epochs of the whole training, which progressive resizing divides.

    Raises:
        DataError: if there are fewer training images than a batch holds.
    """

    def __init__(
        self,
        data: Cifar10,
        train: np.ndarray | None,
        validation: np.ndarray | None,
        batch_size: int,
        augmentation: CifarAugmentation,
        device: torch.device,
        seed: int,
        epochs: int = 1,
    ) -> None:
        number = len(data.train)
        side = data.train.pictures.shape[-1]
        self.num_classes, self.input_size = len(data.classes), (3, side, side)
        self.train_indices = np.arange(number) if train is None else train
        self.steps_per_epoch = len(self.train_indices) // batch_size
        if not self.steps_per_epoch:
            count = len(self.train_indices)
            raise DataError(f"{count} training images do not fill a batch of {batch_size}: set a smaller batch size")
        self.batch_size, self.augmentation, self.device = batch_size, augmentation, device
        self.seed, self.epochs = seed, epochs
        self.train = _on_device(data, "train", device, augmentation.whitening)
        held_out = "test" if validation is None else "train"
        self.validation = _on_device(data, held_out, device, augmentation.whitening)
        self.validation_indices = np.arange(len(data.test)) if validation is None else validation

    def training(self, epoch: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """Return the epoch's augmented batches from number ``start`` on: images ``(B, 3, size, size)``, of 32 pixels
        unless :attr:`CifarAugmentation.sizes` says otherwise, and labels ``(B,)``."""
        side = self.input_size[-1]
        size = self.augmentation.size_at(epoch / self.epochs) if side == SIDE else side
        order = self.train_indices[epoch_order(self.seed, epoch, len(self.train_indices))]
        indices = torch.from_numpy(order).to(self.device)
        for number in range(start, self.steps_per_epoch):
            first = number * self.batch_size
            images, labels = self.train.take(indices[first : first + self.batch_size])
            yield resize(self._augmented(images), size), labels

    def validating(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Return the validation images, whitened but not augmented, and their labels."""
        indices = torch.from_numpy(self.validation_indices).to(self.device)
        for part in indices.split(_VALIDATION_BATCH):
            yield self.validation.take(part)

    def _augmented(self, images: Tensor) -> Tensor:
        if self.augmentation.pad or self.augmentation.flip:
            images = crop_and_flip(images, self.augmentation.pad, self.augmentation.flip)
        return cut_out(images, self.augmentation.cutout) if self.augmentation.cutout else images


@lru_cache(maxsize=2)
def read_once(root: str, official: bool = True, side: int = SIDE) -> Cifar10:
    """Return :func:`load_cifar10`'s data set with images of ``side`` pixels, cached for the next training in the same
    process."""
    data = load_cifar10(root, official)
    return data if side == SIDE else replace(data, train=_resized(data.train, side), test=_resized(data.test, side))


def _resized(images: Images, side: int) -> Images:
    parts = torch.from_numpy(images.pictures).split(_VALIDATION_BATCH)
    small = [resize(part.float(), side).round_().clamp_(0, 255).byte() for part in parts]
    return Images(torch.cat(small).numpy(), images.labels)


@lru_cache(maxsize=4)
def _on_device(data: Cifar10, part: str, device: torch.device, whitening: Whitening) -> DeviceImages:
    return DeviceImages(getattr(data, part), device, whitening, data.mean, data.std)


def _mean_and_deviation_of_each(pictures: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation ``(N, 1, 1, 1)`` of each image, the latter with the lower bound of TF's
    ``per_image_standardization``."""
    parts = [torch.std_mean(part.double(), dim=(1, 2, 3), correction=0, keepdim=True) for part in pictures.split(5000)]
    std, mean = (torch.cat(values).float() for values in zip(*parts, strict=True))
    return mean, std.clamp(min=pictures[0].numel() ** -0.5)
