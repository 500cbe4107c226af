"""Memory on the roads of benchmarks/soak.py, a short way along each; and that a leak would be seen."""

from __future__ import annotations

import mmap

import pytest
import torch

from benchmarks.soak import LOOKS, Look, Road, live_tensors, run, soak

CLASSIFIERS = ["classifier_training", "classifier_predictions", "fused_predictions"]


@pytest.mark.parametrize("name", [*CLASSIFIERS, "detector_training", "detector_predictions"])
def test_memory_stays_flat(name: str) -> None:
    if name not in CLASSIFIERS:
        pytest.importorskip("detectron2")
    (road,) = run([name], 60, lambda line: None)
    assert road.tensors_grown <= 8
    assert road.megabytes_grown < 40  # of so few steps only a large leak is told from the allocator's wandering


def test_a_leak_is_seen() -> None:
    kept = []

    def leak(number: int) -> None:  # by pages of its own: what earlier tests gave back to the heap is still resident
        kept.append(torch.frombuffer(mmap.mmap(-1, 1 << 20), dtype=torch.uint8).fill_(1))

    road = soak("leak", leak, 80, lambda line: None)
    assert road.tensors_grown == pytest.approx(60, abs=20)
    assert road.megabytes_grown == pytest.approx(60, abs=20)
    assert len(road.looks) == LOOKS


def test_what_only_a_cycle_holds_is_no_leak() -> None:
    before = live_tensors()
    cycle: list = [torch.ones(3)]
    cycle.append(cycle)
    assert live_tensors() == before + 1
    del cycle
    assert live_tensors() == before


def test_growth_is_from_the_first_looks_to_the_last() -> None:
    road = Road.of("x", 10, 1.0, [Look(i, 100 + (i >= 5) * 7.5, 50 + i) for i in range(10)])
    assert (road.megabytes_grown, road.tensors_grown) == (7.5, 5)
