"""Detections of a fixed size."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("detectron2")

from nasnet_det.export.fixed_detections import in_order_of


def test_detections_of_nearly_equal_scores_are_compared_in_one_order() -> None:
    boxes = torch.tensor([[[0.0, 0, 5, 5], [9, 9, 20, 20], [0, 0, 5, 5], [0, 0, 0, 0]]])
    scores, classes = torch.tensor([[0.9, 0.5, 0.4, 0]]), torch.tensor([[1, 0, 2, 0]])
    expected = [boxes, scores, classes, torch.tensor([3]), torch.rand(1, 4, 2, 2)]
    order = [1, 2, 0, 3]
    found = [field[:, order] if field.dim() > 1 else field for field in expected]
    assert all(map(torch.equal, in_order_of(expected, found), expected))
    found[2] = found[2].clone()
    found[2][0, 1] = 1
    assert not torch.equal(in_order_of(expected, found)[2], classes)
