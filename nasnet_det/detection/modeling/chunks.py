"""Chunk sizes of the second stage: as many proposals at once as a share of the device's memory holds.

The share depends only on the device, so that runs are repeatable. A proposal's memory is counted from the network's
wiring, for any genotype, width and crop size.
"""

from __future__ import annotations

import math

import torch

from nasnet_det.detection.modeling.split import SecondStage
from nasnet_det.models.plan import CellPlan

#: Share of a GPU's memory.
GPU_SHARE = 1 / 8
#: Bytes on a CPU, where larger chunks gain nothing.
CPU_BYTES = 2**28


def chunk_size(stage: SecondStage, crop_size: int, dtype: torch.dtype, device: torch.device, keeps: bool) -> int:
    """Return the largest number of proposals to run at once, at least 1.

    Args:
        stage: what they run through.
        crop_size: side of their crops.
        dtype: of their features.
        device: where they run.
        keeps: whether everything is kept for a backward pass.
    """
    return max(1, budget(device) // bytes_per_crop(stage, crop_size, dtype, keeps))


def budget(device: torch.device) -> int:
    """Return the number of bytes available to a chunk."""
    if device.type != "cuda":
        return CPU_BYTES
    return int(GPU_SHARE * torch.cuda.get_device_properties(device).total_memory)


def even(count: int, most: int) -> int:
    """The size of the fewest chunks of at most ``most`` that hold ``count``, all of a size if that can be: what is
    compiled or recorded for one then serves all."""
    return math.ceil(count / max(1, math.ceil(count / most)))


def bytes_per_crop(stage: SecondStage, crop_size: int, dtype: torch.dtype, keeps: bool = False) -> int:
    """Return an estimate of the second stage's memory for one crop, the crop included.

    Args:
        keeps: count every cell, as for a backward pass, instead of the largest.
    """
    network = stage.network
    cut = network.out_shapes[stage.cut_outputs[-1]][0]

    def positions(output: int) -> int:
        shape = network.out_shapes[output][0]
        return math.ceil(crop_size / 2 ** (shape.level - cut.level)) ** 2

    def numbers(output: int) -> int:
        return sum(shape.channels for shape in network.out_shapes[output]) * positions(output)

    def of_cell(plan: CellPlan) -> int:
        """Its inputs with and without ReLU; for each block two paths' results and the state; its output."""
        read = [number for number in (plan.current, plan.previous) if number is not None]
        blocks = len(network.genotype.reduction.blocks if plan.reduces else network.genotype.normal.blocks)
        largest = max(positions(number) for number in (*read, plan.output))
        states = (6 if keeps else 2) * (blocks + 2) * plan.filters * largest
        return 2 * sum(numbers(number) for number in read) + states + numbers(plan.output)

    cells = [of_cell(plan) for plan in network.plan]
    crops = sum(stage.in_channels) * crop_size**2
    return dtype.itemsize * (crops + (sum(cells) if keeps else max(cells)))
