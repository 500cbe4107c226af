"""DETR of Hugging Face transformers on NASNet-A mobile: its ``TimmBackbone`` takes any timm model by name.

    pip install transformers
    python examples/transformers_detr.py [--pretrained]

The detector itself is untrained: this shows the wiring, a forward pass and a loss. DETR freezes its backbone's batch
norms, so to train it start from pretrained weights: a network of random ones needs norms that move.
"""

from __future__ import annotations

import argparse

import torch
from transformers import DetrConfig, DetrForObjectDetection, TimmBackboneConfig

from nasnet_det import NASNet  # importing the package registers its models with timm
from nasnet_det.weights import load_published


def build(backbone: str = "nasnet_a_mobile", num_labels: int = 80) -> DetrForObjectDetection:
    """A DETR whose backbone's weights are random."""
    last_map = TimmBackboneConfig.from_dict({"backbone": backbone, "out_indices": [4]})
    config = DetrConfig(backbone_config=last_map, encoder_layers=3, decoder_layers=3)
    config.num_labels = num_labels
    return DetrForObjectDetection(config)


def load_backbone(model: DetrForObjectDetection, backbone: str = "nasnet_a_mobile") -> None:
    """Give the backbone its published ImageNet weights."""
    network = next(module for module in model.modules() if isinstance(module, NASNet))
    load_published(network, backbone)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pretrained", action="store_true", help="download the backbone's ImageNet weights")
    arguments = parser.parse_args()
    model = build()
    if arguments.pretrained:
        load_backbone(model)
    images = torch.rand(1, 3, 480, 640) * 2 - 1  # NASNet's images are scaled to [-1, 1]
    labels = [{"class_labels": torch.tensor([16]), "boxes": torch.tensor([[0.5, 0.5, 0.2, 0.3]])}]
    output = model(images, labels=labels)
    print(f"logits {tuple(output.logits.shape)}, boxes {tuple(output.pred_boxes.shape)}, loss {output.loss:.3f}")


if __name__ == "__main__":
    main()
