"""CIFAR batches: the images lie on the device and are whitened, cropped, flipped and cut out there, a batch at a time.

Sources: paper appendix A.1 (whitening, 40 x 40, random 32 x 32 crop, flip); cutout as in DeVries and Taylor
(arXiv:1708.04552): a square of zeros centred anywhere, cut off at the border.

What the paper calls whitening is, in its authors' later CIFAR code, taking off the data set's mean per channel and
dividing by its deviation (``channel``), which is also what timm's preprocessing can say of a model; TensorFlow's op of
that time, ``per_image_whitening``, does so per image (``image``).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from nasnet_det.safe_io.values import format_names, format_value
from nasnet_det.training.data.cifar10 import MEAN, SIDE, STD, Cifar10, DataError, Images, load_cifar10

Whitening = Literal["channel", "image"]
_VALIDATION_BATCH = 500
#: Smaller images leave a network of two reductions nothing to convolve.
_LEAST_SIDE = 8


@dataclass(frozen=True)
class CifarAugmentation:
    """What is done to training images.

    Args:
        pad: zeros added around the whitened image before a crop of the old size is taken.
        flip: whether half of the images are mirrored.
        cutout: the side of the square of zeros; 0 for none.
        whitening: ``channel`` or ``image``; for validation images too.
        sizes: progressive resizing: the training images are resized to the first side in the first part of the epochs,
            to the second in the next, and so on, in parts of equal numbers of epochs. Validation is always at 32.
    """

    pad: int = 4
    flip: bool = True
    cutout: int = 0
    whitening: Whitening = "channel"
    sizes: tuple[int, ...] = (SIDE,)

    def size_at(self, progress: float) -> int:
        """Return the side of the training images after ``progress`` (0 to 1) of the epochs."""
        return self.sizes[min(int(progress * len(self.sizes)), len(self.sizes) - 1)]

    @classmethod
    def from_mapping(cls, data: Mapping[str, Any]) -> CifarAugmentation:
        """Read a recipe's ``augmentation``.

        Raises:
            DataError: for a setting that does not exist or cannot be.
        """
        known = [field.name for field in fields(cls)]
        if unknown := sorted(str(key) for key in data if key not in known):
            raise DataError(f"augmentation has no setting {format_names(unknown)}; known: {', '.join(known)}")
        augmentation = cls(**data)
        for name in ("pad", "cutout"):
            value = getattr(augmentation, name)
            if type(value) not in (int, float) or not 0 <= value <= SIDE or value != int(value):
                raise DataError(
                    f"augmentation.{name} is a whole number of pixels, 0 to {SIDE}, not {format_value(value)}"
                )
        if augmentation.whitening not in get_args(Whitening):
            raise DataError(f"augmentation.whitening is channel or image, not {format_value(augmentation.whitening)}")
        sizes = augmentation.sizes
        if not isinstance(sizes, (list, tuple)) or not sizes or any(_is_bad_size(size) for size in sizes):
            raise DataError(
                f"augmentation.sizes must be a list of whole numbers of pixels, {_LEAST_SIDE} to {SIDE}, "
                f"got {format_value(sizes)}"
            )
        return replace(
            augmentation,
            pad=int(augmentation.pad),
            flip=bool(augmentation.flip),
            cutout=int(augmentation.cutout),
            sizes=tuple(int(size) for size in sizes),
        )


def _is_bad_size(size: Any) -> bool:
    return type(size) not in (int, float) or not _LEAST_SIDE <= size <= SIDE or size != int(size)


def crop_and_flip(images: Tensor, pad: int, flip: bool) -> Tensor:
    """A random crop of each of ``(N, C, H, W)`` padded by ``pad`` zeros, half of them mirrored; same shape."""
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
    """``(N, C, H, W)`` with a square of zeros in each, its centre anywhere in the image."""
    number, _, height, width = images.shape
    device = images.device
    row, column = (torch.randint(0, size, (number, 1), device=device) for size in (height, width))
    in_rows, in_columns = (
        (place >= centre - side // 2) & (place < centre - side // 2 + side)
        for centre, place in ((row, torch.arange(height, device=device)), (column, torch.arange(width, device=device)))
    )
    return images.masked_fill((in_rows[:, :, None] & in_columns[:, None, :])[:, None], 0.0)


def resize(images: Tensor, size: int) -> Tensor:
    """Return ``(N, C, H, W)`` resized to squares of ``size`` pixels, bilinearly with antialiasing."""
    if images.shape[-2:] == (size, size):
        return images
    return functional.interpolate(images, (size, size), mode="bilinear", antialias=True, align_corners=False)


class DeviceImages:
    """Images on a device, whitened as they are taken.

    Args:
        images: what to hold.
        device: where.
        whitening: see :class:`CifarAugmentation`. Per image as TF: the deviation is at least 1 / sqrt(pixels).
        mean, std: per channel, for whitening by channel.
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
        """Whitened images ``(N, 3, 32, 32)``, float32, and labels ``(N,)``."""
        per_image = len(self.mean) > 1
        mean, std = (self.mean[indices], self.std[indices]) if per_image else (self.mean, self.std)
        return (self.pictures[indices].float() - mean) / std, self.labels[indices]


