"""The examples run unchanged: the models work in other libraries."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest
import timm
import torch

from nasnet_det import NASNet

EXAMPLES = Path(__file__).parents[2] / "examples"


def example(name: str) -> dict[str, Any]:
    torch.manual_seed(0)
    return runpy.run_path(str(EXAMPLES / f"{name}.py"))


def network_of(model: torch.nn.Module) -> NASNet:
    (network,) = (module for module in model.modules() if isinstance(module, NASNet))
    return network


def test_detr_of_transformers(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    pytest.importorskip("scipy")  # DETR's matching
    build = example("transformers_detr")["build"]
    model = build(num_labels=5)
    images = torch.rand(1, 3, 96, 128) * 2 - 1
    # DETR's frozen norms need statistics, as pretrained weights have them.
    source = timm.create_model("nasnet_a_mobile", num_classes=0, bn_momentum=1.0)
    source.train()(torch.rand(2, 3, 96, 128) * 2 - 1)
    network_of(model).load_state_dict(source.state_dict(), strict=False)
    labels = [{"class_labels": torch.tensor([1]), "boxes": torch.tensor([[0.5, 0.5, 0.2, 0.3]])}]
    output = model(images, labels=labels)
    assert output.logits.shape == (1, 100, 6) and output.pred_boxes.shape == (1, 100, 4)
    output.loss.backward()
    gradient = network_of(model).stem.conv.weight.grad
    assert gradient is not None and gradient.abs().sum() > 0

    model.eval().save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path).eval()
    with torch.no_grad():
        torch.testing.assert_close(again(images).logits, model(images).logits)


def test_unet_of_segmentation_models_pytorch() -> None:
    pytest.importorskip("segmentation_models_pytorch")
    model = example("smp_unet")["build"](num_classes=3)
    logits = model(torch.rand(2, 3, 64, 96) * 2 - 1)
    assert logits.shape == (2, 3, 64, 96)
    logits.mean().backward()
    gradient = network_of(model).stem.conv.weight.grad
    assert gradient is not None and gradient.abs().sum() > 0


def test_faster_rcnn_of_torchvision() -> None:
    model = example("torchvision_faster_rcnn")["build"](num_classes=4, min_size=96, max_size=128)
    image = torch.rand(3, 70, 101)
    target = {"boxes": torch.tensor([[10.0, 5.0, 60.0, 50.0]]), "labels": torch.tensor([2])}
    losses = model([image], [target])
    assert len(losses) == 4 and all(loss.isfinite() for loss in losses.values())
    sum(losses.values()).backward()
    gradient = network_of(model).stem.conv.weight.grad
    assert gradient is not None and gradient.abs().sum() > 0
    with torch.no_grad():
        (detections,) = model.eval()([image])
    assert detections["boxes"].shape[1:] == (4,)


@pytest.mark.parametrize(
    ("name", "needs"),
    [
        ("transformers_detr", "transformers"),
        ("smp_unet", "segmentation_models_pytorch"),
        ("torchvision_faster_rcnn", "torchvision"),
    ],
)
def test_an_example_runs_as_a_script(
    name: str, needs: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip(needs)
    monkeypatch.setattr("sys.argv", [f"{name}.py"])
    example(name)["main"]()
    assert capsys.readouterr().out.strip()
