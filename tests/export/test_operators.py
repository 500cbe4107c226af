"""Operators of exported detectors, in every installed runtime."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("detectron2")
pytest.importorskip("onnxscript")

from nasnet_det.detection.modeling.suppression import stable_topk, suppress
from nasnet_det.export import available, load_package, save_package
from nasnet_det.export.programs import Program

#: Inductor compiles for half a minute, and detectors in it are among the slow tests, too.
RUNTIMES = [
    pytest.param(name, marks=pytest.mark.slow if name == "inductor" else ()) for name in available("float32", True)
]


class Brightest(nn.Module):
    """The indices of the ten brightest pixels, of which many are equal."""

    def forward(self, images: Tensor) -> Tensor:
        return stable_topk(images.sum(dim=1).flatten(1).round(), 10)


class BrightBoxes(nn.Module):
    """Boxes of 20 x 20 around every pixel, suppressed by brightness, which is equal for many."""

    def forward(self, images: Tensor) -> Tensor:
        rows, columns = (torch.arange(side, dtype=torch.float32) for side in images.shape[2:])
        corners = torch.stack(torch.meshgrid(columns, rows, indexing="xy"), dim=2).reshape(1, -1, 2)
        boxes = torch.cat([corners, corners + 20], dim=2).expand(images.shape[0], -1, 4)
        return suppress(boxes, images.sum(dim=1).flatten(1).round(), 0.5, 10)


@pytest.mark.parametrize("model", [Brightest(), BrightBoxes()], ids=["topk", "suppress"])
@pytest.mark.parametrize("runtime", RUNTIMES)
def test_equal_scores_are_taken_in_order(runtime: str, model: nn.Module, tmp_path: Path) -> None:
    program = Program(model.eval(), torch.rand(2, 3, 20, 30), ["indices"], (0, 2, 3), {"kind": "detector"})
    package = load_package(save_package(program, tmp_path / "model", runtime).path)
    for size in ((20, 30), (41, 7), (2, 3), (5, 2), (1, 1)):
        images = torch.rand(3, 3, *size)
        assert torch.equal(package(images), model(images))


def test_the_largest_of_equal_scores_is_the_earlier() -> None:
    scores = torch.tensor([[1.0, 3, 3, 2, 3], [0, 0, 0, 0, 0]])
    assert stable_topk(scores, 4).tolist() == [[1, 2, 4, 3], [0, 1, 2, 3]]
    assert stable_topk(scores, 9).shape == (2, 5)
