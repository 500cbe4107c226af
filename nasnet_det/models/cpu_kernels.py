"""The functions of ``cpu_kernels.cpp`` on tensors: float32 maps ``(N, C, H, W)`` in channels_last on a CPU.

They exist where the file can be compiled (:func:`nasnet_det.models.cpu_library.load_library`), and compute in as
many threads as PyTorch does.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import Parameter

from nasnet_det.models.cpu_library import load_library

Pair = tuple[int, int]
Sides = tuple[int, int, int, int]
_SOURCE = Path(__file__).with_suffix(".cpp")
#: The widths of kernels whose weight gradient is compiled.
_COLUMNS = (3, 5, 7)
#: The fewest channels that convolutions take: a vector of AVX2.
_NARROWEST = 8
#: The most channels, and the most values of an image, for which a separable convolution is faster whole (measured).
_WIDEST, _LARGEST = 192, 2**16
#: The most weights with which a pointwise convolution alone is.
_HEAVIEST = 2**15
#: The most values that it takes at once, unless a row has more.
_FITTING = 2**16


class _Geometry(ctypes.Structure):
    """``Geometry`` of the C++ file."""

    _fields_ = [
        (name, ctypes.c_long)
        for name in (
            *("count", "channels", "height", "width", "out_height", "out_width"),
            *("rows", "columns", "dilation", "stride_y", "stride_x", "top", "left", "relu", "parts"),
        )
    ]


class _Affine(ctypes.Structure):
    """``Affine`` of the C++ file; null pointers unless given."""

    _fields_ = [("scales", ctypes.c_void_p), ("shifts", ctypes.c_void_p)]


class _Maps(ctypes.Structure):
    """``Maps`` of the C++ file."""

    _fields_ = [
        ("number", ctypes.c_long),
        ("widths", ctypes.POINTER(ctypes.c_long)),
        ("maps", ctypes.POINTER(ctypes.c_void_p)),
    ]


def takes(x: Tensor, channels: int, *parameters: Tensor) -> bool:
    """Return whether the functions take ``x`` as a map of so many channels, and parameters."""
    return (
        x.dtype is torch.float32
        and x.is_contiguous(memory_format=torch.channels_last)
        and x.shape[1] == channels
        and all(type(value) in (Tensor, Parameter) for value in parameters)  # subclasses may have no memory
        and all(value.dtype is x.dtype and value.device == x.device for value in parameters)
        and load_library(_SOURCE) is not None
    )


def takes_depthwise(x: Tensor, weight: Tensor) -> bool:
    """Return whether :func:`depthwise` takes a map and kernels ``(C, 1, kH, kW)``."""
    fits = weight.shape[3] in _COLUMNS and weight.shape[1] == 1 and len(weight) >= _NARROWEST
    return fits and takes(x, len(weight), weight)


def gains_as_separable(maps: Sequence[Tensor], pointwise: Tensor, depthwise: Tensor | None = None) -> bool:
    """Return whether :func:`separable_norm` takes a map and kernels, and is faster than its parts.

    It is faster if an image's intermediate maps fit the cache and memory limits its matrix products.

    Args:
        maps: the map, or the maps that its channels are divided into.
        pointwise: the kernels ``(K, C, 1, 1)``.
        depthwise: the kernels ``(C, 1, kH, kW)``, if any.
    """
    outputs, channels, *sides = pointwise.shape
    if min(outputs, channels) < _NARROWEST or sides != [1, 1]:
        return False
    if depthwise is None:
        fits = outputs * channels <= _HEAVIEST and sum(x.shape[1] for x in maps) == channels
        return fits and takes(maps[0], maps[0].shape[1], pointwise) and all(takes(x, x.shape[1]) for x in maps[1:])
    if len(maps) != 1 or depthwise.shape[:2] != (channels, 1) or depthwise.shape[3] not in _COLUMNS:
        return False
    x = maps[0]
    widest = max(outputs, channels)
    fits = widest <= _WIDEST and widest * x.shape[2] * x.shape[3] <= _LARGEST
    return fits and takes(x, channels, pointwise, depthwise)


def depthwise(x: Tensor, weight: Tensor, stride: Pair, padding: Sides, dilation: int, scale: Tensor | None) -> Tensor:
    """Return a depthwise convolution ``(N, C, H', W')``.

    Args:
        x: the map.
        weight: the kernels ``(C, 1, kH, kW)``.
        stride: the strides ``(sH, sW)``.
        padding: the zeros at ``(left, right, top, bottom)``, none negative.
        dilation: the steps between a kernel's weights.
        scale: factors ``(H', W')`` of the output; None for 1.
    """
    geometry = _geometry(x, weight, stride, padding, dilation, False)
    size = (geometry.count, geometry.channels, geometry.out_height, geometry.out_width)
    result = torch.empty(size, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
    _call("depthwise_forward", geometry, x, weight.contiguous(), scale, result)
    return result


def depthwise_gradients(
    gradient: Tensor,
    wanted: Sequence[bool],
    x: Tensor,
    weight: Tensor,
    stride: Pair,
    padding: Sides,
    dilation: int,
    scale: Tensor | None,
) -> tuple[Tensor | None, Tensor | None]:
    """Return the gradients of :func:`depthwise` by ``x`` and ``weight``, those that are wanted.

    Args:
        gradient: that of the output ``(N, C, H', W')``.
        wanted: which of the two are.
        x, weight, stride, padding, dilation, scale: as there.
    """
    x, weight = _last(x), weight.contiguous()  # what autograd saved may have been moved meanwhile
    geometry = _geometry(x, weight, stride, padding, dilation, False)
    found = [torch.empty_like(value) if want else None for value, want in zip((x, weight), wanted, strict=True)]
    _call("depthwise_backward", geometry, x, weight, scale, _last(gradient), *found)
    return found[0], found[1]


def batch_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the batch norm of a map, with the statistics of the batch.

    Args:
        x: the map.
        weight, bias: of each channel, both ``(C,)``.
        eps: added to the variance.

    Returns:
        the result ``(N, C, H, W)``, the mean and the biased variance of each channel, and the inverse of its deviation,
        all ``(C,)``.
    """
    result = torch.empty_like(x)
    mean, variance, inverse = x.new_empty((3, x.shape[1]))
    vectors = (weight.contiguous(), bias.contiguous(), result, mean, variance, inverse)
    _call("norm_forward", *_pixels(x), ctypes.c_float(eps), x, *vectors)
    return result, mean, variance, inverse


