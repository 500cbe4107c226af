"""Operators of exported detectors: suppression of fixed shape, and what three operators become in ONNX."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torchvision.ops import nms


@torch.library.custom_op("nasnet_det::suppress", mutates_args=())
def suppress(boxes: Tensor, scores: Tensor, iou_threshold: float, limit: int) -> Tensor:
    """The first boxes that greedy suppression keeps in each of B sets, best first, of equal scores the earlier.

    ``torchvision.ops.nms`` gives as many indices as it keeps, of one set: a graph with ninety such calls, of sizes that
    only running it tells, can hardly be traced. This is one operator of fixed shape.

    Args:
        boxes: ``(B, N, 4)``, x0 y0 x1 y1.
        scores: ``(B, N)``.
        iou_threshold: overlap with a better box above which a box is suppressed.
        limit: how many to keep of a set.

    Returns:
        indices ``(B, limit)``, -1 where there are fewer.
    """
    kept = torch.full((len(boxes), limit), -1, dtype=torch.int64, device=boxes.device)
    for number in range(len(boxes)):
        found = nms(boxes[number], scores[number], iou_threshold)[:limit]
        kept[number, : len(found)] = found
    return kept


@suppress.register_fake
def _(boxes: Tensor, scores: Tensor, iou_threshold: float, limit: int) -> Tensor:
    del scores, iou_threshold
    return boxes.new_empty((boxes.shape[0], limit), dtype=torch.int64)


def onnx_translations() -> dict[Any, Callable[..., Any]]:
    """What ``torch.onnx.export`` takes as ``custom_translation_table``; for tensors of fixed shape.

    - ``suppress`` becomes one ``NonMaxSuppression``;
    - stable sorting ``TopK``, which gives the earlier of equal values first;
    - the embedding bag of :func:`nasnet_det.detection.crops.crop_and_resize`, whose bags are all of one size, a
      weighted sum of gathers, where the exporter's own translation loops over the bags.
    """
    from onnxscript import opset18 as op

    def translate_suppress(boxes: Any, scores: Any, iou_threshold: float, limit: int) -> Any:
        count = int(boxes.shape[0])
        # A row for each box kept: its set, its class (always 0) and its index.
        kept = op.NonMaxSuppression(boxes, op.Unsqueeze(scores, [1]), limit, iou_threshold)
        sets, indices = op.Gather(kept, [0], axis=1), op.Gather(kept, [2], axis=1)
        member = op.Cast(op.Equal(sets, list(range(count))), to=7)
        place = op.Sub(op.ReduceSum(op.Mul(op.CumSum(member, 0), member), [1], keepdims=1), [1])
        none = op.Expand([-1], [count, limit])
        return op.ScatterND(none, op.Concat(sets, place, axis=1), op.Squeeze(indices, [1]))

    def translate_sort(x: Any, stable: bool, dim: int = -1, descending: bool = False) -> Any:
        del stable
        return op.TopK(x, [int(x.shape[dim])], axis=dim, largest=int(descending), sorted=1)

    def translate_bags(
        table: Any, indices: Any, offsets: Any, scale_grad: bool, mode: int, sparse: bool, weights: Any, *_: Any
    ) -> Any:
        del scale_grad, sparse
        if mode != 0:
            raise NotImplementedError("only sums of embeddings are translated")
        bags = int(offsets.shape[0])
        size = int(indices.shape[0]) // bags
        indices, weights = op.Reshape(indices, [bags, size]), op.Reshape(weights, [bags, size])
        total = None
        for member in range(size):
            rows = op.Gather(table, op.Squeeze(op.Gather(indices, [member], axis=1), [1]), axis=0)
            part = op.Mul(rows, op.Gather(weights, [member], axis=1))
            total = part if total is None else op.Add(total, part)
        return total, offsets, offsets, offsets  # of the four outputs only the first is read

    return {
        torch.ops.nasnet_det.suppress.default: translate_suppress,
        torch.ops.aten.sort.stable: translate_sort,
        torch.ops.aten.embedding_bag.padding_idx: translate_bags,
    }
