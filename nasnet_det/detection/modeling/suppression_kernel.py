"""Greedy suppression in one launch, on a GPU. Importing this needs Triton.

torchvision's waits for the GPU to learn how many boxes are left. Here a program takes one set, walks through its boxes
best first, a block at a time, and stops when it has enough or none is left; nobody waits for it.
"""

from __future__ import annotations

import math
from contextlib import nullcontext

import torch
import triton
import triton.language as tl
from torch import Tensor

_BLOCK = 32


@triton.jit
def _overlap(
    ax0: tl.tensor,
    ay0: tl.tensor,
    ax1: tl.tensor,
    ay1: tl.tensor,
    bx0: tl.tensor,
    by0: tl.tensor,
    bx1: tl.tensor,
    by1: tl.tensor,
) -> tl.tensor:
    """Intersection over union, in torchvision's order of operations."""
    wide = tl.maximum(tl.minimum(ax1, bx1) - tl.maximum(ax0, bx0), 0.0)
    high = tl.maximum(tl.minimum(ay1, by1) - tl.maximum(ay0, by0), 0.0)
    inside = wide * high
    return tl.div_rn(inside, (ax1 - ax0) * (ay1 - ay0) + (bx1 - bx0) * (by1 - by0) - inside)


@triton.jit
def _appended(kept: tl.tensor, values: tl.tensor, is_here: tl.tensor) -> tl.tensor:
    """What is kept, with a block's values at their places: ``is_here[member, slot]``."""
    return kept + tl.sum(tl.where(is_here, values[:, None], 0.0), axis=0)


@triton.jit
def suppression_kernel(
    boxes: tl.tensor,
    counts: tl.tensor,
    kept: tl.tensor,
    number: tl.tensor,
    limit: tl.tensor,
    threshold: tl.tensor,
    SLOTS: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """One set: ``boxes`` ``(sets, number, 4)`` best first, of which the first ``counts`` take part; ``kept``
    ``(sets, limit)`` gets the places of those that stay."""
    one = tl.program_id(0)
    boxes += one.to(tl.int64) * number * 4
    count = tl.load(counts + one).to(tl.int32)
    slot, member = tl.arange(0, SLOTS), tl.arange(0, BLOCK)
    kx0 = tl.zeros([SLOTS], dtype=tl.float32)
    ky0 = tl.zeros([SLOTS], dtype=tl.float32)
    kx1 = tl.zeros([SLOTS], dtype=tl.float32)
    ky1 = tl.zeros([SLOTS], dtype=tl.float32)
    start = count * 0
    found = count * 0
    while (found < limit) & (start < count):
        place = start + member
        exists = place < count
        x0 = tl.load(boxes + place * 4, mask=exists, other=0.0)
        y0 = tl.load(boxes + place * 4 + 1, mask=exists, other=0.0)
        x1 = tl.load(boxes + place * 4 + 2, mask=exists, other=0.0)
        y1 = tl.load(boxes + place * 4 + 3, mask=exists, other=0.0)
        # Against all that is kept already.
        overlap = _overlap(
            x0[:, None],
            y0[:, None],
            x1[:, None],
            y1[:, None],
            kx0[None, :],
            ky0[None, :],
            kx1[None, :],
            ky1[None, :],
        )
        covered = (overlap > threshold) & (slot[None, :] < found)
        free = exists.to(tl.int32) * (1 - tl.max(covered.to(tl.int32), axis=1))
        # Within the block: a box stays unless an earlier one that stays covers it. From "all stay" this settles in as
        # many rounds as such boxes cover each other in a row, the first of them right after the first round, and so on.
        overlap = _overlap(
            x0[:, None],
            y0[:, None],
            x1[:, None],
            y1[:, None],
            x0[None, :],
            y0[None, :],
            x1[None, :],
            y1[None, :],
        )
        covers = ((overlap > threshold) & (member[:, None] < member[None, :])).to(tl.int32)
        stays = free
        changed = tl.sum(free, axis=0)
        while changed > 0:
            again = free * (1 - tl.max(covers * stays[:, None], axis=0))
            changed = tl.sum(tl.abs(again - stays), axis=0)
            stays = again
        target = found + tl.cumsum(stays, axis=0) - 1
        wanted = (stays > 0) & (target < limit)
        tl.store(kept + one * limit + target, place.to(tl.int64), mask=wanted)
        is_here = wanted[:, None] & (target[:, None] == slot[None, :])
        kx0 = _appended(kx0, x0, is_here)
        ky0 = _appended(ky0, y0, is_here)
        kx1 = _appended(kx1, x1, is_here)
        ky1 = _appended(ky1, y1, is_here)
        found += tl.sum(stays, axis=0)
        start += BLOCK


def suppress_sorted(boxes: Tensor, counts: Tensor, iou_threshold: float, limit: int) -> Tensor:
    """The places ``(B, limit)`` of the boxes that greedy suppression keeps in each of B sets, -1 where there are fewer.

    Args:
        boxes: ``(B, N, 4)``, each set's best first.
        counts: ``(B,)``, how many of a set take part.
    """
    kept = torch.full((len(boxes), limit), -1, dtype=torch.int64, device=boxes.device)
    slots = max(16, triton.next_power_of_2(limit))
    with torch.cuda.device(boxes.device) if boxes.is_cuda else nullcontext():
        suppression_kernel[len(boxes),](
            boxes.float().contiguous(),
            counts,
            kept,
            boxes.shape[1],
            limit,
            _float32_below(iou_threshold),
            SLOTS=slots,
            BLOCK=_BLOCK,
            num_warps=16 if slots > 128 else 4,
            enable_fp_fusion=False,  # as torchvision on a CPU: every product is rounded
        )
    return kept


def _float32_below(value: float) -> float:
    """The largest float32 that is not above ``value``: what exceeds the one exceeds the other."""
    rounded = torch.tensor(value, dtype=torch.float32)
    if float(rounded) > value:
        rounded = torch.nextafter(rounded, torch.tensor(-math.inf))
    return float(rounded)
