"""torchvision's Faster R-CNN on NASNet-A mobile with a feature pyramid.

    python examples/torchvision_faster_rcnn.py [--pretrained]

The detector itself is untrained: this shows the wiring, a training step's losses and detections.
"""

from __future__ import annotations

import argparse
from collections import OrderedDict
from typing import Any

import timm
import torch
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.rpn import AnchorGenerator
from torchvision.ops import FeaturePyramidNetwork, MultiScaleRoIAlign
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from nasnet_det import FAMILY  # importing the package registers its models with timm

LEVELS = ("2", "3", "4", "5")


class PyramidBackbone(nn.Module):
    """The maps of a timm model at strides 4 to 32, joined by a feature pyramid."""

    def __init__(self, name: str, pretrained: bool, out_channels: int = 256) -> None:
        super().__init__()
        body: Any = timm.create_model(name, features_only=True, pretrained=pretrained, out_indices=(1, 2, 3, 4))
        self.body = body
        self.fpn = FeaturePyramidNetwork(body.feature_info.channels(), out_channels, LastLevelMaxPool())
        self.out_channels = out_channels  # read by torchvision

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Maps ``(N, 3, H, W)`` to five maps of ``out_channels`` by name."""
        return self.fpn(OrderedDict(zip(LEVELS, self.body(x), strict=True)))


def build(pretrained: bool = False, num_classes: int = 91, **options: int) -> FasterRCNN:
    """A Faster R-CNN; ``num_classes`` counts the background. Options go to torchvision's ``FasterRCNN``."""
    sizes = tuple((size,) for size in (32, 64, 128, 256, 512))
    return FasterRCNN(
        PyramidBackbone("nasnet_a_mobile", pretrained),
        num_classes,
        rpn_anchor_generator=AnchorGenerator(sizes, ((0.5, 1.0, 2.0),) * len(sizes)),
        box_roi_pool=MultiScaleRoIAlign(list(LEVELS), output_size=7, sampling_ratio=2),
        image_mean=[0.5, 0.5, 0.5],
        image_std=[0.5, 0.5, 0.5],
        **options,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pretrained", action="store_true", help="download the backbone's ImageNet weights")
    arguments = parser.parse_args()
    model = build(arguments.pretrained, min_size=320, max_size=480)
    print(f"backbone: {FAMILY['nasnet_a_mobile'].notation}")
    image = torch.rand(3, 240, 320)
    target = {"boxes": torch.tensor([[40.0, 30.0, 200.0, 180.0]]), "labels": torch.tensor([17])}
    losses = model([image], [target])
    print(", ".join(f"{name} {loss:.3f}" for name, loss in losses.items()))
    with torch.no_grad():
        (detections,) = model.eval()([image])
    print(f"{len(detections['boxes'])} boxes")


if __name__ == "__main__":
    main()
