"""Search curves: the running means and what is drawn of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from nasnet_det.draw import draw_search_curves, top_means


@pytest.mark.parametrize("count", [1, 3, 10])
def test_top_means_are_the_means_of_the_best_so_far(count: int) -> None:
    rewards = np.random.default_rng(0).normal(size=50).round(1)
    means = top_means(rewards, count)
    for i in range(50):
        expected = np.mean(sorted(rewards[: i + 1])[-count:]) if i + 1 >= count else np.nan
        assert means[i] == pytest.approx(expected, nan_ok=True)


def test_a_failed_model_is_named() -> None:
    with pytest.raises(ValueError, match=r"reward 2.*nan"):
        top_means([0.5, 0.6, float("nan")], 1)
    with pytest.raises(ValueError, match="0"):
        top_means([0.5], 0)


def test_a_line_is_the_mean_over_runs_up_to_the_shortest(tmp_path: Path) -> None:
    runs = {"evolution": [[0.1, 0.3, 0.2], [0.5, 0.1, 0.1, 0.9]], "random": [[0.2, 0.1, 0.4, 0.4]]}
    figure = draw_search_curves(runs, tmp_path / "curves.png", ranks=(1, 2))
    evolution, evolution_2, random, random_2 = figure.axes[0].lines
    np.testing.assert_allclose(evolution.get_ydata(), [0.3, 0.4, 0.4])
    np.testing.assert_allclose(evolution_2.get_ydata(), [np.nan, 0.25, 0.275])
    np.testing.assert_allclose(random.get_ydata(), [0.2, 0.2, 0.4, 0.4])
    np.testing.assert_allclose(random_2.get_xdata(), [1, 2, 3, 4])
    assert evolution.get_color() == evolution_2.get_color() != random.get_color()
    assert len(figure.axes[0].collections) == 2  # bands only where there is more than one run
    legend = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert legend == ["evolution", "random", "best model", "mean of the best 2"]


def test_models_can_be_drawn_by_hours() -> None:
    runs = {"guided": [[0.1, 0.3], [0.2, 0.1, 0.4]]}
    figure = draw_search_curves(runs, ranks=(1,), hours={"guided": [[0.5, 1.0], [1.5, 2.0, 9.0]]})
    np.testing.assert_allclose(figure.axes[0].lines[0].get_xdata(), [1.0, 1.5])
    assert "hours" in figure.axes[0].get_xlabel()


def test_a_strategy_without_models_is_named() -> None:
    for runs in ([], [[0.1], []]):
        with pytest.raises(ValueError, match="evolution"):
            draw_search_curves({"evolution": runs})
