"""Batches of an ImageNet folder: timm's reader and transforms, in an order that a resumed run continues exactly.

The folder has the form ``ROOT/train/CLASS/...`` and ``ROOT/val/CLASS/...``; labels follow the natural order of class
names.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from timm.data import create_transform
from timm.data.random_erasing import RandomErasing
from timm.utils.misc import natural_key
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate

from nasnet_det.safe_io.folders import find_pictures
from nasnet_det.safe_io.images import ImageError, ends_whole, read_headers, read_image
from nasnet_det.safe_io.values import named
from nasnet_det.training.data.cifar10 import DataError
from nasnet_det.training.seeds import epoch_order, own_randomness, seed_step

#: Consecutive unreadable images after which the training ends.
_MOST_UNREADABLE = 10
#: Settings of a recipe's augmentation that run on the device on whole batches, and their names in ``RandomErasing``.
_ERASING = {"re_prob": "probability", "re_mode": "mode", "re_count": "max_count"}

logger = logging.getLogger(__name__)

#: A sampler's item: the index of an image, and the epoch, from which its random numbers are seeded.
Key = tuple[int, int]


@dataclass(frozen=True)
class Preprocessing:
    """timm's description of a network's input, see ``timm.data.resolve_data_config``."""

    input_size: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str = "bicubic"
    crop_pct: float = 0.875

    def to_dict(self) -> dict[str, Any]:
        """Return timm's data config."""
        return asdict(self)

    @classmethod
    def of(cls, config: Mapping[str, Any], image_size: tuple[int, int] | None = None) -> Preprocessing:
        """Build from a timm data config, optionally for another height and width."""
        channels, *size = config["input_size"]
        height, width = image_size or size
        mean, std = tuple(config["mean"]), tuple(config["std"])
        return cls((channels, height, width), mean, std, config["interpolation"], config["crop_pct"])

    def with_crop(self, crop_pct: float) -> Preprocessing:
        """Return the preprocessing with another share of the image in the center crop."""
        return replace(self, crop_pct=crop_pct)

    def training_transform(self, augmentation: Mapping[str, Any]) -> Callable[[Image.Image], Tensor]:
        """Return timm's training transform, from an RGB image to uint8 ``(C, H, W)``.

        Args:
            augmentation: arguments of ``timm.data.create_transform``.

        Raises:
            DataError: for an unknown argument.
        """
        given = {key: value for key, value in augmentation.items() if key not in _ERASING}
        known = inspect.signature(create_transform).parameters
        if unknown := sorted(set(given) - set(known)):
            raise DataError(f"unknown augmentation settings {', '.join(unknown)}; see timm.data.create_transform")
        given.setdefault("interpolation", self.interpolation)
        return in_channels(self.input_size[0], create_transform(self.input_size, True, normalize=False, **given))

    def evaluation_transform(self) -> Callable[[Image.Image], Tensor]:
        """Return timm's evaluation transform, from an RGB image to uint8 ``(C, H, W)``."""
        transform = create_transform(
            self.input_size, interpolation=self.interpolation, crop_pct=self.crop_pct, normalize=False
        )
        return in_channels(self.input_size[0], transform)


def in_channels(channels: int, transform: Callable[[Image.Image], Tensor]) -> Callable[[Image.Image], Tensor]:
    """Return a transform of RGB pictures that makes them grey first for a network of one channel.

    Raises:
        DataError: for another number of channels than 1 and 3.
    """
    if channels not in (1, 3):
        raise DataError(f"the network takes images of {channels} channels, but pictures have 1 or 3")
    return transform if channels == 3 else partial(_of_grey, transform)


def _of_grey(transform: Callable[[Image.Image], Tensor], picture: Image.Image) -> Tensor:
    return transform(picture.convert("L"))


def validation_folder(root: Path) -> Path:
    """Return the folder of the validation classes: ``ROOT/val``, ``ROOT/valid`` or ``ROOT/validation``."""
    return next((root / name for name in ("val", "valid", "validation") if (root / name).is_dir()), root / "val")


