"""What the training commands share: their options."""

from __future__ import annotations

import argparse

import torch

from nasnet_det.genotypes.published import as_genotype
from nasnet_det.training.execution import Execution, choose_execution
from nasnet_det.training.models import ModelChoice, ModelError
from nasnet_det.training.recipe import Recipe, RecipeError, load_recipe


def add_model_options(parser: argparse.ArgumentParser, model: str, num_cells: int, num_filters: int) -> None:
    """Which network; the numbers are the defaults of a genotype's."""
    group = parser.add_argument_group("network")
    group.add_argument("--model", default=model, help=f"a timm name, or local-dir:FOLDER (default: {model})")
    group.add_argument("--genotype", help="a published name or a JSON file, instead of --model")
    group.add_argument(
        "--num-cells", type=int, default=num_cells, help=f"with --genotype: N, normal cells a stage ({num_cells})"
    )
    group.add_argument(
        "--num-filters", type=int, default=num_filters, help=f"with --genotype: F of the first stage ({num_filters})"
    )
    group.add_argument("--pretrained", action="store_true", help="start from the model's published or saved weights")


def model_choice(options: argparse.Namespace, stem: str) -> ModelChoice:
    """The network asked for.

    Raises:
        ModelError, GenotypeError: if there is none such.
    """
    if options.genotype is None:
        return ModelChoice.named(options.model)
    if options.pretrained:
        raise ModelError("there are no weights of a bare --genotype; give --model local-dir:FOLDER with --pretrained")
    genotype = as_genotype(options.genotype)
    return ModelChoice.of_genotype(genotype, options.num_cells, options.num_filters, stem)


def add_recipe_options(parser: argparse.ArgumentParser, recipe: str, names: list[str]) -> None:
    """How to train."""
    group = parser.add_argument_group("recipe")
    group.add_argument("--recipe", default=recipe, help=f"{', '.join(names)}, or a YAML file (default: {recipe})")
    group.add_argument("--epochs", type=int, help="instead of the recipe's")
    group.add_argument("--batch-size", type=int, help="over all processes; scales the learning rate in proportion")
    group.add_argument(
        "--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="any setting: learning_rate=0.05"
    )


def recipe_asked(options: argparse.Namespace, data: str) -> Recipe:
    """The recipe with what the options change."""
    recipe = load_recipe(options.recipe)
    if recipe.data != data:
        raise RecipeError(f"{recipe.name} is a recipe for {recipe.data}, not for {data}")
    if options.batch_size is not None:
        recipe = recipe.scaled_to(options.batch_size)
    changes = [f"epochs={options.epochs}"] if options.epochs is not None else []
    return recipe.with_settings([*changes, *options.set])


def add_execution_options(parser: argparse.ArgumentParser) -> None:
    """Where and with what arithmetic."""
    group = parser.add_argument_group("device")
    group.add_argument("--device", help="default: the GPU if there is one")
    group.add_argument("--precision", default="auto", choices=["auto", "float32", "bfloat16"])
    group.add_argument(
        "--channels-last",
        action=argparse.BooleanOptionalAction,
        help="memory layout (default: what the device gains by)",
    )
    group.add_argument(
        "--mode", default="eager", choices=["eager", "compile", "graph"], help="how steps are run (eager)"
    )
    group.add_argument("--deterministic", action="store_true", help="refuse operations whose results vary on a GPU")


def execution_asked(options: argparse.Namespace, device: str | None = None) -> Execution:
    """The execution asked for."""
    if options.deterministic:
        torch.use_deterministic_algorithms(True)
    else:
        torch.backends.cudnn.benchmark = True
    return choose_execution(options.device or device, options.precision, options.channels_last, options.mode)
