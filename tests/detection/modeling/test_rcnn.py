"""The whole detector: images resized inside it, results at their own size."""

from __future__ import annotations

from typing import Any

import pytest
import torch

pytest.importorskip("detectron2")

from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage

from nasnet_det.detection.config import ConfigError
from nasnet_det.models.tf_image import resize_bilinear
from nasnet_det.safe_io.images import ImageError


@pytest.fixture
def model(small_config: Any) -> Any:
    torch.manual_seed(0)
    model = build_model(small_config("nasnet_frcnn_mobile_600.yaml", MODEL__NASNET__IMAGE_SIZE=[96, 128]))
    model.train()
    with torch.no_grad():  # statistics that keep the activations of random weights in bounds
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.momentum = 1.0
        for _ in range(2):
            crops = model.roi_heads.second_stage(model.backbone(torch.rand(4, 3, 96, 128))["cut"])
    assert crops.isfinite().all()
    return model.eval()


def image(height: int, width: int) -> torch.Tensor:
    return torch.randint(0, 256, (3, height, width), dtype=torch.uint8)


@torch.no_grad()
def test_every_image_is_resized_as_tensorflow_does_and_scaled_to_one(model: Any) -> None:
    pixels = image(50, 70)
    seen = []
    model.backbone.register_forward_pre_hook(lambda module, arguments: seen.append(arguments[0]))
    model([{"image": pixels}])
    torch.testing.assert_close(seen[0][0], resize_bilinear(pixels, (96, 128)) * (2 / 255) - 1, rtol=0, atol=1e-6)


@torch.no_grad()
def test_boxes_come_back_at_the_size_asked_for(model: Any) -> None:
    pixels = image(50, 70)
    raw = model.inference([{"image": pixels}], do_postprocess=False)[0]
    assert raw.image_size == (50, 70)  # that of what was given, as test-time augmentation reads it
    assert len(raw) > 5
    for size, extra in (((50, 70), {}), ((25, 140), {"height": 25, "width": 140})):
        found = model([{"image": pixels, **extra}])[0]["instances"]
        assert found.image_size == size
        scale = torch.tensor([size[1] / 70, size[0] / 50] * 2)
        torch.testing.assert_close(found.pred_boxes.tensor, raw.pred_boxes.tensor * scale)


@torch.no_grad()
def test_images_in_another_order_of_colours_are_refused(model: Any) -> None:
    image = torch.zeros(3, 8, 8)
    model.preprocess_image([{"image": image, "image_format": "RGB"}, {"image": image}])
    with pytest.raises(ConfigError, match=r"image_format.*BGR.*RGB"):
        model.preprocess_image([{"image": image, "image_format": "BGR"}])


def test_a_batch_is_its_images(model: Any) -> None:
    images = [{"image": image(50, 70)}, {"image": image(80, 40)}]
    proposals = []
    model.proposal_generator.register_forward_hook(lambda module, arguments, outputs: proposals.extend(outputs[0]))
    together = model(images)
    for one, result in zip(images, together, strict=True):
        size = tuple(one["image"].shape[1:])
        assert (model([one])[0]["instances"].image_size, result["instances"].image_size) == (size, size)
    # Detections are not compared: the last bit of a box decides whether a crop's last row is on the border.
    for alone, among in zip(proposals[2:], proposals[:2], strict=True):
        torch.testing.assert_close(among.proposal_boxes.tensor, alone.proposal_boxes.tensor, rtol=1e-3, atol=1e-2)


def test_ground_truth_is_resized_with_its_image(model: Any) -> None:
    truth = Instances((50, 70), gt_boxes=Boxes(torch.tensor([[7.0, 5.0, 35.0, 25.0]])), gt_classes=torch.tensor([2]))
    resized = model.resized({"image": image(50, 70), "instances": truth})["instances"]
    assert resized.image_size == (96, 128)
    torch.testing.assert_close(resized.gt_boxes.tensor, torch.tensor([[12.8, 9.6, 64.0, 48.0]]))
    assert truth.gt_boxes.tensor.tolist() == [[7, 5, 35, 25]]


def test_a_step_learns_and_reaches_every_weight(model: Any) -> None:
    model.train()
    truth = Instances((50, 70), gt_boxes=Boxes(torch.tensor([[7.0, 5.0, 60.0, 45.0]])), gt_classes=torch.tensor([2]))
    with EventStorage():
        losses = model([{"image": image(50, 70), "instances": truth}])
    assert set(losses) == {"loss_rpn_cls", "loss_rpn_loc", "loss_cls", "loss_box_reg"}
    sum(losses.values()).backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


@torch.no_grad()
def test_images_may_be_left_at_their_size(small_config: Any) -> None:
    model = build_model(small_config("nasnet_frcnn.yaml", MODEL__NASNET__IMAGE_SIZE=[0, 0])).eval()
    sizes = []
    model.backbone.register_forward_pre_hook(lambda module, arguments: sizes.append(arguments[0].shape[-2:]))
    model([{"image": image(64, 80)}])
    assert sizes == [(64, 80)]
    with pytest.raises(ImageError, match="80 x 2"):
        model([{"image": image(2, 80)}])
