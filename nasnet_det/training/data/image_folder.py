"""An ImageNet folder as batches: timm's reader and transforms, an order and random numbers that can be taken up.

The folder is ``ROOT/train/CLASS/...`` and ``ROOT/val/CLASS/...``, classes in natural order of their names.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from timm.data import create_dataset, create_transform
from timm.data.random_erasing import RandomErasing
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate

from nasnet_det.safe_io.images import ImageError, is_hidden, read_image
from nasnet_det.training.data.cifar10 import DataError
from nasnet_det.training.engine import own_randomness, seed_step

#: Unreadable images in a row that are passed over before the folder itself is doubted.
_MOST_UNREADABLE = 10
#: Settings of a recipe's augmentation that are applied on the device, to whole batches.
_ERASING = {"re_prob": "probability", "re_mode": "mode", "re_count": "max_count"}

logger = logging.getLogger(__name__)

#: What a sampler asks for: an image's number, and the epoch that its random numbers belong to.
Key = tuple[int, int]


@dataclass(frozen=True)
class Preprocessing:
    """timm's description of a network's input: see ``timm.data.resolve_data_config``."""

    input_size: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str = "bicubic"
    crop_pct: float = 0.875

    def to_dict(self) -> dict[str, Any]:
        """timm's data config."""
        return asdict(self)

    @classmethod
    def of(cls, config: Mapping[str, Any], image_size: int | None = None) -> Preprocessing:
        """Of a timm data config, at another image size if given."""
        channels, height, width = config["input_size"]
        size = (channels, height, width) if image_size is None else (channels, image_size, image_size)
        return cls(size, tuple(config["mean"]), tuple(config["std"]), config["interpolation"], config["crop_pct"])

    def training_transform(self, augmentation: Mapping[str, Any]) -> Callable[[Image.Image], Tensor]:
        """timm's training transform to uint8 ``(3, H, W)``.

        Args:
            augmentation: arguments of ``timm.data.create_transform``.

        Raises:
            DataError: for one that does not exist.
        """
        given = {key: value for key, value in augmentation.items() if key not in _ERASING}
        known = inspect.signature(create_transform).parameters
        if unknown := sorted(set(given) - set(known)):
            raise DataError(f"augmentation has no setting {', '.join(unknown)}; see timm.data.create_transform")
        given.setdefault("interpolation", self.interpolation)
        return create_transform(self.input_size, is_training=True, normalize=False, **given)

    def evaluation_transform(self) -> Callable[[Image.Image], Tensor]:
        """timm's evaluation transform to uint8 ``(3, H, W)``."""
        return create_transform(
            self.input_size, interpolation=self.interpolation, crop_pct=self.crop_pct, normalize=False
        )


def validation_folder(root: Path) -> Path:
    """The class folders of the validation images: in ``ROOT/val``, or in ``ROOT/validation``."""
    return next((root / place for place in ("val", "validation") if (root / place).is_dir()), root / "val")


