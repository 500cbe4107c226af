"""Detectors in fused form: the same features, logits and detections."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("detectron2")

from detectron2.modeling import build_model
from torch import Tensor

from nasnet_det.detection.config import ConfigError, read_config
from nasnet_det.detection.modeling.fused import for_inference
from nasnet_det.fusion import optimize_for_inference
from nasnet_det.fusion.network import FusedCell, FusedNASNet
from tests.helpers import randomize


def detector(small_config: Any, name: str = "nasnet_frcnn_mobile_600.yaml", **more: Any) -> Any:
    torch.manual_seed(0)
    model = build_model(small_config(name, **more)).eval()
    for network in (model.backbone, model.roi_heads):
        randomize(network)
    return model


def difference(fused: Tensor, plain: Tensor) -> float:
    return ((fused - plain).abs().max() / plain.abs().max()).item()


@torch.no_grad()
@pytest.mark.parametrize("name", ["nasnet_frcnn_mobile_600.yaml", "nasnet_frcnn.yaml"])
def test_both_stages(small_config: Any, name: str) -> None:
    """Features and class logits in float32 to 2e-6, on the same crops."""
    model = detector(small_config, name)
    fused = optimize_for_inference(model)
    assert isinstance(fused.backbone.network, FusedNASNet)
    stages = (fused.backbone.network, fused.roi_heads.second_stage.network)
    assert all(isinstance(cell, FusedCell) for network in stages for cell in network.cells.values())
    images = torch.randn(1, 3, 128, 128)
    cut, fused_cut = model.backbone(images)["cut"], fused.backbone(images)["cut"]
    assert difference(fused_cut, cut) < 2e-6
    boxes = torch.tensor([[0.1, 0.1, 0.6, 0.9], [0.0, 0.0, 1.0, 1.0], [0.3, 0.2, 0.35, 0.3]])
    crops = model.roi_heads.crop(cut[0], boxes)
    features, fused_features = model.roi_heads.second_stage(crops), fused.roi_heads.second_stage(crops)
    assert difference(fused_features, features) < 2e-6
    logits, fused_logits = (
        heads.class_layer(maps.mean(dim=(2, 3)))
        for heads, maps in ((model.roi_heads, features), (fused.roi_heads, fused_features))
    )
    assert difference(fused_logits, logits) < 2e-6


@torch.no_grad()
def draw(model: torch.nn.Module, rng: np.random.Generator) -> None:
    """Fill weights and batch norms from ``rng``, the same under every release of PyTorch."""

    def fill(tensor: Tensor, values: np.ndarray) -> None:
        tensor.copy_(torch.from_numpy(values))

    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            for tensor, low, high in (
                (module.running_mean, -0.5, 0.5),
                (module.running_var, 0.5, 2.0),
                (module.weight, 0.5, 1.5),
                (module.bias, -0.5, 0.5),
            ):
                fill(tensor, rng.uniform(low, high, tensor.shape))
        elif isinstance(module, (torch.nn.Conv2d, torch.nn.Linear)):
            fill(module.weight, rng.standard_normal(module.weight.shape) * (2 / module.weight[0].numel()) ** 0.5)


@torch.no_grad()
def test_predictions_are_equal(small_config: Any) -> None:
    """In float64: in float32 the order of near scores, and with it suppression, would depend on the processor."""
    model = detector(small_config).double()
    rng = np.random.default_rng(0)
    draw(model, rng)
    # Features of random weights are large: boxes would leave the image.
    head, heads = model.proposal_generator.head, model.roi_heads
    for layer in (head.objectness, head.boxes, heads.class_layer, heads.box_layer):
        layer.weight.mul_(0.1)
    fused = optimize_for_inference(model)
    for _ in range(3):
        image = torch.from_numpy(rng.integers(0, 256, (3, 60, 90), dtype=np.uint8))
        (plain,), (found,) = model([{"image": image}]), fused([{"image": image}])
        plain, found = plain["instances"], found["instances"]
        assert len(found) == len(plain) > 0
        assert torch.equal(found.pred_classes, plain.pred_classes)
        torch.testing.assert_close(found.scores, plain.scores, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(found.pred_boxes.tensor, plain.pred_boxes.tensor, rtol=1e-9, atol=1e-7)


def test_the_config_asks_for_it(small_config: Any) -> None:
    model = detector(small_config)
    assert for_inference(model, small_config("nasnet_frcnn_mobile_600.yaml")) is model
    fused = for_inference(model, small_config("nasnet_frcnn_mobile_600.yaml", MODEL__NASNET__FUSED=True))
    assert isinstance(fused.backbone.network, FusedNASNet) and not isinstance(model.backbone.network, FusedNASNet)


def test_a_key_of_older_versions_is_ignored(small_config: Any, tmp_path: Path) -> None:
    """A run's config.yaml holds every key that its version had."""
    cfg = small_config("nasnet_frcnn_mobile_600.yaml", MODEL__NASNET__CUDA_GRAPHS=True)
    assert "CUDA_GRAPHS" not in cfg.MODEL.NASNET
    file = tmp_path / "config.yaml"
    file.write_text("MODEL: {NASNET: {CUDA_GRAPHS: true, FUSED: true}}")
    assert read_config(file).MODEL.NASNET.FUSED


def test_a_pyramid_s_backbone_too(small_config: Any) -> None:
    model = build_model(small_config("fpn_mobile.yaml")).eval()
    fused = for_inference(model, small_config("fpn_mobile.yaml", MODEL__NASNET__FUSED=True))
    assert any(isinstance(module, FusedNASNet) for module in fused.modules())


def test_a_model_without_such_a_network_is_refused(small_config: Any) -> None:
    cfg = small_config("nasnet_frcnn_mobile_600.yaml", MODEL__NASNET__FUSED=True)
    with pytest.raises(ConfigError, match=r"MODEL\.NASNET\.FUSED: .*Linear"):
        for_inference(torch.nn.Linear(1, 1), cfg)
