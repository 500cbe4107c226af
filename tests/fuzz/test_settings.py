"""Settings of training: read and followed, or refused with their own errors."""

from __future__ import annotations

import pytest
import torch
import yaml
from torch import nn

from nasnet_det.training.data.cifar10 import DataError
from nasnet_det.training.data.cifar_batches import CifarAugmentation
from nasnet_det.training.engine import Trainer
from nasnet_det.training.execution import Execution
from nasnet_det.training.models import ModelChoice, ModelError
from nasnet_det.training.recipe import FOLDER, Recipe, RecipeError, load_recipe, recipe_names
from tests.fuzz.conftest import Fuzz
from tests.fuzz.engine import Case
from tests.fuzz.mutate import json_of, spoil_text, spoil_value

_WORDS = ("adamw", "rmsproptf", "lamb", "sgd", "exponential", "binary_cross_entropy", "image", 5e-4, "5e-4", {"eps": 0})
CPU = Execution(torch.device("cpu"))


def follow(recipe: Recipe) -> None:
    """Build the trainer of a recipe and take one step."""
    if recipe.data == "cifar":
        CifarAugmentation.from_mapping(recipe.augmentation)
    network = nn.Sequential(nn.Conv2d(3, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(72, 5))
    trainer = Trainer(network, recipe, 10, 5, CPU)
    trainer.step(torch.zeros(4, 3, 8, 8), torch.tensor([0, 1, 2, 3]))


def test_recipe_file(fuzz: Fuzz) -> None:
    texts = [path.read_text() for path in sorted(FOLDER.glob("*.yaml"))]

    def attempt(case: Case) -> None:
        text, path = case.random.choice(texts), case.folder / "recipe.yaml"
        if case.random.random() < 0.6:
            text = yaml.safe_dump(spoil_value(yaml.safe_load(text), case, _WORDS), allow_unicode=False)
        else:
            text = spoil_text(text, case, ["epochs: 2\n", "mix: {mixup_alpha: 0.2}\n", "<<: *b\n"])
        path.write_bytes(text.encode("utf-8", "surrogatepass"))
        with case.allows(RecipeError, naming=path):
            recipe = load_recipe(path)
        if not case.refused:
            with case.allows(RecipeError, DataError):
                follow(recipe)

    fuzz(attempt)


def test_recipe_settings(fuzz: Fuzz) -> None:
    """``--set KEY=VALUE`` on the command line."""
    names = [*Recipe.__dataclass_fields__, "optimizer_options.momentum", "mix.mixup_alpha", "augmentation.pad", "x.y"]
    values = ["0", "1", "0.5", "-1", "1e-3", "1e400", "nan", ".inf", "{}", "[1]", "text", "null", "true", "{a: 1}"]

    def attempt(case: Case) -> None:
        recipe, random = load_recipe(case.random.choice(recipe_names())), case.random
        asked = [f"{random.choice(names)}={random.choice(values)}" for _ in range(random.randint(1, 3))]
        asked = ["epochs=3"] if case.pristine else [spoil_text(a, case) if random.random() < 0.3 else a for a in asked]
        with case.allows(RecipeError, DataError):
            follow(recipe.with_settings(asked))

    fuzz(attempt)


def test_saved_models_config(fuzz: Fuzz) -> None:
    """``config.json`` of a ``local-dir`` model."""
    pytest.importorskip("timm")
    config = {
        "architecture": "nasnet",
        "num_classes": 5,
        "model_args": {"num_cells": 1, "num_filters": 4, "stem_channels": 4, "genotype": "darts_v2"},
        "pretrained_cfg": {"input_size": [3, 32, 32], "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]},
    }

    def attempt(case: Case) -> None:
        path = case.folder / "config.json"
        spoiled = spoil_value(config, case, ("nasnet_a_mobile", "resnet18", "darts_v1", "imagenet", "cifar"))
        path.write_bytes(json_of(spoiled, case))
        with case.allows(ModelError):
            choice = ModelChoice.named(f"local-dir:{case.folder}")
            numbers = [v for v in choice.arguments.values() if isinstance(v, int | float) and abs(v) > 64]
            if not numbers and choice.architecture == "nasnet":
                choice.build()

    fuzz(attempt, share=0.3)
