"""A U-Net of segmentation_models_pytorch on NASNet-A mobile: the prefix ``tu-`` takes any timm model as encoder.

    pip install segmentation-models-pytorch
    python examples/smp_unet.py [--pretrained]

The decoder is untrained: this shows the wiring and a forward pass.
"""

from __future__ import annotations

import argparse

import segmentation_models_pytorch as smp
import torch
from torch import nn

from nasnet_det import FAMILY  # importing the package registers its models with timm


def build(pretrained: bool = False, num_classes: int = 21) -> nn.Module:
    """A U-Net for images of any size whose sides are multiples of 32."""
    weights = "imagenet" if pretrained else None
    return smp.Unet("tu-nasnet_a_mobile", encoder_weights=weights, classes=num_classes)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pretrained", action="store_true", help="download the encoder's ImageNet weights")
    arguments = parser.parse_args()
    model = build(arguments.pretrained).eval()
    images = torch.rand(1, 3, 256, 320) * 2 - 1  # NASNet's images are scaled to [-1, 1]
    with torch.no_grad():
        print(f"class logits of every pixel: {tuple(model(images).shape)}")
    print(f"encoder: {FAMILY['nasnet_a_mobile'].notation}")


if __name__ == "__main__":
    main()
