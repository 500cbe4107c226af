"""Top-1 and top-5 accuracy on an ImageNet folder or on CIFAR-10's test images.

Two preprocessings of an ImageNet folder reproduce published figures. timm's (resize the shorter side with antialiasing,
center crop) belongs to its figures of ``nasnetalarge``. TF-slim's (``inception_preprocessing.preprocess_for_eval``)
crops the central 87.5 % of each side and resizes bilinearly, without half-pixel centers or antialiasing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from timm.data import ImageNetInfo
from torch import Tensor, nn

from nasnet_det.models.tf_image import resize_bilinear
from nasnet_det.training.data.cifar10 import CLASSES, SIDE, DataError
from nasnet_det.training.data.cifar_batches import DeviceImages, read_once
from nasnet_det.training.data.image_folder import Loader, Pictures, Preprocessing, validation_folder
from nasnet_det.training.engine import Evaluation, evaluate_classifier
from nasnet_det.training.execution import Execution

Progress = Callable[[int], object]


@dataclass(frozen=True)
class SlimEvaluation:
    """TF-slim's evaluation transform, from a PIL image to float32 ``(3, size, size)`` in 0 to 255."""

    size: int
    central_fraction: float = 0.875

    def __call__(self, image: Image.Image) -> Tensor:
        pixels = torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)
        height, width = pixels.shape[1:]
        # tf.image.central_crop rounds down the margin on each side.
        top, left = (int((side - side * self.central_fraction) / 2) for side in (height, width))
        return resize_bilinear(pixels[:, top : height - top, left : width - left], (self.size, self.size))


def label_names(config: dict[str, Any], num_classes: int) -> Sequence[str] | None:
    """Return the names of a model's classes in the order of its logits: those saved with it, or ImageNet's 1000
    synsets; None if it has neither."""
    saved = config.get("label_names")
    if isinstance(saved, (list, tuple)) and len(saved) == num_classes:
        return [str(name) for name in saved]
    return ImageNetInfo("imagenet-1k").label_names() if num_classes == 1000 else None


def validate(
    model: nn.Module,
    root: Path,
    preprocessing: Preprocessing,
    execution: Execution,
    names: Sequence[str] | None = None,
    slim: bool = False,
    batch_size: int = 64,
    workers: int = 4,
    progress: Progress | None = None,
) -> Evaluation:
    """Evaluate a model on an ImageNet folder.

    Args:
        model: maps ``(N, 3, H, W)`` to logits; has an attribute ``num_classes``.
        root: the folder of ``val`` or ``validation``, or of the class folders themselves.
        preprocessing: the model's preprocessing.
        execution: device, precision, memory layout and mode.
        names: the model's class names. The folder may have a subset of them; predictions are over all logits. Without
            names the folder must have all classes, labelled in natural order.
        slim: TF-slim's preprocessing instead of timm's.
        batch_size, workers: images in a batch, and processes that read them.
        progress: called with the number of images after every batch.

    Raises:
        DataError: if the folder has classes that the model lacks, or an image is not readable.
    """
    transform = SlimEvaluation(preprocessing.input_size[-1]) if slim else preprocessing.evaluation_transform()
    folder = validation_folder(root)
    pictures = Pictures(folder if folder.is_dir() else root, transform, names, strict=True)
    num_classes = int(model.num_classes)  # type: ignore[arg-type]
    if names is None and len(pictures.classes) != num_classes:
        raise DataError(f"{root} has {len(pictures.classes)} classes, but the model has {num_classes}")
    loader = Loader(preprocessing, execution.device, batch_size, workers)
    return _evaluate(model, loader.batches(pictures, np.arange(len(pictures))), execution, progress)


def validate_cifar10(
    model: nn.Module,
    root: Path,
    preprocessing: Preprocessing,
    execution: Execution,
    batch_size: int = 64,
    progress: Progress | None = None,
    official: bool = True,
) -> Evaluation:
    """Evaluate a model on CIFAR-10's 10,000 test images, of the size, mean and deviation of its preprocessing.

    Args:
        root: a folder of CIFAR-10's batches.
        official: see :func:`nasnet_det.training.data.cifar10.load_cifar10`.

    Other arguments as in :func:`validate`.

    Raises:
        DataError: if the batches are missing or damaged, or the model does not take square images of at most 32 pixels
            and 10 classes.
    """
    num_classes, (height, width) = int(model.num_classes), preprocessing.input_size[-2:]  # type: ignore[arg-type]
    if num_classes != len(CLASSES) or not height == width <= SIDE:
        raise DataError(
            f"CIFAR-10 has {len(CLASSES)} classes and {SIDE} x {SIDE} pixels, but the model has {num_classes} classes "
            f"and {height} x {width} pixels"
        )
    images = DeviceImages(
        read_once(str(root), official, height).test, execution.device, mean=preprocessing.mean, std=preprocessing.std
    )
    batches = map(images.take, torch.arange(len(images), device=execution.device).split(batch_size))
    return _evaluate(model, batches, execution, progress)


def _evaluate(
    model: nn.Module, batches: Iterator[tuple[Tensor, Tensor]], execution: Execution, progress: Progress | None
) -> Evaluation:
    model = model.to(execution.device, memory_format=execution.memory_format)  # type: ignore[call-overload]
    return evaluate_classifier(model, _counted(batches, progress), execution)


def _counted(batches: Iterator[tuple[Tensor, Tensor]], progress: Progress | None) -> Iterator[tuple[Tensor, Tensor]]:
    for images, labels in batches:
        yield images, labels
        if progress is not None:
            progress(len(labels))
