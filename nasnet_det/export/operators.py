"""ONNX translations of the operators that exported detectors need and ``torch.onnx`` lacks or translates worse."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from nasnet_det.detection.modeling.suppression import stable_topk, suppress


def onnx_translations() -> dict[Any, Callable[..., Any]]:
    """Return the ``custom_translation_table`` for ``torch.onnx.export``; every size may be free.

    - ``nasnet_det::suppress`` becomes ``NonMaxSuppression`` and a ``TopK`` over what it kept, since runtimes return the
      kept boxes in different orders;
    - ``nasnet_det::stable_topk`` becomes ``TopK``.
    """
    from onnxscript import opset18 as op

    def translate_suppress(boxes: Any, scores: Any, iou_threshold: float, limit: int) -> Any:
        lowest = op.Constant(value_float=torch.finfo(torch.float32).min)
        most = op.Constant(value_ints=[limit])
        boxes = op.Reshape(boxes, op.Constant(value_ints=[0, -1, 4]))  # OpenVINO takes no unknown last dimension
        # One row for each kept box: its set, its class (always 0) and its index.
        rows = op.NonMaxSuppression(
            boxes, op.Unsqueeze(scores, [1]), most, op.Constant(value_floats=[iou_threshold]), center_point_box=0
        )
        positions = op.Gather(rows, [0, 2], axis=1)
        shape = op.Shape(scores)
        ones = op.Expand(op.Constant(value_float=1.0), op.Shape(rows, start=0, end=1))
        mask = op.ScatterND(op.Expand(op.Constant(value_float=0.0), shape), positions, ones)
        kept = op.Where(op.Greater(mask, op.Constant(value_float=0.5)), scores, lowest)
        # Fillers, so that there are at least as many candidates as the limit.
        fillers = op.Expand(lowest, op.Concat(op.Shape(scores, start=0, end=1), most, axis=0))
        values, indices = op.TopK(op.Concat(kept, fillers, axis=1), most, axis=1, largest=1, sorted=1)
        return op.Where(op.Greater(values, lowest), indices, op.Constant(value_int=-1))

    def translate_topk(scores: Any, limit: int) -> Any:
        size = op.Min(op.Shape(scores, start=1, end=2), op.Constant(value_ints=[limit]))
        return op.TopK(scores, size, axis=1, largest=1, sorted=1)[1]

    return {suppress._opoverload: translate_suppress, stable_topk._opoverload: translate_topk}
