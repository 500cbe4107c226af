"""The Triton kernel of suppression against torchvision's. Run by ``test_suppression.py`` in a process of its own: on a
CPU Triton must be told to interpret before it is imported."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torchvision.ops import nms

from nasnet_det.detection.modeling import suppression, suppression_kernel
from nasnet_det.detection.modeling.suppression_kernel import _float32_below, suppress_sorted

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def boxes_of(sets: int, count: int, spread: float) -> Tensor:
    corner = torch.rand(sets, count, 2) * spread
    return torch.cat([corner, corner + 1 + torch.rand(sets, count, 2) * 10], dim=2).to(DEVICE)


def expected(boxes: Tensor, count: int, threshold: float, limit: int) -> list[int]:
    kept = nms(boxes[:count].cpu(), torch.arange(count, 0, -1).float(), threshold).tolist()[:limit]
    return kept + [-1] * (limit - len(kept))


@pytest.mark.parametrize("limit", [1, 7, 100])
@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.7, 1.0])
@pytest.mark.parametrize("spread", [3.0, 60.0])
def test_the_same_as_torchvision(limit: int, threshold: float, spread: float) -> None:
    """Crowded and scattered boxes; sets of all lengths, shorter and longer than a block."""
    torch.manual_seed(0)
    boxes, counts = boxes_of(5, 150, spread), [150, 0, 1, 33, 96]
    found = suppress_sorted(boxes, torch.tensor(counts, device=DEVICE), threshold, limit)
    assert found.tolist() == [expected(b, n, threshold, limit) for b, n in zip(boxes, counts, strict=True)]


def test_a_row_of_boxes_that_cover_each_other() -> None:
    """Each covers the next: every second one stays, which takes as many rounds as there are boxes."""
    start = torch.arange(64.0, device=DEVICE)
    boxes = torch.stack([start, start * 0, start + 3, start * 0 + 1], dim=1)[None]
    found = suppress_sorted(boxes, torch.tensor([64], device=DEVICE), 0.3, 64)
    assert found[0].tolist() == expected(boxes[0], 64, 0.3, 64)
    assert found[0, :3].tolist() == [0, 2, 4]


def test_ties_of_the_threshold_and_empty_boxes() -> None:
    boxes = torch.tensor([[[0.0, 0, 10, 10], [0, 0, 10, 6], [0, 0, 0, 0], [0, 0, 0, 0], [5, 5, 5, 9]]], device=DEVICE)
    for threshold in (0.6, 0.59999, 0.60001):
        found = suppress_sorted(boxes, torch.tensor([5], device=DEVICE), threshold, 5)
        assert found[0].tolist() == expected(boxes[0], 5, threshold, 5)
    assert _float32_below(0.5) == 0.5
    assert _float32_below(0.6) < 0.6 and _float32_below(0.7) < 0.7


def test_endless_boxes() -> None:
    far = 4e18
    boxes = torch.tensor([[[-far, -far, far, far], [-far, -far, far, far], [0.0, 0.0, 5.0, 5.0]]], device=DEVICE)
    assert suppress_sorted(boxes, torch.tensor([3], device=DEVICE), 0.6, 4)[0].tolist() == [0, 2, -1, -1]


def test_the_kernel_passes_its_trial_and_another_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    suppression._trial(torch.device(DEVICE))
    monkeypatch.setattr(suppression_kernel, "suppress_sorted", lambda *given: suppress_sorted(*given).roll(1, dims=1))
    with pytest.raises(ArithmeticError, match="other boxes"):
        suppression._trial(torch.device(DEVICE))
