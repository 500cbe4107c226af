"""Settings that come with a stem: batch norm, classes and preprocessing (TF-slim ``nets/nasnet/nasnet.py``)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from nasnet_det.models.plan import Stem


@dataclass(frozen=True)
class Preset:
    """The settings of ``cifar_config`` or of the ImageNet configs.

    Args:
        num_classes: classes of the data set.
        image_size: side of the square input in pixels.
        bn_eps: batch norm's epsilon.
        bn_momentum: batch norm's momentum in PyTorch's sense, 1 - TF's decay.
        mean, std: of each channel of an image in [0, 1].
        interpolation, crop_pct: how timm resizes and crops images.
    """

    num_classes: int
    image_size: int
    bn_eps: float
    bn_momentum: float
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: str
    crop_pct: float

    def norm_arguments(self) -> dict[str, float]:
        """Return the keyword arguments of :class:`NASNet` for batch norm."""
        return {"bn_eps": self.bn_eps, "bn_momentum": self.bn_momentum}

    def data_config(self) -> dict[str, Any]:
        """Return timm's description of the preprocessing, without the size."""
        return {"mean": self.mean, "std": self.std, "interpolation": self.interpolation, "crop_pct": self.crop_pct}


_HALF = (0.5, 0.5, 0.5)
_CIFAR_MEAN, _CIFAR_STD = (0.49139968, 0.48215841, 0.44653091), (0.24703223, 0.24348513, 0.26158784)
#: CIFAR-10's classes in the order of their labels.
CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")

PRESETS: dict[Stem, Preset] = {
    "imagenet": Preset(1000, 224, 1e-3, 0.0003, _HALF, _HALF, "bicubic", 0.875),
    "cifar": Preset(10, 32, 1e-5, 0.1, _CIFAR_MEAN, _CIFAR_STD, "bilinear", 1.0),
}


def stem_channels(stem: Stem, num_filters: int) -> int:
    """Return the channels of the first convolution: 3 F for CIFAR, 32 for ImageNet (the mobile network's)."""
    return 3 * num_filters if stem == "cifar" else 32
