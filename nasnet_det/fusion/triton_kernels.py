"""The Triton kernels behind ``depthwise.py``. Importing this needs Triton.

Tensors lie channels_last, so a place's channels are neighbours in memory. A tile is some places of the output, row by
row through all images, times some channels. Sums are float32 whatever the tensors are. Tuples hold one entry a branch
(a depthwise convolution) or one a result; what is written in capitals is known when the kernel is compiled.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _filtered(
    x: tl.tensor,
    weight: tl.tensor,
    image: tl.tensor,
    row: tl.tensor,
    column: tl.tensor,
    is_place: tl.tensor,
    channel: tl.tensor,
    height: tl.tensor,
    width: tl.tensor,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    TOP: tl.constexpr,
    LEFT: tl.constexpr,
    RELU: tl.constexpr,
    DOWN: tl.constexpr,
    ACROSS: tl.constexpr,
    DILATION: tl.constexpr,
    CHANNELS: tl.constexpr,
    BLOCK_PLACES: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr,
) -> tl.tensor:
    """A tile of ReLU and depthwise convolution of ``ROWS x COLUMNS``, in float32. ``TOP`` and ``LEFT`` are what SAME
    adds above and on the left, ``DOWN`` and ``ACROSS`` the strides: numbers, for Triton 3.6 takes no tuple here."""
    total = tl.zeros([BLOCK_PLACES, BLOCK_CHANNELS], dtype=tl.float32)
    is_channel = channel < CHANNELS
    for i in range(ROWS):
        y = row * DOWN + i * DILATION - TOP
        for j in tl.static_range(COLUMNS):
            z = column * ACROSS + j * DILATION - LEFT
            inside = is_place & (y >= 0) & (y < height) & (z >= 0) & (z < width)
            source = ((image * height + y) * width + z) * CHANNELS
            mask = inside[:, None] & is_channel[None, :]
            value = tl.load(x + source[:, None] + channel[None, :], mask=mask, other=0.0).to(tl.float32)
            if RELU:
                value = tl.where(value < 0.0, 0.0, value)  # a maximum would lose what is no number
            tap = (i * COLUMNS + j) * CHANNELS
            factor = tl.load(weight + tap + channel, mask=is_channel, other=0.0).to(tl.float32)
            total += value * factor[None, :]
    return total


@triton.jit
def depthwise_kernel(
    xs: tl.tuple,
    weights: tl.tuple,
    shifts: tl.tuple,
    made: tl.tuple,
    height: tl.tensor,
    width: tl.tensor,
    out_height: tl.tensor,
    out_width: tl.tensor,
    positions: tl.tensor,
    KERNELS: tl.constexpr,
    BORDERS: tl.constexpr,
    RELUS: tl.constexpr,
    HAS_SHIFT: tl.constexpr,
    ACTIVATES: tl.constexpr,
    STRIDE: tl.constexpr,
    DILATION: tl.constexpr,
    CHANNELS: tl.constexpr,
    BLOCK_PLACES: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr,
) -> None:
    """ReLU, depthwise convolution, shift, ReLU. Program ids: tile of places, tile of channels, branch."""
    place = tl.program_id(0) * BLOCK_PLACES + tl.arange(0, BLOCK_PLACES)
    channel = tl.program_id(1) * BLOCK_CHANNELS + tl.arange(0, BLOCK_CHANNELS)
    row, column = (place // out_width) % out_height, place % out_width
    image = place // (out_width * out_height)
    is_place, is_channel = place < positions, channel < CHANNELS
    for branch in tl.static_range(len(KERNELS)):
        if tl.program_id(2) == branch:
            total = _filtered(
                xs[branch],
                weights[branch],
                image,
                row,
                column,
                is_place,
                channel,
                height,
                width,
                KERNELS[branch][0],
                KERNELS[branch][1],
                BORDERS[branch][0],
                BORDERS[branch][1],
                RELUS[branch],
                STRIDE[0],
                STRIDE[1],
                DILATION,
                CHANNELS,
                BLOCK_PLACES,
                BLOCK_CHANNELS,
            )
            if HAS_SHIFT[branch]:
                total += tl.load(shifts[branch] + channel, mask=is_channel, other=0.0).to(tl.float32)[None, :]
            if ACTIVATES[branch]:
                total = tl.where(total < 0.0, 0.0, total)
            target = made[branch] + place[:, None] * CHANNELS + channel[None, :]
            mask = is_place[:, None] & is_channel[None, :]
            tl.store(target, total.to(made[branch].dtype.element_ty), mask=mask)


@triton.jit
def separable_kernel(
    xs: tl.tuple,
    weights: tl.tuple,
    products: tl.tuple,
    shifts: tl.tuple,
    others: tl.tuple,
    made: tl.tuple,
    height: tl.tensor,
    width: tl.tensor,
    out_height: tl.tensor,
    out_width: tl.tensor,
    positions: tl.tensor,
    KERNELS: tl.constexpr,
    BORDERS: tl.constexpr,
    RELUS: tl.constexpr,
    FIRST: tl.constexpr,
    FIRST_OTHER: tl.constexpr,
    FACTORS: tl.constexpr,
    HAS_SHIFT: tl.constexpr,
    ACTIVATES: tl.constexpr,
    STRIDE: tl.constexpr,
    DILATION: tl.constexpr,
    CHANNELS: tl.constexpr,
    OUT_CHANNELS: tl.constexpr,
    BLOCK_PLACES: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr,
    BLOCK_OUT: tl.constexpr,
    WIDE: tl.constexpr,
) -> None:
    """Sums of separable convolutions: for each result its branches (``FIRST[r]`` to ``FIRST[r + 1]``) through ReLU,
    depthwise and pointwise convolution, the shift, multiples of other states, ReLU.

    Program ids: tile of places, tile of the result's channels, result. A branch's channels go through in tiles, each
    filtered, rounded to the tensors' type and multiplied. ``WIDE`` multiplies the rounded numbers as float32, for
    Triton's interpreter, whose products know no bfloat16.
    """
    place = tl.program_id(0) * BLOCK_PLACES + tl.arange(0, BLOCK_PLACES)
    out = tl.program_id(1) * BLOCK_OUT + tl.arange(0, BLOCK_OUT)
    row, column = (place // out_width) % out_height, place % out_width
    image = place // (out_width * out_height)
    is_place, is_out = place < positions, out < OUT_CHANNELS
    target = place[:, None] * OUT_CHANNELS + out[None, :]
    mask = is_place[:, None] & is_out[None, :]
    for result in tl.static_range(len(HAS_SHIFT)):
        if tl.program_id(2) == result:
            total = tl.zeros([BLOCK_PLACES, BLOCK_OUT], dtype=tl.float32)
            for branch in tl.static_range(tl.constexpr(FIRST[result]), tl.constexpr(FIRST[result + 1])):
                for start in range(0, CHANNELS, BLOCK_CHANNELS):
                    channel = start + tl.arange(0, BLOCK_CHANNELS)
                    tile = _filtered(
                        xs[branch],
                        weights[branch],
                        image,
                        row,
                        column,
                        is_place,
                        channel,
                        height,
                        width,
                        KERNELS[branch][0],
                        KERNELS[branch][1],
                        BORDERS[branch][0],
                        BORDERS[branch][1],
                        RELUS[branch],
                        STRIDE[0],
                        STRIDE[1],
                        DILATION,
                        CHANNELS,
                        BLOCK_PLACES,
                        BLOCK_CHANNELS,
                    )
                    line = out * ((FIRST[result + 1] - FIRST[result]) * CHANNELS) + (branch - FIRST[result]) * CHANNELS
                    factor = tl.load(
                        products[result] + line[None, :] + channel[:, None],
                        mask=(channel < CHANNELS)[:, None] & is_out[None, :],
                        other=0.0,
                    )
                    tile = tile.to(factor.dtype)
                    if WIDE:
                        tile, factor = tile.to(tl.float32), factor.to(tl.float32)
                    total = tl.dot(tile, factor, total, input_precision="ieee")
            if HAS_SHIFT[result]:
                total += tl.load(shifts[result] + out, mask=is_out, other=0.0).to(tl.float32)[None, :]
            for other in tl.static_range(tl.constexpr(FIRST_OTHER[result]), tl.constexpr(FIRST_OTHER[result + 1])):
                total += FACTORS[other] * tl.load(others[other] + target, mask=mask, other=0.0).to(tl.float32)
            if ACTIVATES[result]:
                total = tl.where(total < 0.0, 0.0, total)
            tl.store(made[result] + target, total.to(made[result].dtype.element_ty), mask=mask)
