"""Recipes: the project's own are read, schedules follow TensorFlow's, mistakes are named."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from nasnet_det.training.recipe import Recipe, RecipeError, load_recipe, recipe_names

PLAIN = Recipe("plain", "cifar", epochs=10, batch_size=100, learning_rate=0.8)


@pytest.mark.parametrize("name", recipe_names())
def test_the_projects_recipes(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.name == name and recipe.source
    assert Recipe.from_dict(recipe.to_dict()) == recipe


def test_the_papers_numbers() -> None:
    """TF-slim's notes on its three configurations, and the paper's appendix A.6 and A.7."""
    cifar, mobile, large = map(load_recipe, ("cifar_paper", "imagenet_paper_mobile", "imagenet_paper_large"))
    assert (cifar.batch_size, cifar.learning_rate, cifar.aux_weight, cifar.clip_gradient_norm) == (32, 0.025, 0.4, 5.0)
    assert cifar.epochs * 50_000 / cifar.batch_size == 937_500
    assert (mobile.batch_size, mobile.learning_rate) == (32 * 50, 0.04 * 50)
    assert (large.batch_size, large.learning_rate, large.drop_path_rate) == (16 * 100, 0.015 * 100, 0.3)
    for recipe in (mobile, large):
        assert recipe.optimizer_options["eps"] == 1.0 and recipe.optimizer_options["alpha"] == 0.9
        assert recipe.epochs * 1_281_167 / recipe.batch_size == pytest.approx(250_000, rel=2e-3)


def test_single_period_cosine() -> None:
    rates = [PLAIN.learning_rate_at(step, 10) for step in range(100)]
    assert rates[0] == 0.8 and rates[50] == pytest.approx(0.4)
    assert rates == sorted(rates, reverse=True) and 0 < rates[-1] < 1e-3


def test_exponential_is_in_steps() -> None:
    recipe = Recipe("plain", "imagenet", 10, 100, 2.0, schedule="exponential")
    rates = [recipe.learning_rate_at(step, 10) for step in range(100)]
    # 2.4 epochs of 10 steps are 24 steps.
    assert rates[:24] == [2.0] * 24 and rates[24] == 2.0 * 0.97 and rates[48] == 2.0 * 0.97**2


def test_warmup_rises_to_the_rate_and_goes_on_from_there() -> None:
    recipe = PLAIN.with_settings(["warmup_epochs=2"])
    rates = [recipe.learning_rate_at(step, 10) for step in range(100)]
    assert rates[0] == pytest.approx(0.04) and rates[19] == pytest.approx(0.8) and rates[20] == 0.8
    assert rates[60] == pytest.approx(0.8 * 0.5 * (1 + math.cos(math.pi / 2)))


def test_moving_average_starts_as_tensorflows() -> None:
    recipe = PLAIN.with_settings(["ema_decay=0.9999"])
    assert recipe.ema_decay_at(1) == 2 / 11 and recipe.ema_decay_at(10**6) == 0.9999


def test_settings_and_scaling() -> None:
    recipe = PLAIN.with_settings(["learning_rate=5e-2", "augmentation.cutout=16", "optimizer_options={momentum: 0.8}"])
    assert recipe.learning_rate == 0.05 and recipe.augmentation == {"cutout": 16}
    assert recipe.optimizer_options == {"momentum": 0.8}
    assert PLAIN.scaled_to(25).learning_rate == 0.2


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("epochs=0", "epochs"),
        ("epochs=2.5", "epochs"),
        ("learning_rate=-1", "learning_rate"),
        ("learning_rate=.nan", "learning_rate"),
        ("batch_size=1e30", "batch_size"),
        ("schedule=linear", "schedule.*'cosine' or 'exponential'"),
        ("drop_path_rate=1", "drop_path_rate"),
        ("nothing=1", "nothing"),
        ("mix=3", "mix"),
        ("optimizer_options.momentum=.inf", r"optimizer_options\.momentum"),
        ("optimizer_options.betas=[0.9, 1.0e+30]", r"optimizer_options\.betas"),
        ("augmentation.pad=.nan", r"augmentation\.pad"),
        ("epochs", "KEY=VALUE"),
        ("epochs=[1", "epochs"),
    ],
)
def test_wrong_settings_are_named(setting: str, words: str) -> None:
    with pytest.raises(RecipeError, match=words):
        PLAIN.with_settings([setting])


@pytest.mark.parametrize("rate", [0.8, 0])
def test_a_learning_rate_that_grows_beyond_numbers_is_refused(rate: float) -> None:
    growing = [f"learning_rate={rate}", "schedule=exponential", "decay_rate=10", "decay_epochs=1"]
    assert PLAIN.with_settings(growing).learning_rate_at(99, 10) == pytest.approx(rate * 1e9)
    for more in ("decay_epochs=0.01", "decay_rate=1e10", "epochs=1000"):
        with pytest.raises(RecipeError, match="decay_rate"):
            PLAIN.with_settings([*growing, more])


def test_recipe_files(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("data: cifar\nepochs: 3\nbatch_size: 8\nlearning_rate: 1e-2\n")
    assert load_recipe(path).name == "mine" and load_recipe(path).learning_rate == 0.01
    path.write_text("- a list")
    with pytest.raises(RecipeError, match=r"mine\.yaml"):
        load_recipe(path)
    path.write_text("epochs: 3")
    with pytest.raises(RecipeError, match=r"mine\.yaml.*data"):
        load_recipe(path)
    with pytest.raises(RecipeError, match=r"cifar_papr.*cifar_paper"):
        load_recipe("cifar_papr")
