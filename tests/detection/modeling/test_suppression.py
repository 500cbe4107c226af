"""Suppression in TensorFlow's order, against the definition written out."""

from __future__ import annotations

import math

import pytest
import torch

from nasnet_det.detection.modeling.suppression import Found, batched_nms, clip, exceed, has_area, multiclass_nms


def overlap(a: list[float], b: list[float]) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    inside = max(width, 0) * max(height, 0)
    return inside / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - inside)


def greedy(boxes: list[list[float]], scores: list[float], threshold: float, limit: int) -> list[int]:
    kept: list[int] = []
    for i in sorted(range(len(scores)), key=lambda i: (-scores[i], i)):
        if len(kept) < limit and all(overlap(boxes[i], boxes[j]) <= threshold for j in kept):
            kept.append(i)
    return kept


def suppress(boxes: torch.Tensor, scores: torch.Tensor, threshold: float, limit: int) -> torch.Tensor:
    """Return the indices of the boxes kept of one set."""
    kept, valid = batched_nms(boxes[None], scores[None], torch.ones(1, len(boxes), dtype=bool), threshold, limit)
    assert kept.shape == valid.shape == (1, limit)
    return kept[valid]


def select_existing(boxes: torch.Tensor, scores: torch.Tensor, *rest: object) -> Found:
    return multiclass_nms(boxes, scores, torch.ones(len(boxes), dtype=bool), *rest).existing()  # type: ignore[arg-type]


def random_boxes(count: int, spread: float = 20.0) -> torch.Tensor:
    corner = torch.rand(count, 2) * spread
    return torch.cat([corner, corner + 5 + torch.rand(count, 2) * 10], dim=1)


@pytest.mark.parametrize("limit", [1, 7, 300])
def test_the_same_as_greedy_with_ties_by_index(limit: int) -> None:
    torch.manual_seed(0)
    boxes, scores = random_boxes(300), (torch.rand(300) * 10).round() / 10
    assert suppress(boxes, scores, 0.5, limit).tolist() == greedy(boxes.tolist(), scores.tolist(), 0.5, limit)


def test_looking_at_the_best_boxes_first_changes_nothing() -> None:
    torch.manual_seed(1)
    boxes, scores = random_boxes(4000, spread=3.0), torch.rand(4000)  # so crowded that few of the first 1000 survive
    assert suppress(boxes, scores, 0.3, 20).tolist() == greedy(boxes.tolist(), scores.tolist(), 0.3, 20)


def test_endless_boxes_suppress_each_other() -> None:
    inf = math.inf
    boxes = torch.tensor([[-inf, -inf, inf, inf], [-inf, -inf, inf, inf], [0.0, 0.0, 5.0, 5.0]])
    assert suppress(boxes, torch.tensor([0.9, 0.8, 0.7]), 0.6, 10).tolist() == [0, 2]


def test_scores_that_tensorflow_flushes_to_zero_do_not_exceed_zero() -> None:
    assert exceed(torch.tensor([0.0, 1e-40, 1e-37, 0.5]), 0.0).tolist() == [False, False, True, True]
    assert exceed(torch.tensor([0.2, 0.3]), 0.2).tolist() == [False, True]


def test_clipping_and_area() -> None:
    clipped = clip(torch.tensor([[-5.0, 3.0, 50.0, 20.0], [40.0, 1.0, 60.0, 2.0]]), (10, 30))
    assert clipped.tolist() == [[0, 3, 30, 10], [30, 1, 30, 2]]
    assert has_area(clipped).tolist() == [True, False]


def test_what_does_not_exist_suppresses_nothing() -> None:
    torch.manual_seed(3)
    boxes, scores, valid = random_boxes(200), torch.rand(200), torch.rand(200) > 0.5
    kept, there = batched_nms(boxes[None], scores[None], valid[None], 0.4, 250)
    positions = valid.nonzero()[:, 0]
    expected = greedy(boxes[valid].tolist(), scores[valid].tolist(), 0.4, 250)
    assert kept[there].tolist() == positions[expected].tolist()
    assert there[0].tolist() == [True] * len(expected) + [False] * (250 - len(expected))


