"""Candidates that exceed limits, one after the other."""

from __future__ import annotations

import logging

import pytest
from torch import nn

from nasnet_det.search.candidates import LimitError, Refusals, SpaceCandidates
from nasnet_det.search.costs import NetworkSize
from nasnet_det.search.limits import Limit, parse_demands
from nasnet_det.search.schedule import Schedule
from nasnet_det.search.strategies.registry import make_strategy
from tests.search.fakes import SPACE


@pytest.mark.parametrize(
    ("limit", "value", "count"),
    [
        (Limit("params", 10), 1000, 1000),
        (Limit("latency", 20), 20.01, 100),
        (Limit("latency", 20), 60, 34),
        (Limit("latency", 20), 5000, 10),
    ],
)
def test_the_further_latencies_are_from_the_limit_the_sooner_a_search_gives_up(
    limit: Limit, value: float, count: int, caplog: pytest.LogCaptureFixture
) -> None:
    refusals = Refusals()
    for _ in range(count - 1):
        refusals.add(limit, value)
    assert len(refusals) == count - 1 and 2 <= len(caplog.records) <= 4 and str(limit) in caplog.text
    with pytest.raises(LimitError, match=str(limit)):
        refusals.add(limit, value)


@pytest.mark.parametrize("wanted", [{"limits": ["latency=1s"]}, {"objectives": ["accuracy", "latency"]}])
def test_candidates_that_cannot_be_measured_are_refused(
    wanted: dict[str, list[str]], caplog: pytest.LogCaptureFixture
) -> None:
    """A reduction of one channel cannot be built: some cells join an input by one, the others can be measured."""
    size = NetworkSize(1, 4, "imagenet", 4, 2, 32)
    meters: list[nn.Module] = []
    candidates = SpaceCandidates(SPACE, size, parse_demands(**wanted), lambda network: meters.append(network) or 5.0)
    schedule = Schedule(make_strategy("random", SPACE.sizes, 3), 20, candidates=candidates)
    tasks = [schedule.choose(10) for _ in range(10)]
    assert len(meters) == 10 and sum(task.refused for task in tasks if task) > 3
    (record,) = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert "ValueError" in record.message


def test_a_latency_that_no_candidate_has_ends_the_search_with_its_reason() -> None:
    def meter(network: nn.Module) -> float:
        raise RuntimeError("no such kernel")

    candidates = SpaceCandidates(SPACE, NetworkSize(1, 4, "cifar", 4, 2, 32), parse_demands(["latency=1s"]), meter)
    schedule = Schedule(make_strategy("random", SPACE.sizes, 3), 1, candidates=candidates)
    with pytest.raises(LimitError, match="no such kernel"):
        schedule.choose(10)
