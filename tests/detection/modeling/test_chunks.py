"""The number of proposals that the second stage takes at once."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

pytest.importorskip("detectron2")

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary

from nasnet_det.detection.modeling import chunks
from nasnet_det.detection.modeling.backbone import build_network
from nasnet_det.detection.modeling.chunks import budget, bytes_per_crop, chunk_size, even
from nasnet_det.detection.modeling.split import SecondStage, split_network
from nasnet_det.fusion import optimize_for_inference

CPU = torch.device("cpu")


def stage(**arguments: Any) -> SecondStage:
    return split_network(build_network(**{"num_cells": 2, "num_filters": 16, **arguments}))[1].eval()


class Peak(TorchDispatchMode):
    """The most bytes that operators' results hold at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.held = WeakIdKeyDictionary()
        self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for value in tree_leaves(result):
            if isinstance(value, Tensor) and value.untyped_storage().nbytes():
                self.held[value.untyped_storage()] = value.untyped_storage().nbytes()
        self.peak = max(self.peak, sum(self.held.values()))
        return result


@torch.no_grad()
@pytest.mark.parametrize("genotype", ["nasnet_a", "amoebanet_a", "darts_v2", "enas"])
@pytest.mark.parametrize("fused", [False, True])
def test_what_a_crop_takes(genotype: str, fused: bool) -> None:
    """Counted from the wiring, it bounds what running takes, and not by much."""
    model = stage(genotype=genotype)
    expected = bytes_per_crop(model, 17, torch.float32)
    model = optimize_for_inference(model) if fused else model
    crops = torch.randn(4, sum(model.in_channels), 17, 17).contiguous(memory_format=torch.channels_last)
    model(crops)  # weights are packed now
    with Peak() as peak:
        model(crops.clone())
    assert 0.25 * expected < peak.peak / 4 <= 1.1 * expected


def test_more_memory_holds_more(monkeypatch: pytest.MonkeyPatch) -> None:
    model, gpu = stage(), torch.device("cuda")
    sizes = []
    for gigabytes in (4, 8, 80):
        properties = SimpleNamespace(total_memory=gigabytes * 2**30)
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device, properties=properties: properties)
        assert budget(gpu) == gigabytes * 2**27
        sizes.append(chunk_size(model, 17, torch.bfloat16, gpu, False))
    assert 0 < sizes[0] < sizes[1] < sizes[2]
    assert chunk_size(model, 17, torch.float32, gpu, False) == pytest.approx(sizes[2] / 2, abs=1)
    assert chunk_size(model, 17, torch.bfloat16, gpu, True) < sizes[2]
    assert chunk_size(model, 33, torch.bfloat16, gpu, False) < sizes[2]


def test_there_is_always_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks, "CPU_BYTES", 1)
    assert chunk_size(stage(), 17, torch.float32, CPU, True) == 1


@pytest.mark.parametrize(
    ("count", "most", "size"), [(300, 128, 100), (300, 300, 300), (9, 4, 3), (1, 50, 1), (7, 3, 3)]
)
def test_chunks_are_few_and_of_a_size(count: int, most: int, size: int) -> None:
    assert even(count, most) == size <= most
    assert -(-count // size) == -(-count // most)
