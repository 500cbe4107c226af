"""Detections of a fixed size."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("detectron2")

from nasnet_det.export.fixed_detections import found_again, in_order_of


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


def test_a_detection_is_found_again_by_one_of_its_class_and_place() -> None:
    boxes = torch.tensor([[[0.0, 0, 10, 10], [0, 0, 10, 10], [50, 50, 60, 60], [80, 80, 90, 90], [0, 0, 0, 0]]])
    scores, classes = torch.tensor([[0.9, 0.8, 0.7, 0.4, 0]]), torch.tensor([[1, 1, 2, 0, 0]])
    assert found_again((boxes, scores, classes), (boxes, scores, classes)) == (3, 3)
    assert found_again((boxes[:, :1], scores[:, :1], classes[:, :1]), (boxes, scores, classes)) == (1, 3)
    assert found_again((boxes + 6, scores, classes), (boxes, scores, classes)) == (0, 3)
    assert found_again((boxes, scores, classes + 1), (boxes, scores, classes)) == (0, 3)
    assert found_again((boxes, scores / 2, classes), (boxes, scores, classes)) == (0, 3)
    assert found_again((boxes[:, :0], scores[:, :0], classes[:, :0]), (boxes, scores, classes)) == (0, 3)
