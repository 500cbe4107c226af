"""The stem convolution, the auxiliary head and the initialization of weights."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from nasnet_det.models.cpu_training import normalize
from nasnet_det.models.operations import LayerSettings


class StemConv(nn.Module):
    """The first convolution, 3x3, and its normalization; VALID and stride 2 for ImageNet, SAME for CIFAR."""

    def __init__(self, in_chans: int, out_channels: int, settings: LayerSettings, stride: int, valid: bool) -> None:
        super().__init__()
        padding = 0 if valid else 1
        self.conv = nn.Conv2d(in_chans, out_channels, 3, stride, padding, bias=False, **settings.factory)
        self.bn = settings.norm(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        return normalize(self.conv(x), self.bn)


def least_side(model: nn.Module) -> int:
    """Return the smallest side of images that a network takes: its first convolution may not pad them."""
    stems = [module.conv for module in model.modules() if isinstance(module, StemConv)]
    return max((int(stem.kernel_size[0]) - 2 * int(stem.padding[0]) for stem in stems), default=1)


class AuxiliaryHead(nn.Module):
    """TF-slim's ``_build_aux_head``: 5x5 average pool of stride 3, 1x1 convolution to 128, a convolution over the whole
    remaining map to 768, a linear layer; batch norm and ReLU after each convolution.

    Args:
        map_size: height and width of the ``(N, in_channels, H, W)`` map that it reads.
    """

    def __init__(self, in_channels: int, num_classes: int, map_size: tuple[int, int], settings: LayerSettings) -> None:
        super().__init__()
        if min(map_size) < 5:
            size = f"at this image size its map is {map_size[0]} x {map_size[1]}"
            remedy = "take larger images, or train without the head (a recipe's aux_weight=0)"
            raise ValueError(f"the auxiliary head pools 5x5 windows, but {size}: {remedy}")
        self.map_size = map_size
        remaining = ((map_size[0] - 5) // 3 + 1, (map_size[1] - 5) // 3 + 1)
        self.act = nn.ReLU()
        self.pool = nn.AvgPool2d(5, stride=3)
        self.project = nn.Conv2d(in_channels, 128, 1, bias=False, **settings.factory)
        self.bn0 = settings.norm(128)
        self.whole = nn.Conv2d(128, 768, remaining, bias=False, **settings.factory)
        self.bn1 = settings.norm(768)
        self.reset_classifier(num_classes, **settings.factory)

    def reset_classifier(self, num_classes: int, **factory: Any) -> None:
        """Replace the linear layer; 0 classes for none. ``factory`` is its device and type."""
        self.fc = nn.Linear(self.whole.out_channels, num_classes, **factory) if num_classes else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(N, in_channels, H, W)`` to logits ``(N, num_classes)``, or to ``(N, 768)`` features without classes.

        Raises:
            ValueError: if the map has another size than the head was built for.
        """
        if tuple(x.shape[-2:]) != self.map_size:
            raise ValueError(
                f"the auxiliary head expects maps of {self.map_size}, got {tuple(x.shape[-2:])}: "
                "create the model with img_size set to the training size"
            )
        x = self.act(self.bn0(self.project(self.pool(self.act(x)))))
        x = self.act(self.bn1(self.whole(x)))
        return self.fc(x.flatten(1))


def initialize(model: nn.Module) -> None:
    """TF-slim's ``variance_scaling_initializer(mode='FAN_OUT')`` for convolutions and linear layers, zero biases.

    A truncated normal of standard deviation ``sqrt(1.3 * 2 / fan_out)``, cut at two of them; a depthwise kernel's fan
    out is its area.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            area = module.kernel_size[0] * module.kernel_size[1]
            _truncated_normal(module.weight, area * (module.out_channels // module.groups))
        elif isinstance(module, nn.Linear):
            _truncated_normal(module.weight, module.out_features)
            nn.init.zeros_(module.bias)


def _truncated_normal(weight: Tensor, fan_out: int) -> None:
    if not fan_out:
        raise ValueError("a layer would have no channel: the network needs more filters")
    if weight.is_meta:
        return
    std = math.sqrt(1.3 * 2.0 / fan_out)
    with torch.no_grad():
        beyond = weight.normal_(std=std).abs() > 2 * std  # one in 22; drawing all of them truncated is slower
        again = weight.new_empty(weight.numel() // 16 + 64)  # enough by 12 standard deviations
        weight.masked_scatter_(beyond, nn.init.trunc_normal_(again, std=std, a=-2 * std, b=2 * std))
