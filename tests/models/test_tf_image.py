"""TensorFlow's resize and crops, against their definitions written pixel by pixel."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from nasnet_det.models.tf_image import crop_and_resize, resize_bilinear


def sample(image: np.ndarray, y: float, x: float) -> np.ndarray:
    """Bilinear sample of ``(C, H, W)``."""
    y0, x0 = math.floor(y), math.floor(x)
    y1, x1 = min(y0 + 1, image.shape[1] - 1), min(x0 + 1, image.shape[2] - 1)
    top = image[:, y0, x0] * (1 - (x - x0)) + image[:, y0, x1] * (x - x0)
    bottom = image[:, y1, x0] * (1 - (x - x0)) + image[:, y1, x1] * (x - x0)
    return top * (1 - (y - y0)) + bottom * (y - y0)


@pytest.mark.parametrize(
    ("size", "out"), [((7, 9), (16, 16)), ((30, 20), (12, 17)), ((8, 8), (8, 8)), ((1, 5), (4, 3))]
)
def test_resize_reads_place_times_scale(size: tuple[int, int], out: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 256, (3, *size), dtype=np.uint8)
    expected = np.zeros((3, *out))
    for y in range(out[0]):
        for x in range(out[1]):
            expected[:, y, x] = sample(image.astype(float), y * size[0] / out[0], x * size[1] / out[1])
    found = resize_bilinear(torch.from_numpy(image), out)
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-3)


def crop_by_hand(features: np.ndarray, box: list[float], size: int) -> np.ndarray:
    _, height, width = features.shape
    x0, y0, x1, y1 = box
    crop = np.zeros((features.shape[0], size, size))
    for i in range(size):
        for j in range(size):
            y = y0 * (height - 1) + (
                i * (y1 - y0) * (height - 1) / (size - 1) if size > 1 else (y1 - y0) * (height - 1) / 2
            )
            x = x0 * (width - 1) + (
                j * (x1 - x0) * (width - 1) / (size - 1) if size > 1 else (x1 - x0) * (width - 1) / 2
            )
            if 0 <= y <= height - 1 and 0 <= x <= width - 1:
                crop[:, i, j] = sample(features, y, x)
    return crop


@pytest.mark.parametrize("size", [1, 2, 17])
def test_crops_have_their_corners_on_the_box(size: int) -> None:
    features = np.random.default_rng(1).normal(size=(3, 6, 9))
    boxes = [
        [0.1, 0.2, 0.7, 0.5],
        [0.0, 0.0, 1.0, 1.0],
        [0.3, 0.3, 0.3, 0.3],
        [-0.4, 0.5, 0.6, 1.3],
        [0.8, 0.9, 0.2, 0.1],
    ]
    found = crop_and_resize(torch.from_numpy(features).float(), torch.tensor(boxes), size)
    assert found.shape == (5, 3, size, size)
    for crop, box in zip(found.numpy(), boxes, strict=True):
        np.testing.assert_allclose(crop, crop_by_hand(features, box, size), atol=2e-5)


def test_gradients_reach_the_map_and_match_differences() -> None:
    features = torch.randn(2, 4, 5, dtype=torch.float64, requires_grad=True)
    boxes = torch.tensor([[0.1, 0.1, 0.8, 0.7], [0.3, 0.5, 1.2, 0.9]], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: crop_and_resize(x, boxes, 4), features)


def test_no_box_gives_no_crop() -> None:
    assert crop_and_resize(torch.randn(3, 5, 5), torch.zeros(0, 4), 7).shape == (0, 3, 7, 7)
