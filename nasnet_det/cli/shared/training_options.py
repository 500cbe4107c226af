"""Options shared by the training commands. PyTorch is imported only when they are evaluated, so that help is fast."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from nasnet_det.cli.shared.options import add_settings
from nasnet_det.training.recipe import Recipe, RecipeError, load_recipe

if TYPE_CHECKING:
    from nasnet_det.models.plan import Stem
    from nasnet_det.training.execution import Execution
    from nasnet_det.training.models import ModelChoice


def add_model_options(parser: argparse.ArgumentParser, model: str, num_cells: int, num_filters: int) -> None:
    """Add the options that select the network.

    Args:
        parser: the parser.
        model: the default of ``--model``.
        num_cells, num_filters: the defaults of a network given by ``--genotype``.
    """
    group = parser.add_argument_group("network")
    group.add_argument("--model", default=model, help=f"a timm name, or local-dir:FOLDER (default: {model})")
    group.add_argument("--genotype", help="a published name or a JSON file, instead of --model")
    group.add_argument(
        "--num-cells", type=int, default=num_cells, help=f"with --genotype: N, normal cells per stage ({num_cells})"
    )
    group.add_argument(
        "--num-filters", type=int, default=num_filters, help=f"with --genotype: F of the first stage ({num_filters})"
    )
    group.add_argument("--pretrained", action="store_true", help="start from the model's published or saved weights")


def model_choice(options: argparse.Namespace, stem: Stem) -> ModelChoice:
    """Return the network that the options select.

    Args:
        options: the parsed options.
        stem: the stem of a network given by ``--genotype``, ``imagenet`` or ``cifar``.

    Raises:
        ModelError, GenotypeError: if the model or genotype does not exist.
    """
    from nasnet_det.genotypes.published import as_genotype
    from nasnet_det.training.models import ModelChoice, ModelError

    if options.genotype is None:
        return ModelChoice.named(options.model)
    if options.pretrained:
        raise ModelError("--pretrained needs --model, such as local-dir:FOLDER; a --genotype alone has no weights")
    return ModelChoice.of_genotype(as_genotype(options.genotype), options.num_cells, options.num_filters, stem)


def add_recipe_options(parser: argparse.ArgumentParser, recipe: str, names: Sequence[str]) -> None:
    """Add the options that select and change the recipe.

    Args:
        parser: the parser.
        recipe: the default of ``--recipe``.
        names: the names of the project's recipes for this command.
    """
    group = parser.add_argument_group("recipe")
    group.add_argument("--recipe", default=recipe, help=f"{', '.join(names)}, or a YAML file (default: {recipe})")
    group.add_argument("--epochs", type=int, help="default: the recipe's")
    group.add_argument("--batch-size", type=int, help="over all processes; scales the learning rate in proportion")
    add_settings(group, "any setting of the recipe, such as learning_rate=0.05")


def selected_recipe(options: argparse.Namespace, data: str) -> Recipe:
    """Return the recipe with the changes of the options.

    Raises:
        RecipeError: if the recipe does not exist, is for other data, or a changed setting is invalid.
    """
    recipe = load_recipe(options.recipe)
    if recipe.data != data:
        raise RecipeError(f"expected a recipe for {data}, but {recipe.name} is for {recipe.data}")
    if options.batch_size is not None:
        recipe = recipe.scaled_to(options.batch_size)
    changes = [f"epochs={options.epochs}"] if options.epochs is not None else []
    return recipe.with_settings([*changes, *options.set])


def add_execution_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of device, precision and execution mode."""
    group = parser.add_argument_group("device")
    group.add_argument("--device", help="default: the GPU if there is one")
    group.add_argument("--precision", default="auto", choices=["auto", "float32", "bfloat16"])
    group.add_argument(
        "--channels-last",
        action=argparse.BooleanOptionalAction,
        help="memory layout (default: the faster one on the device)",
    )
    group.add_argument(
        "--mode",
        default="auto",
        choices=["auto", "eager", "compile", "graph"],
        help="how steps are executed (auto: eager, or as CUDA graphs for CIFAR on a GPU)",
    )
    group.add_argument("--deterministic", action="store_true", help="refuse nondeterministic operations")


def selected_execution(options: argparse.Namespace, device: str | None = None, graphs: bool = False) -> Execution:
    """Return the execution that the options select.

    Args:
        options: the parsed options.
        device: the device if ``--device`` is not given; None for the best one.
        graphs: let the mode ``auto`` be ``graph`` on a GPU.

    Raises:
        ValueError: if the device or mode is not available.
    """
    import torch

    from nasnet_det.training.execution import choose_execution

    if options.deterministic:
        torch.use_deterministic_algorithms(True)
    else:
        torch.backends.cudnn.benchmark = True
    mode = "eager" if options.mode == "auto" else options.mode
    execution = choose_execution(options.device or device, options.precision, options.channels_last, mode)
    use_graphs = graphs and options.mode == "auto" and execution.device.type == "cuda"
    return replace(execution, mode="graph") if use_graphs else execution
