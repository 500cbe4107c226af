"""SAME padding against its definition, pixel by pixel, and against TensorFlow where that is installed."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from nasnet_det.models.padding import AvgPool2dSame, Conv2dSame, MaxPool2dSame, same_padding, shift, subsample

SIZES = st.integers(1, 23)
KERNELS = st.sampled_from([1, 2, 3, 5, 7])
STRIDES = st.sampled_from([1, 2])


def windows(size: int, kernel: int, stride: int, dilation: int) -> list[list[int]]:
    """Return the indices inside the input of each window, from TensorFlow's own definition of SAME."""
    out = -(-size // stride)
    total = max((out - 1) * stride + (kernel - 1) * dilation + 1 - size, 0)
    before = total // 2
    positions = [[i * stride - before + k * dilation for k in range(kernel)] for i in range(out)]
    return [[p for p in window if 0 <= p < size] for window in positions]


def pooled(x: np.ndarray, kernel: int, stride: int, reduce: str) -> np.ndarray:
    rows, columns = (windows(side, kernel, stride, 1) for side in x.shape)
    return np.array([[getattr(x[np.ix_(r, c)], reduce)() for c in columns] for r in rows])


@given(SIZES, KERNELS, STRIDES, st.sampled_from([1, 2, 4]))
def test_windows_are_those_of_tensorflow(size: int, kernel: int, stride: int, dilation: int) -> None:
    before, after = same_padding(size, kernel, stride, dilation)
    reach = (kernel - 1) * dilation + 1
    out = (size + before + after - reach) // stride + 1
    assert out == -(-size // stride)
    assert before >= 0 and size + before + after == (out - 1) * stride + reach
    positions = [[i * stride - before + k * dilation for k in range(kernel)] for i in range(out)]
    assert [[p for p in w if 0 <= p < size] for w in positions] == windows(size, kernel, stride, dilation)


@settings(deadline=None)
@given(SIZES, SIZES, st.sampled_from([2, 3, 5, 7]), STRIDES)
def test_pools(height: int, width: int, kernel: int, stride: int) -> None:
    x = np.random.default_rng(height * 31 + width).standard_normal((height, width))
    tensor = torch.from_numpy(x)[None, None]
    average = AvgPool2dSame(kernel, stride)(tensor)[0, 0].numpy()
    largest = MaxPool2dSame(kernel, stride)(tensor)[0, 0].numpy()
    np.testing.assert_allclose(average, pooled(x, kernel, stride, "mean"), rtol=1e-12, atol=1e-14)
    np.testing.assert_array_equal(largest, pooled(x, kernel, stride, "max"))


@settings(deadline=None, max_examples=40)
@given(SIZES, SIZES, st.sampled_from([1, 2, 3, 5, 7, (1, 7), (7, 1)]), STRIDES, st.sampled_from([1, 2]))
def test_convolution(height: int, width: int, kernel: int | tuple[int, int], stride: int, dilation: int) -> None:
    """The sum over the pixels of each window that are inside the input, written out."""
    torch.manual_seed(0)
    x = torch.randn(1, 2, height, width, dtype=torch.float64)
    convolution = Conv2dSame(2, 3, kernel, stride, dilation, dtype=torch.float64)
    sides = (kernel, kernel) if isinstance(kernel, int) else kernel
    # Unfold by hand: give every window its own padded row and column.
    pads = [same_padding(side, k, stride, dilation) for side, k in zip((height, width), sides, strict=True)]
    padded = functional.pad(x, (*pads[1], *pads[0]))
    outs = [-(-side // stride) for side in (height, width)]
    expected = torch.zeros(1, 3, *outs, dtype=torch.float64)
    for i in range(outs[0]):
        for j in range(outs[1]):
            rows = torch.arange(sides[0]) * dilation + i * stride
            columns = torch.arange(sides[1]) * dilation + j * stride
            window = padded[:, :, rows][:, :, :, columns]
            expected[:, :, i, j] = torch.einsum("nchw,ochw->no", window, convolution.weight)
    torch.testing.assert_close(convolution(x), expected)


@given(SIZES, SIZES)
def test_factorized_paths(height: int, width: int) -> None:
    """Path 1 takes the even pixels, path 2 the odd ones, with zeros where a size is odd."""
    x = torch.arange(1, height * width + 1, dtype=torch.float32).reshape(1, 1, height, width)
    torch.testing.assert_close(subsample(x, 2), x[:, :, ::2, ::2])
    padded = functional.pad(x, (0, 1, 0, 1))[:, :, 1:, 1:]
    torch.testing.assert_close(subsample(shift(x, 1), 2), padded[:, :, ::2, ::2])


@pytest.mark.parametrize("size", [(7, 7), (8, 8), (9, 14), (32, 5), (1, 2)])
@pytest.mark.parametrize("kernel", [2, 3, 5, 7])
@pytest.mark.parametrize("stride", [1, 2])
def test_side_by_side_with_tensorflow(size: tuple[int, int], kernel: int, stride: int) -> None:
    tensorflow = pytest.importorskip("tensorflow")
    x = np.random.default_rng(0).standard_normal((2, *size, 4)).astype(np.float32)
    ours = torch.from_numpy(x).permute(0, 3, 1, 2)

    def compare(result: torch.Tensor, reference: object) -> None:
        np.testing.assert_allclose(result.detach().permute(0, 2, 3, 1).numpy(), np.asarray(reference), atol=2e-6)

    compare(AvgPool2dSame(kernel, stride)(ours), tensorflow.nn.avg_pool2d(x, kernel, stride, "SAME"))
    compare(MaxPool2dSame(kernel, stride)(ours), tensorflow.nn.max_pool2d(x, kernel, stride, "SAME"))
    convolution = Conv2dSame(4, 6, kernel, stride)
    weight = convolution.weight.detach().permute(2, 3, 1, 0).numpy()
    compare(convolution(ours), tensorflow.nn.conv2d(x, weight, stride, "SAME"))
