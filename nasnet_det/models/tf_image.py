"""TensorFlow's image operations: ``tf.image.resize_images`` of TF 1 and ``tf.image.crop_and_resize``."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def resize_bilinear(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize an image as TF 1's ``tf.image.resize_images`` does (bilinear, ``align_corners=False``).

    There are no half-pixel centres and no antialiasing: output position ``i`` reads input position ``i * in / out``.

    Maps ``(C, H, W)`` of any type to float32 ``(C, *size)``. Source: ``core/kernels/image/resize_bilinear_op.cc``.
    """
    top, bottom, down = _taps(image.shape[-2], size[0], image.device)
    left, right, across = _taps(image.shape[-1], size[1], image.device)
    upper, lower = image[:, top], image[:, bottom]
    upper = torch.lerp(upper[..., left].float(), upper[..., right].float(), across)
    lower = torch.lerp(lower[..., left].float(), lower[..., right].float(), across)
    return torch.lerp(upper, lower, down[:, None])


def _taps(length: int, out: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Return the two input positions that each output position reads, and the weight of the second."""
    position = torch.arange(out, dtype=torch.float32, device=device) * (length / out)
    first = position.floor()
    second = (first + 1).clamp(max=length - 1)
    return first.long(), second.long(), position - first


def crop_and_resize(features: Tensor, boxes: Tensor, size: int) -> Tensor:
    """Crop boxes of one feature map as ``tf.image.crop_and_resize`` does.

    The corners of a crop are at the corners of its box; each position is one bilinear sample, 0 outside the map
    (``core/kernels/image/crop_and_resize_op.cc``). A box that ends at the border may exceed it by a rounding error and
    then gets zeros there, as in TensorFlow, so positions are computed in the same order of operations.

    Args:
        features: ``(C, H, W)``.
        boxes: ``(K, 4)``, x0 y0 x1 y1, where 0 and 1 are the centres of the map's first and last position.
        size: side of the crops.

    Returns:
        ``(K, C, size, size)``, channels last in memory; gradients reach ``features`` only.
    """
    channels, height, width = features.shape
    positions, weights = crop_taps(boxes, height, width, size)
    # Each output position is a weighted sum of four positions of the map: an embedding bag, fused forward and backward,
    # whose memory is its result's. (One grid sample would round the positions; four gathers would hold four results.)
    crops = functional.embedding_bag(
        positions.flatten(0, 2),
        features.flatten(1).t().contiguous(),
        mode="sum",
        per_sample_weights=weights.flatten(0, 2).to(features.dtype),
    )
    return crops.view(len(boxes), size, size, channels).permute(0, 3, 1, 2)


def crop_taps(boxes: Tensor, height: int, width: int, size: int) -> tuple[Tensor, Tensor]:
    """Return the four positions of a map that each position of a crop reads, and their weights.

    Args:
        boxes: ``(K, 4)``; see :func:`crop_and_resize`.
        height, width: of the map.
        size: side of the crops.

    Returns:
        positions ``(K, size, size, 4)``, counted row by row through the map, and weights of the same shape.
    """
    x = _crop_positions(boxes[:, 0], boxes[:, 2], width, size)
    y = _crop_positions(boxes[:, 1], boxes[:, 3], height, size)
    inside = _inside(y, height)[:, :, None] & _inside(x, width)[:, None, :]
    (y0, y1, wy), (x0, x1, wx) = _neighbours(y, height), _neighbours(x, width)
    wy, wx = wy[:, :, None], wx[:, None, :]
    corners = [(y0, x0, (1 - wy) * (1 - wx)), (y0, x1, (1 - wy) * wx), (y1, x0, wy * (1 - wx)), (y1, x1, wy * wx)]
    positions = torch.stack([row[:, :, None] * width + column[:, None, :] for row, column, _ in corners], dim=-1)
    return positions, torch.stack([weight * inside for _, _, weight in corners], dim=-1)


def _crop_positions(low: Tensor, high: Tensor, length: int, size: int) -> Tensor:
    """Return ``(K, size)`` positions along one axis, in float32 and in TensorFlow's order of operations."""
    if size == 1:
        return (0.5 * (low + high) * (length - 1))[:, None]
    step = (high - low) * (length - 1) / (size - 1)
    return low[:, None] * (length - 1) + torch.arange(size, device=low.device) * step[:, None]


def _inside(positions: Tensor, length: int) -> Tensor:
    return (positions >= 0) & (positions <= length - 1)


def _neighbours(positions: Tensor, length: int) -> tuple[Tensor, Tensor, Tensor]:
    positions = positions.clamp(0, length - 1)
    first = positions.floor()
    return first.long(), positions.ceil().long(), positions - first
