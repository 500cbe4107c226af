"""Random numbers of a training run: every generator is seeded from the run's seed and a position in the run."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def derive_seed(*numbers: int) -> int:
    """Return a 32-bit seed derived from a run's seed and further numbers (a step, a rank, an epoch), all at least 0.

    Nearby numbers give unrelated seeds (``numpy.random.SeedSequence``).
    """
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


def seed_step(seed: int, step: int, rank: int = 0) -> None:
    """Seed the generators of PyTorch, NumPy and Python for one step, so that a resumed run draws the same numbers."""
    number = derive_seed(seed, step, rank)
    torch.manual_seed(number)
    random.seed(number)
    np.random.seed(number)


def epoch_order(seed: int, epoch: int, number: int) -> np.ndarray:
    """Return the order of an epoch: a permutation of ``range(number)``, int64, the same in every process."""
    return np.random.default_rng((seed, epoch)).permutation(number)


@contextmanager
def own_randomness(device: torch.device | None = None) -> Iterator[None]:
    """Restore the states of all generators of the host and of ``device``, or of all devices, on leaving the block."""
    python, numpy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(device and ([device] if device.type == "cuda" else [])):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
