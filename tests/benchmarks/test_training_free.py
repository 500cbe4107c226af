"""The training-free score of ``benchmarks/training_free.py``."""

from __future__ import annotations

import math

import pytest
import torch
import training_free
from torch import nn


def test_naswot_counts_the_relus_that_agree() -> None:
    images = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, -1.0]])
    # Of two ReLUs, images 0 and 1 agree in one, 1 and 2 in one, 0 and 2 in none.
    agreement = torch.tensor([[2.0, 1.0, 0.0], [1.0, 2.0, 1.0], [0.0, 1.0, 2.0]])
    score = training_free.naswot(nn.Sequential(nn.ReLU()), images)
    assert score == pytest.approx(math.log(torch.linalg.det(agreement).item()))
