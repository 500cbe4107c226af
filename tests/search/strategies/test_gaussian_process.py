"""The Gaussian process: its posterior, its fit, and the scores it learns."""

from __future__ import annotations

import numpy as np
import pytest

from nasnet_det.search.strategies.gaussian_process import GaussianProcess, Kernel, normal_scores


def test_the_posterior_is_that_of_the_formula() -> None:
    rng = np.random.default_rng(0)
    x, y, new = rng.standard_normal((12, 3)), rng.standard_normal(12), rng.standard_normal((5, 3))
    kernel = Kernel((0.3, 0.7), 0.2)
    scales = np.array([0.3, 0.3, 0.7])

    def covariance(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        roots = np.sqrt(3 * (scales * (a[:, None] - b[None]) ** 2).sum(axis=2))
        return (1 + roots) * np.exp(-roots)

    known = covariance(x, x) + 0.2 * np.eye(12)
    across = covariance(x, new)
    variance = y @ np.linalg.solve(known, y) / 12
    mean, deviation = GaussianProcess(x, y, [2, 1], kernel).predict(new)
    np.testing.assert_allclose(mean, across.T @ np.linalg.solve(known, y), rtol=1e-8)
    expected = variance * (1 - (across * np.linalg.solve(known, across)).sum(axis=0))
    np.testing.assert_allclose(deviation**2, expected, rtol=1e-8)


def test_the_fit_finds_the_group_that_matters() -> None:
    rng = np.random.default_rng(1)
    x = rng.standard_normal((80, 4))
    y = normal_scores(np.sin(2 * x[:, 0]) + 0.05 * rng.standard_normal(80))
    process = GaussianProcess(x, y, [1, 3])
    assert process.kernel.weights[0] > 10 * process.kernel.weights[1] and process.kernel.noise < 0.3
    new = rng.standard_normal((200, 4))
    mean, _ = process.predict(new)
    assert np.corrcoef(mean, np.sin(2 * new[:, 0]))[0, 1] > 0.9


def test_scores_are_symmetric_and_ordered() -> None:
    scores = normal_scores(np.array([3.0, -np.inf, 7.0, 3.0]))
    assert scores.tolist() == pytest.approx((-scores[[3, 2, 1, 0]]).tolist())
    assert scores[1] < scores[0] < scores[3] < scores[2]