class CifarBatches:
    """Batches of CIFAR images (:class:`~nasnet_det.training.engine.Batches`).

    The order of an epoch follows from ``seed`` and the epoch alone; what augmentation draws follows from torch's
    generator, which the training loop seeds for every step.

    Args:
        data: the images.
        train, validation: which images of the training set to train and to validate on; None validates on the test
            set.
        batch_size: images a batch of one process. The images left over by whole batches wait for another epoch.
        rank, world: this process's number and how many share the training.
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
        rank: int = 0,
        world: int = 1,
        epochs: int = 1,
    ) -> None:
        number = len(data.train)
        side = data.train.pictures.shape[-1]
        self.num_classes, self.input_size = len(data.classes), (3, side, side)
        self.train_indices = np.arange(number) if train is None else train
        self.steps_per_epoch = len(self.train_indices) // (batch_size * world)
        if not self.steps_per_epoch:
            raise DataError(f"{len(self.train_indices)} training images do not fill a batch of {batch_size * world}")
        self.batch_size, self.augmentation, self.device, self.seed = batch_size, augmentation, device, seed
        self.rank, self.world, self.epochs = rank, world, epochs
        self.train = _on_device(data, "train", device, augmentation.whitening)
        held_out = "test" if validation is None else "train"
        self.validation = _on_device(data, held_out, device, augmentation.whitening)
        self.validation_indices = np.arange(len(data.test)) if validation is None else validation

    def training(self, epoch: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """Return the epoch's augmented batches from number ``start`` on: images ``(B, 3, size, size)``, of 32 pixels
        unless :attr:`CifarAugmentation.sizes` says otherwise, and labels ``(B,)``."""
        side = self.input_size[-1]
        size = self.augmentation.size_at(epoch / self.epochs) if side == SIDE else side
        order = np.random.default_rng((self.seed, epoch)).permutation(self.train_indices)
        indices = torch.from_numpy(order).to(self.device)
        for number in range(start, self.steps_per_epoch):
            first = (number * self.world + self.rank) * self.batch_size
            images, labels = self.train.take(indices[first : first + self.batch_size])
            yield resize(self._augmented(images), size), labels

    def validating(self) -> Iterator[tuple[Tensor, Tensor]]:
        """The validation images of this process, whitened and not augmented, with their labels."""
        indices = torch.from_numpy(self.validation_indices[self.rank :: self.world].copy()).to(self.device)
        for part in indices.split(_VALIDATION_BATCH):
            yield self.validation.take(part)

    def _augmented(self, images: Tensor) -> Tensor:
        if self.augmentation.pad or self.augmentation.flip:
            images = crop_and_flip(images, self.augmentation.pad, self.augmentation.flip)
        return cut_out(images, self.augmentation.cutout) if self.augmentation.cutout else images


@lru_cache(maxsize=2)
def read_once(root: str, official: bool = True) -> Cifar10:
    """:func:`load_cifar10`, kept for the next child of the same process."""
    return load_cifar10(root, official)


@lru_cache(maxsize=4)
def _on_device(data: Cifar10, part: str, device: torch.device, whitening: Whitening) -> DeviceImages:
    return DeviceImages(getattr(data, part), device, whitening, data.mean, data.std)


def _mean_and_deviation_of_each(pictures: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and deviation ``(N, 1, 1, 1)`` of each, the latter at least as in TF's ``per_image_standardization``."""
    parts = [torch.std_mean(part.double(), dim=(1, 2, 3), correction=0, keepdim=True) for part in pictures.split(5000)]
    std, mean = (torch.cat(values).float() for values in zip(*parts, strict=True))
    return mean, std.clamp(min=pictures[0].numel() ** -0.5)
