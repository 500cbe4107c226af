"""The settings of child training, and what follows from them: recipe, images and network size."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from nasnet_det.models.plan import Stem
from nasnet_det.models.presets import stem_channels
from nasnet_det.safe_io.settings import build
from nasnet_det.search.costs import NetworkSize
from nasnet_det.search.image_data import TORCHVISION, Split, find_images, load_images
from nasnet_det.training.data.cifar10 import CLASSES, SIDE, Cifar10, DataError, is_cifar10, split
from nasnet_det.training.data.cifar_batches import read_once
from nasnet_det.training.recipe import Recipe, RecipeError

_Count = Annotated[int, Field(ge=1, lt=10**9)]
_Number = Annotated[float, Field(ge=0, lt=1e18)]
_Share = Annotated[float, Field(ge=0, le=1)]


@dataclass(frozen=True)
class ChildConfig:
    """The training of a child. The defaults are the paper's and, where it is silent, TF-slim's ``cifar_config`` notes.

    A cheap proxy sets fewer ``epochs``, ``train_images``, ``validation_images`` or ``num_filters``.

    Args:
        data: the folder of CIFAR-10's official batches or of class folders, or ``torchvision:NAME@FOLDER``; see
            :mod:`nasnet_det.search.image_data`.
        num_cells: N, the normal cells of each of three stages.
        num_filters: F of the first stage.
        epochs: passes over the training images, with a single-period cosine over all of them.
        batch_size: images a step.
        learning_rate: the cosine's start; it ends at 0.
        momentum: of SGD.
        weight_decay: L2, on convolution and linear weights.
        clip_gradient_norm: the largest global norm of the gradient; 0 for no clipping.
        train_images, validation_images: how many of the training images to train and to measure on (of CIFAR-10's
            50,000 by default). The two never overlap, and a smaller number takes a part of what a larger one takes.
        split_seed: the seed of that split; the same for every child of a search.
        split: of images that have no split of their own: ``random``, or ``stratified``, every class in equal shares.
        image_size: the side of the images, in pixels; CIFAR-10's, of 32, are resized to fewer.
        stem: ``cifar`` (a 3x3 convolution) or ``imagenet`` (strided, for larger images).
        whitening: ``channel`` (mean and deviation of the data set) or ``image`` (of each image).
        stop_rules: ``(epoch, accuracy)`` pairs, accuracies from 0 to 1: a child whose best validation accuracy after
            that many epochs is lower is stopped.
        precision: ``auto`` (bfloat16 where the device gains), ``float32`` or ``bfloat16``.
        channels_last: the memory layout; None for what the device gains by.
        mode: ``eager``, ``compile`` or, on a CUDA device, ``graph``; see
            :class:`~nasnet_det.training.execution.Execution`.
        recipe_settings: further settings of the training recipe, by their names in
            :class:`~nasnet_det.training.recipe.Recipe`; ``augmentation.flip`` is one value of a mapping.
        official_data: refuse CIFAR-10 data whose MD5 sums are not the published ones.
    """

    data: str
    num_cells: _Count = 2
    num_filters: _Count = 32
    epochs: _Count = 20
    batch_size: _Count = 32
    learning_rate: _Number = 0.025
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    weight_decay: _Number = 5e-4
    clip_gradient_norm: _Number = 5.0
    train_images: _Count = 45_000
    validation_images: _Count = 5_000
    split_seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    split: Split = "random"
    image_size: Annotated[int, Field(ge=8, le=1024)] = 32
    stem: Stem = "cifar"
    whitening: Literal["channel", "image"] = "channel"
    stop_rules: tuple[tuple[_Count, _Share], ...] = ()
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    channels_last: bool | None = None
    mode: Literal["eager", "compile", "graph"] = "eager"
    recipe_settings: Mapping[str, Any] = field(default_factory=dict)
    official_data: bool = True

    @property
    def recipe(self) -> Recipe:
        """The settings as a training recipe.

        Raises:
            RecipeError: for a setting that is unknown, or of the wrong type or range.
        """
        augmentation: dict[str, Any] = {"whitening": self.whitening}
        if self.image_size != SIDE:
            augmentation["pad"] = min(self.image_size // 8, SIDE)
        settings = {
            "name": "child",
            "data": "cifar",
            "source": "paper appendix A.1 and A.6; TF-slim nets/nasnet/nasnet.py, cifar_config",
            "epochs": self.epochs,
            "batch_size": self.batch_size,
            "learning_rate": self.learning_rate,
            "weight_decay": self.weight_decay,
            "clip_gradient_norm": self.clip_gradient_norm,
        }
        if given := settings.keys() & self.recipe_settings.keys():
            raise RecipeError(f"recipe_settings: {min(given)} is set by the child's own settings; set it there")
        mappings = {"optimizer_options": {"momentum": self.momentum}, "augmentation": augmentation}
        recipe = Recipe.from_dict({**settings, **mappings}, "child").changed(self.recipe_settings)
        if recipe.aux_weight:
            raise RecipeError("recipe_settings: aux_weight must be 0, because children have no auxiliary head")
        return recipe

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        return {**asdict(self), "stop_rules": [list(rule) for rule in self.stop_rules]}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> ChildConfig:
        """Read what :meth:`to_dict` gave.

        Raises:
            ValueError: for a setting that is unknown, or a value of another type or range.
        """
        return build(cls, data, what="child")


def images_of(config: ChildConfig) -> tuple[Cifar10, np.ndarray, np.ndarray]:
    """Return the images, read once in a process, and which of them to train and to validate on."""
    if has_own_images(config.data):
        counts = config.train_images, config.validation_images
        return load_images(config.data, config.image_size, *counts, config.split_seed, config.split)
    if config.image_size > SIDE:
        raise DataError(
            f"CIFAR-10's images have {SIDE} pixels; image_size must be at most that, got {config.image_size}"
        )
    data = read_once(config.data, config.official_data, config.image_size)
    return data, *split(len(data.train), config.validation_images, config.train_images, config.split_seed)


def has_own_images(data: str) -> bool:
    """Return whether data are those of a folder or a torchvision data set rather than CIFAR-10's official batches."""
    return data.startswith(TORCHVISION) or not is_cifar10(data)


def num_classes_of(config: ChildConfig) -> int:
    """Return the number of classes of a child's data, without decoding images."""
    return len(find_images(config.data).classes) if has_own_images(config.data) else len(CLASSES)


def network_size(config: ChildConfig, num_classes: int = len(CLASSES)) -> NetworkSize:
    """Return the size of child networks: N normal cells a stage, on the CIFAR stem as in TF-slim's ``cifar_config`` or
    on the ImageNet stem as in its ``mobile_imagenet_config``."""
    values = {name: getattr(config, name) for name in ("num_cells", "num_filters", "stem", "image_size")}
    channels = stem_channels(config.stem, config.num_filters)
    return build(NetworkSize, {**values, "stem_channels": channels, "num_classes": num_classes}, what="child")
