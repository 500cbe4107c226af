"""Costs, limits and candidates: the counts are those of the built network, limits are read strictly."""

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nasnet_det.export import available
from nasnet_det.models.network import NASNet
from nasnet_det.search.candidates import SpaceCandidates
from nasnet_det.search.costs import NetworkSize, measure_cost
from nasnet_det.search.latency import LatencyMeter
from nasnet_det.search.limits import Limit, format_measure, oriented, parse_demands
from nasnet_det.search.space import SPACES
from nasnet_det.search.strategies.base import uniform


@given(
    st.sampled_from(sorted(SPACES)), st.sampled_from(["cifar", "imagenet"]), st.integers(0, 999), st.integers(32, 49)
)
@settings(max_examples=6, deadline=None)
def test_costs_are_those_of_the_built_network(space: str, stem: str, seed: int, side: int) -> None:
    decisions = uniform(SPACES[space].sizes, random.Random(seed))
    side += 32 if stem == "imagenet" else 0  # instance norm needs more than one position in the last maps
    size = NetworkSize(1, 8, stem, 12, 7, side)  # type: ignore[arg-type]
    genotype = SPACES[space].genotype(decisions)
    network = size.build(genotype, device="meta")
    assert size.cost(genotype) == measure_cost(network, torch.zeros(1, 3, side, side, device="meta"))


def test_few_filters_are_counted_or_refused() -> None:
    """The cells of the ImageNet stem have a quarter and a half of them."""
    genotype = SPACES["nasnet_a"].genotype(uniform(SPACES["nasnet_a"].sizes, random.Random(0)))
    size = NetworkSize(1, 4, "imagenet", 12, 7, 64)
    assert size.cost(genotype).params == sum(p.numel() for p in size.build(genotype, device="meta").parameters())
    with pytest.raises(ValueError, match="num_filters"):
        NetworkSize(1, 3, "imagenet", 12, 7, 64)


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("params=1.5M", 1.5e6),
        ("params=800k", 8e5),
        ("params=12345", 12345),
        ("params=1_500_000", 1.5e6),
        ("params=1.5e6", 1.5e6),
        ("params=1.5E6", 1.5e6),
        ("latency=2e-2s@224", 20),
        ("params=800 K", 8e5),
        ("macs=200M", 2e8),
        ("macs=.5G", 5e8),
        ("latency=20ms@224", 20),
        ("latency=0.02s", 20),
    ],
)
def test_limits_are_read(word: str, value: float) -> None:
    demands = parse_demands([word])
    assert demands.limits == (Limit(word.partition("=")[0], value),)
    assert demands.image_size == (224 if "@" in word else None)
    assert demands.exceeded({demands.limits[0].name: value}) is None
    assert demands.exceeded({demands.limits[0].name: value * 1.01}) == demands.limits[0]


@pytest.mark.parametrize(
    "words",
    [
        ["params"],
        ["params=1.5m"],
        ["params=1.5MB"],
        ["params=-1M"],
        ["params=0"],
        ["params=1__0"],
        ["latency=20"],
        ["latency=20ms@4"],
        ["params=1M@224"],
        ["flops=1M"],
        ["params=1M "],
        ["params=\uff11M"],
        ["params=1M", "params=2M"],
    ],
)
def test_what_is_no_limit_is_named(words: list[str]) -> None:
    with pytest.raises(ValueError, match=words[0].strip()[:5]):
        parse_demands(words)


def test_objectives_are_read_and_oriented() -> None:
    demands = parse_demands(["latency=9ms@64"], ["params", "accuracy", "latency@64"])
    assert demands.objectives == ("accuracy", "params", "latency") and demands.image_size == 64
    assert oriented(demands.objectives, (0.5, 10.0, 3.0)) == (0.5, -10.0, -3.0)
    for objectives in (["params"], ["accuracy", "size"], ["accuracy", "params", "params"], ["accuracy", "params@32"]):
        with pytest.raises(ValueError, match=objectives[-1].partition("@")[0]):
            parse_demands((), objectives)
    with pytest.raises(ValueError, match="64 and 96"):
        parse_demands(["latency=9ms@64"], ["accuracy", "latency@96"])
    assert format_measure("params", 1_530_000) == "1.53M" and format_measure("latency", 20.14) == "20.1ms"


def test_latency_is_measured_once_and_only_within_the_other_limits() -> None:
    space, calls = SPACES["nasnet_a"], list[int]()
    size = NetworkSize(1, 4, "cifar", 12, 10, 32)

    def meter(network: torch.nn.Module) -> float:
        calls.append(sum(parameter.numel() for parameter in network.parameters()))
        return 7.0

    first, second = (uniform(space.sizes, random.Random(seed)) for seed in (0, 1))
    params = {decisions: size.cost(space.genotype(decisions)).params for decisions in (first, second)}
    small, large = sorted(params, key=lambda decisions: params[decisions])
    demands = parse_demands([f"params={params[small]}", "latency=8ms"])
    candidates = SpaceCandidates(space, size, demands, meter)
    for _ in range(2):
        assert candidates.exceeded(small) is None
        assert candidates.exceeded(large) == demands.limits[0] and not candidates.allowed(large)
    assert calls == [params[small]] and candidates.measures(small)["latency"] == 7.0
    candidates.remember(small, {"latency": 9.0})
    assert candidates.exceeded(small) == demands.limits[1]


@pytest.mark.parametrize("runtime", ["eager", "fused"])
def test_latency_is_that_of_one_image(runtime: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Measured by a clock on which a pass takes a millisecond for each row of the image."""
    now, shapes, forward = 0.0, set(), NASNet.forward

    def timed(self: NASNet, x: torch.Tensor) -> Any:
        nonlocal now
        now += x.shape[2] / 1000
        shapes.add(x.shape)
        return forward(self, x)

    network = NetworkSize(1, 4, "cifar", 12, 10, 32).build(SPACES["nasnet_a"].genotype((0,) * 50))
    monkeypatch.setattr(NASNet, "forward", timed)
    monkeypatch.setattr("nasnet_det.search.latency.time", SimpleNamespace(perf_counter=lambda: now))
    for side in (16, 160):
        shapes.clear()
        assert LatencyMeter(side, runtime)(network) == pytest.approx(side)  # type: ignore[arg-type]
        assert shapes == {(1, 3, side, side)}


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_latency_is_measured_in_a_runtime(runtime: str) -> None:
    if runtime not in available():
        pytest.skip(f"{runtime} is not installed")
    assert LatencyMeter(16, runtime)(torch.nn.Conv2d(3, 4, 3)) > 0  # type: ignore[arg-type]
