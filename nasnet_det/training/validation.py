"""Top-1 and top-5 of a network on an ImageNet folder, with the preprocessing its figures were published with.

timm's (``resize the shorter side, cut out the middle``, antialiased) is what its published figures of ``nasnetalarge``
used. TF-slim's (``inception_preprocessing.preprocess_for_eval``) cuts out the central 87.5 % of each side and resizes
that to the square, bilinearly, without half-pixel centres or antialiasing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from timm.data import ImageNetInfo
from torch import Tensor, nn

from nasnet_det.models.tf_image import resize_bilinear
from nasnet_det.training.data.cifar10 import DataError
from nasnet_det.training.data.image_folder import Loader, Pictures, Preprocessing, validation_folder
from nasnet_det.training.engine import Evaluation, evaluate
from nasnet_det.training.execution import Execution


@dataclass(frozen=True)
class SlimEvaluation:
    """TF-slim's evaluation preprocessing of a PIL image to float32 ``(3, size, size)`` in 0 to 255."""

    size: int
    central_fraction: float = 0.875

    def __call__(self, image: Image.Image) -> Tensor:
        pixels = torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)
        height, width = pixels.shape[1:]
        # tf.image.central_crop: what is cut off one side is rounded down.
        top, left = (int((side - side * self.central_fraction) / 2) for side in (height, width))
        return resize_bilinear(pixels[:, top : height - top, left : width - left], (self.size, self.size))


def label_names(config: dict[str, Any], num_classes: int) -> Sequence[str] | None:
    """The names of a model's classes in the order of its logits: as saved with it, or ImageNet's 1000 synsets; None if
    neither is known."""
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
    progress: Any = None,
) -> Evaluation:
    """Measure a model on the images of ``root``.

    Args:
        root: holds ``val`` or ``validation`` with the class folders, or these themselves.
        names: the model's classes. A folder of some of them is measured on these, against all logits; without names
            the folder's own classes are taken in natural order.
        slim: TF-slim's preprocessing instead of timm's.
        progress: told the number of images after every batch.

    Raises:
        DataError: if the folder has other classes than the model, or an image cannot be read.
    """
    transform = SlimEvaluation(preprocessing.input_size[-1]) if slim else preprocessing.evaluation_transform()
    folder = validation_folder(root)
    pictures = Pictures(folder if folder.is_dir() else root, transform, names, strict=True)
    num_classes = int(model.num_classes)  # type: ignore[arg-type]
    if names is None and len(pictures.classes) != num_classes:
        raise DataError(f"{root} has {len(pictures.classes)} classes, but the model has {num_classes}")
    loader = Loader(preprocessing, execution.device, batch_size, workers)
    model = model.to(execution.device, memory_format=execution.memory_format)  # type: ignore[call-overload]
    return evaluate(model, _counted(loader.batches(pictures, np.arange(len(pictures))), progress), execution)


def with_image_size(preprocessing: Preprocessing, size: int | None, crop: float | None) -> Preprocessing:
    """The preprocessing at another size or crop, where given."""
    if size is not None:
        preprocessing = replace(preprocessing, input_size=(preprocessing.input_size[0], size, size))
    return preprocessing if crop is None else replace(preprocessing, crop_pct=crop)


def _counted(batches: Iterator[tuple[Tensor, Tensor]], progress: Any) -> Iterator[tuple[Tensor, Tensor]]:
    for images, labels in batches:
        yield images, labels
        if progress is not None:
            progress(len(labels))