def test_sets_are_apart_and_may_be_empty() -> None:
    boxes, valid = random_boxes(30).expand(3, -1, -1), torch.ones(3, 30, dtype=bool)
    scores = torch.rand(3, 30)
    valid[1] = False
    kept, there = batched_nms(boxes, scores, valid, 0.5, 9)
    assert not there[1].any()
    for one in (0, 2):
        assert kept[one][there[one]].tolist() == greedy(boxes[one].tolist(), scores[one].tolist(), 0.5, 9)
    kept, there = batched_nms(boxes[:, :0], scores[:, :0], valid[:, :0], 0.5, 9)
    assert kept.shape == (3, 9) and not there.any()


def test_candidates_that_do_not_exist_are_not_selected() -> None:
    torch.manual_seed(4)
    boxes, scores = torch.stack([random_boxes(40) for _ in range(3)], dim=1), torch.rand(40, 3)
    valid = torch.rand(40) > 0.3
    settings = ((30, 30), 0.2, 0.5, 8, 15)
    found = multiclass_nms(boxes, scores, valid, *settings)
    assert len(found.valid) == 15
    expected = select_existing(boxes[valid], scores[valid], *settings)
    for got, wanted in zip(found.existing()[:3], expected[:3], strict=True):
        assert torch.equal(got, wanted)
    assert torch.equal(found.existing().origins, valid.nonzero()[:, 0][expected.origins])


def test_boxes_are_suppressed_before_they_are_clipped() -> None:
    # Clipped, both would be the same box; as decoded they hardly overlap, so both stay.
    boxes = torch.tensor([[[-100.0, 0.0, 10.0, 10.0]], [[0.0, 0.0, 10.0, 10.0]]])
    found, scores, _, origin, _ = select_existing(boxes, torch.tensor([[0.9], [0.8]]), (10, 10), 0.0, 0.6, 100, 100)
    assert found.tolist() == [[0, 0, 10, 10]] * 2
    assert origin.tolist() == [0, 1]
    assert scores.tolist() == pytest.approx([0.9, 0.8])


def test_what_lies_outside_is_dropped_after_it_was_counted() -> None:
    # The best box of the class is outside: it counts as the only one of its class, and is dropped.
    boxes = torch.tensor(
        [[[20.0, 0.0, 30.0, 10.0], [0.0, 0.0, 5.0, 5.0]], [[0.0, 0.0, 9.0, 9.0], [0.0, 0.0, 4.0, 4.0]]]
    )
    scores = torch.tensor([[0.9, 0.2], [0.8, 0.1]])
    found, _, labels, origin, _ = select_existing(boxes, scores, (10, 10), 0.0, 0.6, 1, 100)
    assert (labels.tolist(), origin.tolist(), found.tolist()) == ([1], [0], [[0, 0, 5, 5]])


def test_limits_per_class_and_in_all() -> None:
    torch.manual_seed(2)
    boxes = torch.stack([random_boxes(40, spread=200.0) for _ in range(3)], dim=1)
    scores = torch.rand(40, 3)
    found, kept, labels, origin, _ = select_existing(boxes, scores, (300, 300), 0.3, 0.5, 8, 15)
    assert len(found) == 15
    assert all((labels == label).sum() <= 8 for label in range(3))
    assert kept.tolist() == sorted(kept.tolist(), reverse=True)
    assert torch.equal(kept, scores[origin, labels])
    everything = []
    for label in range(3):
        candidates = (scores[:, label] > 0.3).nonzero()[:, 0]
        order = greedy(boxes[candidates, label].tolist(), scores[candidates, label].tolist(), 0.5, 8)
        everything += [(float(scores[candidates[i], label]), label) for i in order]
    expected = sorted(everything, reverse=True)[:15]
    assert [label for _, label in expected] == labels.tolist()