def batch_norm_gradients(
    gradient: Tensor, x: Tensor, weight: Tensor, mean: Tensor, inverse: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of :func:`batch_norm` by ``x``, ``weight`` and ``bias``.

    Args:
        gradient: that of the result ``(N, C, H, W)``.
        x, weight: as there.
        mean, inverse: what it returned.
    """
    found = (torch.empty_like(x), torch.empty_like(mean), torch.empty_like(mean))
    _call("norm_backward", *_pixels(x), x, _last(gradient), weight.contiguous(), mean, inverse, *found)
    return found


class Separable(NamedTuple):
    """A separable convolution of ReLU of a map, and batch norm.

    ``depthwise`` are kernels ``(C, 1, kH, kW)``, or None for a pointwise convolution alone, and ``pointwise`` kernels
    ``(K, C, 1, 1)``; ``weight`` and ``bias``, both ``(K,)``, and ``eps`` are those of the norm. The rest is of the
    depthwise convolution, as in :func:`depthwise`.
    """

    depthwise: Tensor | None
    pointwise: Tensor
    weight: Tensor
    bias: Tensor
    eps: float
    stride: Pair = (1, 1)
    padding: Sides = (0, 0, 0, 0)
    dilation: int = 1

    def geometry(self, maps: Sequence[Tensor]) -> _Geometry:
        """Return the sizes for a map ``(N, C, H, W)``, which may be divided if there is no depthwise convolution."""
        if self.depthwise is not None:
            return _geometry(maps[0], self.depthwise, self.stride, self.padding, self.dilation, True)
        # No pixel needs another one: images are read as several of fewer rows, which fit the cache.
        count, _, height, width = maps[0].shape
        channels = self.pointwise.shape[1]
        rows = max(n for n in range(1, height + 1) if height % n == 0 and (n * width * channels <= _FITTING or n == 1))
        parts = height // rows
        return _Geometry(count * parts, channels, rows, width, rows, width, 1, 1, 1, 1, 1, 0, 0, True, parts)


class Normalized(NamedTuple):
    """The input of batch norm, ``(N, K, H, W)``; the mean, the biased variance and the inverse of the deviation of
    each channel; and the factor and the summand that give the result, all ``(K,)``."""

    convolved: Tensor
    mean: Tensor
    variance: Tensor
    inverse: Tensor
    scale: Tensor
    shift: Tensor


def separable_norm(
    x: Sequence[Tensor] | Normalized,
    layer: Separable,
    widths: Sequence[int],
    factors: Tensor | None = None,
    other: Tensor | None = None,
) -> tuple[list[Tensor], Normalized]:
    """Return a layer's result times ``factors`` plus ``other``, and what gives it.

    Args:
        x: the map; or the maps that its channels are divided into, if the layer has no depthwise convolution; or what
            gives it, if the layer has one.
        layer: of C to K channels.
        widths: the channels of each map that the result is divided into, K in all; none if it is not wanted.
        factors: of each image ``(N, 1, 1, 1)``; None for 1.
        other: a map of the result's size, if that is one map; None for 0.

    Returns:
        the results ``(N, width, H', W')``, and what gives them.
    """
    maps, before = ([x.convolved], _affine(x)) if isinstance(x, Normalized) else (x, _Affine())
    geometry, outputs, one = layer.geometry(maps), len(layer.pointwise), maps[0]
    sides = (geometry.out_height * geometry.parts, geometry.out_width)
    convolved, *results = (
        torch.empty((len(one), width, *sides), dtype=one.dtype, device=one.device, memory_format=torch.channels_last)
        for width in (outputs, *widths)
    )
    found = Normalized(convolved, *one.new_empty((5, outputs)))
    other = None if other is None else _last(other)
    given = (_maps(maps), before, *map(_contiguous, layer[:4]), _contiguous(factors), other)
    _call(
        "separable_forward", geometry, outputs, ctypes.c_float(layer.eps), *given, convolved, _maps(results), *found[1:]
    )
    return results, found


def separable_norm_gradients(
    gradients: Sequence[Tensor],
    x: Sequence[Tensor] | Normalized,
    by_x: bool,
    layer: Separable,
    found: Normalized,
    factors: Tensor | None = None,
    sums: Tensor | None = None,
    passed: Tensor | None = None,
) -> tuple[list[Tensor], list[Tensor | None], Tensor | None]:
    """Return the gradients of :func:`separable_norm`.

    Args:
        gradients: those of the results ``(N, width, H', W')``.
        x, layer, factors: as there.
        by_x: whether the gradient by ``x`` is wanted, as it has to be where that is given by what gives it.
        found: what it returned.
        sums: what this function returned for the layer that reads the result; None if that is read by others.
        passed: a gradient that is added to that by ``x``, which is one map; None for 0.

    Returns:
        the gradients by the maps of ``x``, none if they are not wanted; those by the kernels, ``weight`` and ``bias``;
        and, if ``x`` is given by what gives it, sums for the layer that does.
    """
    # What autograd saved may have been moved meanwhile.
    below = x if isinstance(x, Normalized) else None
    maps = [*map(_last, x if below is None else [below.convolved])]
    before = _Affine() if below is None else _affine(below)
    geometry, gradients = layer.geometry(maps), [*map(_last, gradients)]
    below_sums = (
        None if below is None else below.mean.new_empty((2, len(maps[0]), len(below.mean)), dtype=torch.float64)
    )
    depthwise, pointwise, weight = map(_contiguous, layer[:3])
    by_maps = [torch.empty_like(one) for one in maps] if by_x else []
    results = [None if value is None else torch.empty_like(value) for value in (depthwise, pointwise, weight, weight)]
    passed = None if passed is None else _last(passed)
    given = (_maps(maps), before, None if below is None else below.mean, below_sums, depthwise, pointwise, weight)
    after = (_contiguous(factors), _last(found.convolved), _maps(gradients), sums, passed, found.mean, found.inverse)
    _call("separable_backward", geometry, len(layer.pointwise), *given, *after, _maps(by_maps), *results)
    return by_maps, results, below_sums


def _affine(found: Normalized) -> _Affine:
    return _Affine(*(ctypes.c_void_p(value.data_ptr()) for value in (found.scale, found.shift)))


def _last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


def _maps(maps: Sequence[Tensor]) -> _Maps:
    """Return maps in channels_last, which the caller keeps, as the C++ functions take them."""
    widths = (ctypes.c_long * len(maps))(*(x.shape[1] for x in maps))
    return _Maps(len(maps), widths, (ctypes.c_void_p * len(maps))(*(x.data_ptr() for x in maps)))


def _contiguous(value: Tensor | None) -> Tensor | None:
    return None if value is None else value.contiguous()


def _geometry(x: Tensor, weight: Tensor, stride: Pair, padding: Sides, dilation: int, relu: bool) -> _Geometry:
    left, right, top, bottom = padding
    count, channels, height, width = x.shape
    rows, columns = weight.shape[2:]
    reach = ((rows - 1) * dilation + 1, (columns - 1) * dilation + 1)
    size = ((height + top + bottom - reach[0]) // stride[0] + 1, (width + left + right - reach[1]) // stride[1] + 1)
    return _Geometry(count, channels, height, width, *size, rows, columns, dilation, *stride, top, left, relu, 1)


def _pixels(x: Tensor) -> tuple[int, int]:
    return x.shape[1], x.numel() // x.shape[1]


def _call(name: str, *arguments: ctypes.Structure | Tensor | ctypes.c_float | int | None) -> None:
    """Call a function with tensors as pointers to their values, and the number of threads after its arguments."""
    library = load_library(_SOURCE)
    assert library is not None
    getattr(library, name)(*map(_as_c, arguments), ctypes.c_int(torch.get_num_threads()))


def _as_c(value: ctypes.Structure | Tensor | ctypes.c_float | int | None) -> object:
    if isinstance(value, Tensor):
        return ctypes.c_void_p(value.data_ptr())
    if isinstance(value, ctypes.Structure):
        return ctypes.byref(value)
    return ctypes.c_long(value) if isinstance(value, int) else value
