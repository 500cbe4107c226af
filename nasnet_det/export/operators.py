"""What three operators of exported detectors become in ONNX."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from nasnet_det.detection.modeling.suppression import suppress


def onnx_translations() -> dict[Any, Callable[..., Any]]:
    """What ``torch.onnx.export`` takes as ``custom_translation_table``; for tensors of fixed shape.

    - ``nasnet_det::suppress`` (``detection/suppression.py``) becomes one ``NonMaxSuppression``;
    - stable sorting ``TopK``, which gives the earlier of equal values first;
    - the embedding bag of :func:`nasnet_det.models.tf_image.crop_and_resize`, whose bags are all of one size, a
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
        suppress._opoverload: translate_suppress,
        torch.ops.aten.sort.stable: translate_sort,
        torch.ops.aten.embedding_bag.padding_idx: translate_bags,
    }