class Pictures(Dataset):
    """The images of one split.

    Args:
        root: the folder of class folders.
        transform: maps a PIL image to uint8 ``(3, H, W)``.
        classes: the class names in the order of their labels; None for the folder's own.
        seed: the seed of the transform's random numbers, together with the epoch and the index of the image.
        strict: treat an unreadable image as an error, at once where its header or its end shows it; otherwise it is
            logged and another image is used instead.

    Raises:
        DataError: if the folder does not exist, has no images, has classes other than ``classes`` or, if ``strict``,
            an image that is not readable.
    """

    def __init__(
        self,
        root: Path,
        transform: Callable[[Image.Image], Tensor],
        classes: Sequence[str] | None = None,
        seed: int = 0,
        strict: bool = False,
    ) -> None:
        if not root.is_dir():
            raise DataError(f"{root} is not a folder; an ImageNet folder has images in train/CLASS/ and val/CLASS/")
        paths = sorted((path for path in find_pictures(root) if path.parent != root), key=_natural)
        if not paths:
            raise DataError(f"{root} has no images in class folders: expected {root.name}/CLASS/IMAGE")
        folders: dict[str, set[Path]] = {}
        for path in paths:
            folders.setdefault(path.parent.name, set()).add(path.parent)
        self.classes = sorted(folders, key=natural_key)
        if merged := [f"{name} ({named(sorted(each), 3)})" for name, each in folders.items() if len(each) > 1]:
            logger.warning(
                f"{root}: as in timm, the folder that images are in is their class, so that several folders are one "
                f"class: {named(merged)}. If the folders above these are the classes, move the images up into them"
            )
        number = {name: label for label, name in enumerate(self.classes)}
        self.samples = [(path, number[path.parent.name]) for path in paths]
        if classes is not None:
            self._relabel(classes, root)
        if strict and (wrong := _unusable(paths)):
            raise DataError(f"{len(wrong)} of {len(paths)} images are not usable: {named(wrong)}")
        self.transform, self.seed, self.strict = transform, seed, strict

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, key: Key) -> tuple[Tensor, int] | str:
        """Return the transformed image and its label, or an error message: worker processes lose exceptions'
        classes."""
        number, epoch = key
        with own_randomness(torch.device("cpu")):
            seed_step(self.seed, epoch, number)
            # Not only its neighbours, which may be damaged for the same reason.
            others = range(number + 1, number + 1 + len(self), max(1, len(self) // _MOST_UNREADABLE))
            for place in (number, *others)[:_MOST_UNREADABLE]:
                path, label = self.samples[place % len(self)]
                try:
                    picture = read_image(path, turn=False)  # as timm, whose weights were trained on images as stored
                except ImageError as error:
                    reason = str(error)
                    if self.strict:
                        return reason
                    logger.warning(f"{reason}; another image is used instead")
                    continue
                return self.transform(picture), label
        return f"{reason}; it is the last of {_MOST_UNREADABLE} images in a row that are not readable"

    def _relabel(self, classes: Sequence[str], root: Path) -> None:
        """Number the labels by the order of the given classes."""
        number = {name: label for label, name in enumerate(classes)}
        if unknown := [name for name in self.classes if name not in number]:
            raise DataError(
                f"{root}: {len(unknown)} of {len(self.classes)} classes, {named(unknown)}, are none of the "
                f"{len(classes)} expected: {named(classes)}"
            )
        if missing := [name for name in classes if name not in self.classes]:
            logger.warning(f"{root} has no image of {len(missing)} of {len(classes)} classes: {named(missing)}")
        self.samples = [(path, number[self.classes[label]]) for path, label in self.samples]
        self.classes = list(classes)


def _unusable(paths: Sequence[Path]) -> list[str]:
    """Return what is wrong with images, as far as headers show it and, where a file may be cut off, pixels."""
    found = dict(zip(paths, read_headers(paths), strict=True))
    cut = [path for path, header in found.items() if not (isinstance(header, ImageError) or ends_whole(path))]
    found.update(zip(cut, read_headers(cut, decode=True), strict=True))
    return [str(problem) for problem in found.values() if isinstance(problem, ImageError)]


def _natural(path: Path) -> list[str | int]:
    """Return timm's key of the order of images."""
    return natural_key(str(path))


class _Order(Sampler[Key]):
    """Image indices in a given order, with the epoch they belong to."""

    def __init__(self, numbers: np.ndarray, epoch: int) -> None:
        self.numbers, self.epoch = numbers, epoch

    def __iter__(self) -> Iterator[Key]:
        return ((int(number), self.epoch) for number in self.numbers)

    def __len__(self) -> int:
        return len(self.numbers)


class FolderBatches:
    """Batches of an ImageNet folder (:class:`~nasnet_det.training.engine.Batches`).

    Args:
        root: the folder.
        preprocessing: the network's preprocessing.
        augmentation: a recipe's augmentation: arguments of timm's ``create_transform``, including ``re_prob``,
            ``re_mode`` and ``re_count``.
        batch_size: images in a batch of one process.
        device: the device of the batches.
        seed: the seed of order and augmentation.
        workers: the number of processes that read images; 0 to read in this one.
        rank, world: the rank of this process and the number of processes.

    Raises:
        DataError: if the folder or the augmentation is invalid, or the images do not fill a batch.
    """

    def __init__(
        self,
        root: Path,
        preprocessing: Preprocessing,
        augmentation: Mapping[str, Any],
        batch_size: int,
        device: torch.device,
        seed: int,
        workers: int = 4,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self.train = Pictures(root / "train", preprocessing.training_transform(augmentation), seed=seed)
        if len(self.train.classes) < 2:
            raise DataError(f"{root / 'train'} has one class, {self.train.classes[0]!r}: expected train/CLASS/IMAGE")
        evaluate = preprocessing.evaluation_transform()
        self.validation = Pictures(validation_folder(root), evaluate, self.train.classes, strict=True)
        self.num_classes, self.input_size = len(self.train.classes), preprocessing.input_size
        self.batch_size, self.seed, self.rank, self.world = batch_size, seed, rank, world
        self.steps_per_epoch = len(self.train) // (batch_size * world)
        if not self.steps_per_epoch:
            raise DataError(
                f"{root}: {len(self.train)} training images do not fill a batch of {batch_size * world}: "
                "set a smaller batch size"
            )
        erasing = {_ERASING[key]: value for key, value in augmentation.items() if key in _ERASING}
        erase = RandomErasing(**erasing, device=device) if erasing.get("probability") else None
        self.loader = Loader(preprocessing, device, batch_size, workers, erase)

    def training(self, epoch: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """Return the epoch's batches, augmented and normalized, beginning with batch ``start``."""
        together = self.batch_size * self.world
        order = epoch_order(self.seed, epoch, len(self.train))
        order = order[: self.steps_per_epoch * together].reshape(self.steps_per_epoch, self.world, self.batch_size)
        return self.loader.batches(self.train, order[start:, self.rank].ravel(), epoch, erase=True)

    def validating(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Return this process's share of the validation images, normalized.

        Raises:
            DataError: if an image is not readable.
        """
        return self.loader.batches(self.validation, np.arange(self.rank, len(self.validation), self.world))


@dataclass(frozen=True)
class Loader:
    """A reader of images in worker processes, which normalizes them on the device."""

    preprocessing: Preprocessing
    device: torch.device
    batch_size: int
    workers: int
    erase: RandomErasing | None = None

    def batches(
        self, pictures: Pictures, numbers: np.ndarray, epoch: int = 0, erase: bool = False
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield batches of the images with the given indices: ``(B, 3, H, W)`` and labels ``(B,)``.

        Raises:
            DataError: if an image is not readable and ``pictures`` is strict.
        """
        loader = DataLoader(
            pictures,
            self.batch_size,
            sampler=_Order(numbers, epoch),
            num_workers=self.workers,
            collate_fn=_collate,
            pin_memory=self.device.type == "cuda",
            generator=torch.Generator(),  # leaves the default generator, which a step seeds, alone
        )
        mean, std = (
            torch.tensor(values, device=self.device).view(1, -1, 1, 1) * 255
            for values in (self.preprocessing.mean, self.preprocessing.std)
        )
        for batch in loader:
            if isinstance(batch, str):
                raise DataError(batch)
            images, labels = (tensor.to(self.device, non_blocking=True) for tensor in batch)
            images = (images.float() - mean) / std
            yield (self.erase(images) if erase and self.erase is not None else images), labels


def _collate(samples: list[tuple[Tensor, int] | str]) -> Any:
    wrong = next((sample for sample in samples if isinstance(sample, str)), None)
    return default_collate(samples) if wrong is None else wrong
