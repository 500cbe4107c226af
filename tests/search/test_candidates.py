"""Candidates that exceed limits, one after the other."""

from __future__ import annotations

import pytest

from nasnet_det.search.candidates import LimitError, Refusals
from nasnet_det.search.limits import Limit


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
