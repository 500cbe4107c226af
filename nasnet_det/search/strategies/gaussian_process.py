"""A Gaussian process over grouped features, whose kernel weighs each group."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Kernel:
    """The parameters of :class:`GaussianProcess`: a weight for each group of features, and the share of noise."""

    weights: tuple[float, ...]
    noise: float


class GaussianProcess:
    """A Gaussian process over groups ``g`` of features, with a Matérn kernel of ``sum_g weight_g |a_g - b_g|^2``.

    Args:
        features: ``(n, columns)`` of the data.
        targets: ``(n,)``, of mean 0.
        widths: the number of columns of each group.
        kernel: its parameters; None for those of the highest posterior probability, found by gradient ascent.
    """

    def __init__(self, features: Floats, targets: Floats, widths: Sequence[int], kernel: Kernel | None = None) -> None:
        self._features, self._targets = torch.from_numpy(features), torch.from_numpy(targets)
        self._widths = list(widths)
        self.kernel = kernel or self._fit()
        weights = torch.tensor(self.kernel.weights, dtype=torch.float64)
        self._scales = weights.sqrt().repeat_interleave(torch.tensor(self._widths))
        self._scaled = self._features * self._scales
        covariance = _matern(_squared_distances(self._scaled, self._scaled))
        covariance.diagonal().add_(self.kernel.noise)
        self._factor = torch.linalg.cholesky(covariance)
        self._solved = torch.cholesky_solve(self._targets[:, None], self._factor)[:, 0]
        self._variance = max(float(self._targets @ self._solved) / len(targets), 1e-3)

    def predict(self, features: Floats) -> tuple[Floats, Floats]:
        """Return mean and standard deviation ``(m,)`` of the noiseless target at ``features`` ``(m, columns)``."""
        across = _matern(_squared_distances(self._scaled, torch.from_numpy(features) * self._scales))
        mean = across.T @ self._solved
        explained = torch.linalg.solve_triangular(self._factor, across, upper=False).square().sum(dim=0)
        deviation = (self._variance * (1 - explained).clamp_min(1e-9)).sqrt()
        return mean.numpy(), deviation.numpy()

    def _fit(self, steps: int = 30) -> Kernel:
        """Maximize the posterior probability by Adam on the logarithms of the parameters.

        The logarithm of a weight is normal with deviation 1: ten results say little about a dozen groups.
        """
        blocks = self._features.split(self._widths, dim=1)
        distances = torch.stack([_squared_distances(block, block) for block in blocks]).flatten(1)
        count = len(self._targets)
        typical = math.log(1 / len(blocks))
        logs = torch.full((len(blocks) + 1,), typical, dtype=torch.float64)
        logs[-1] = math.log(0.1)
        logs.requires_grad_()
        optimizer = torch.optim.Adam([logs], lr=0.2)
        for _ in range(steps):
            covariance = _matern(logs[:-1].exp() @ distances).view(count, count)
            covariance = covariance + torch.diag((logs[-1].exp() + 1e-6).expand(count))
            factor = torch.linalg.cholesky(covariance)
            solved = torch.cholesky_solve(self._targets[:, None], factor)[:, 0]
            loss = factor.diagonal().log().sum() + count / 2 * (self._targets @ solved / count).log()
            loss = loss + 0.5 * (logs[:-1] - typical).square().sum() + 0.05 * (logs[-1] - math.log(0.05)).square()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        values = logs.detach().exp().tolist()
        return Kernel(tuple(values[:-1]), values[-1])


def _matern(squares: Tensor) -> Tensor:
    """Return the Matérn kernel of smoothness 3/2 (Rasmussen and Williams 2006, equation 4.17) of squared distances."""
    roots = (3 * squares + 1e-12).sqrt()
    return (1 + roots) * (-roots).exp()


def _squared_distances(a: Tensor, b: Tensor) -> Tensor:
    squares = a.square().sum(dim=1)[:, None] + b.square().sum(dim=1) - 2 * a @ b.T
    return squares.clamp_min_(0)


def normal_scores(values: Floats) -> Floats:
    """Return each value's rank as that quantile of the standard normal; of equal values the earlier has the lower."""
    scores = np.empty(len(values))
    scores[np.argsort(values, kind="stable")] = _quantiles(len(values))
    return scores


@lru_cache(maxsize=1024)
def _quantiles(count: int) -> Floats:
    normal = NormalDist()
    return np.array([normal.inv_cdf((i + 0.5) / count) for i in range(count)])
