"""Random numbers of a run: a function of its seed and of the position in it."""

from __future__ import annotations

import random

import numpy as np
import torch

from nasnet_det.training.seeds import own_randomness, seed_step


def test_a_steps_seed_decides_its_random_numbers() -> None:
    def draw() -> tuple[float, float, float]:
        return float(torch.rand(())), random.random(), float(np.random.rand())

    drawn = {}
    for key in ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)):
        seed_step(*key)
        drawn[key] = draw()
        seed_step(*key)
        assert draw() == drawn[key]
    assert len(set(drawn.values())) == 4


def test_the_callers_random_numbers_are_left_alone() -> None:
    torch.manual_seed(3)
    expected = float(torch.rand(()))
    torch.manual_seed(3)
    with own_randomness(torch.device("cpu")):
        seed_step(0, 0)
    assert float(torch.rand(())) == expected
