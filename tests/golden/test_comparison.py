"""The error of a tensor against the recorded one."""

from __future__ import annotations

import numpy as np
import pytest

from nasnet_det.golden.comparison import Comparison, relative_error


def test_relative_error() -> None:
    reference = np.array([3.0, 4.0], np.float32)
    assert relative_error(reference, reference) == 0.0
    assert relative_error(reference + np.array([0.0, 0.5], np.float32), reference) == pytest.approx(0.1)
    assert relative_error(np.zeros(2), np.zeros(2)) == 0.0
    assert relative_error(np.ones(2), np.zeros(2)) == float("inf")
    assert not Comparison("x", relative_error(np.array([np.nan, 1.0]), reference), 1.0).passed