class Pictures(Dataset):
    """The images of one split.

    Args:
        root: the folder of class folders.
        transform: from a PIL image to uint8 ``(3, H, W)``.
        classes: the class names in the order of their labels; None for the folder's own.
        seed: what the transform's random numbers follow from, with the epoch and the image's number.
        strict: an unreadable image ends the matter; else it is named in a warning and the next one takes its place.

    Raises:
        DataError: if the folder is not there, has no images or other classes.
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
            raise DataError(f"{root} is no folder; an ImageNet folder holds train/CLASS/ and val/CLASS/ with images")
        try:
            reader = create_dataset("", root=str(root), search_split=False).reader
        except RuntimeError as error:
            raise DataError(str(error)) from None
        names = {label: name for name, label in reader.class_to_idx.items()}
        visible = [(path, names[label]) for path, label in reader.samples if not is_hidden(path, root)]
        kept = {name for _, name in visible}
        self.classes = [name for name in reader.class_to_idx if name in kept]
        number = {name: label for label, name in enumerate(self.classes)}
        self.samples = [(path, number[name]) for path, name in visible]
        if not self.samples:
            raise DataError(f"{root} holds no images in class folders")
        if classes is not None:
            self._adopt(classes, root)
        self.transform, self.seed, self.strict = transform, seed, strict

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, key: Key) -> tuple[Tensor, int] | str:
        """The transformed image and its label; in words what is wrong with it, where that ends the matter."""
        number, epoch = key
        with own_randomness(torch.device("cpu")):
            seed_step(self.seed, epoch, number)
            for attempt in range(_MOST_UNREADABLE):
                path, label = self.samples[(number + attempt) % len(self)]
                try:
                    picture = read_image(path, turn=False)  # as timm, whose weights are of the pictures as stored
                except ImageError as error:
                    if self.strict:
                        return str(error)
                    logger.warning("%s; the next one takes its place", error)
                    continue
                return self.transform(picture), label
        return f"{_MOST_UNREADABLE} images in a row cannot be read, the last {path}"

    def _adopt(self, classes: Sequence[str], root: Path) -> None:
        """Number the labels as the given classes are."""
        number = {name: label for label, name in enumerate(classes)}
        if unknown := [name for name in self.classes if name not in number]:
            some = ", ".join(unknown[:3])
            raise DataError(f"{root}: {len(unknown)} of its {len(self.classes)} classes are not the model's, as {some}")
        self.samples = [(path, number[self.classes[label]]) for path, label in self.samples]
        self.classes = list(classes)


class _Order(Sampler[Key]):
    """One process's images of an epoch, from a batch on."""

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
        preprocessing: of the network.
        augmentation: a recipe's: arguments of timm's ``create_transform``, ``re_prob`` and its kin included.
        batch_size: images a batch of one process.
        device: where batches go.
        seed: what order and augmentation follow from.
        workers: processes that read images; 0 for this one.
        rank, world: this process's number and how many share the training.

    Raises:
        DataError: for a folder or augmentation that cannot be used.
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
        evaluate = preprocessing.evaluation_transform()
        self.validation = Pictures(validation_folder(root), evaluate, self.train.classes, strict=True)
        self.num_classes, self.input_size = len(self.train.classes), preprocessing.input_size
        self.batch_size, self.seed, self.rank, self.world = batch_size, seed, rank, world
        self.steps_per_epoch = len(self.train) // (batch_size * world)
        if not self.steps_per_epoch:
            raise DataError(f"{root}: {len(self.train)} training images do not fill a batch of {batch_size * world}")
        erasing = {_ERASING[key]: value for key, value in augmentation.items() if key in _ERASING}
        erase = RandomErasing(**erasing, device=device) if erasing.get("probability") else None
        self.loader = Loader(preprocessing, device, batch_size, workers, erase)

    def training(self, epoch: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """The epoch's augmented and normalized batches from number ``start`` on."""
        together = self.batch_size * self.world
        order = np.random.default_rng((self.seed, epoch)).permutation(len(self.train))
        order = order[: self.steps_per_epoch * together].reshape(self.steps_per_epoch, self.world, self.batch_size)
        return self.loader.batches(self.train, order[start:, self.rank].ravel(), epoch, erase=True)

    def validating(self) -> Iterator[tuple[Tensor, Tensor]]:
        """This process's share of the validation images, normalized.

        Raises:
            DataError: if one cannot be read.
        """
        return self.loader.batches(self.validation, np.arange(self.rank, len(self.validation), self.world))


@dataclass(frozen=True)
class Loader:
    """Reads images in worker processes, and normalizes them on the device."""

    preprocessing: Preprocessing
    device: torch.device
    batch_size: int
    workers: int
    erase: RandomErasing | None = None

    def batches(
        self, pictures: Pictures, numbers: np.ndarray, epoch: int = 0, erase: bool = False
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches of the images of these numbers: ``(B, 3, H, W)`` and labels ``(B,)``.

        Raises:
            DataError: if an image that may not be passed over cannot be read.
        """
        loader = DataLoader(
            pictures,
            self.batch_size,
            sampler=_Order(numbers, epoch),
            num_workers=self.workers,
            collate_fn=_collate,
            pin_memory=self.device.type == "cuda",
            generator=torch.Generator(),  # not the one that a step's seed decides
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
