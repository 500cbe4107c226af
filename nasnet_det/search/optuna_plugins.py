"""Optuna's samplers and pruners by name, made from the words of a command."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from typing import Annotated, Any, Literal

import optuna
from optuna.exceptions import ExperimentalWarning
from pydantic import Field

from nasnet_det.safe_io.settings import read_value
from nasnet_det.safe_io.values import format_value

Kind = Literal["Sampler", "Pruner"]
#: Kinds of arguments by the type of their default. With larger whole numbers Optuna would run out of time or memory.
_KINDS: dict[type, Any] = {bool: bool, int: Annotated[int, Field(le=10**6)], float: float}
#: The classes that were made, with the names of their arguments: what Optuna warns of is told once, not at every trial.
_made: set[tuple[Any, ...]] = set()


def plugin_names(kind: Kind) -> list[str]:
    """Return the names of the classes that can be made."""
    module: Any = optuna.samplers if kind == "Sampler" else optuna.pruners
    return [name for name in module.__all__ if name.endswith(kind) and not inspect.isabstract(getattr(module, name))]


def plugin_class(kind: Kind, name: str) -> type[Any]:
    """Return a class of Optuna by its name, in any letter case, with or without the kind at its end, or a class of
    another package by its import path, ``package.module.Class``.

    Raises:
        ValueError: if there is no such class.
    """
    module, _, short = name.rpartition(".")
    if module and module != f"optuna.{kind.lower()}s":
        return _imported(kind, module, short)
    known = {known.lower().removesuffix(kind.lower()): known for known in plugin_names(kind)}
    found = known.get(short.lower().removesuffix(kind.lower()))
    if found is None:
        raise ValueError(f"Optuna has no {kind.lower()} {format_value(name)}; it has {', '.join(known.values())}")
    found_class: type[Any] = getattr(optuna.samplers if kind == "Sampler" else optuna.pruners, found)
    return found_class


def _imported(kind: Kind, module: str, name: str) -> type[Any]:
    base: type[Any] = optuna.samplers.BaseSampler if kind == "Sampler" else optuna.pruners.BasePruner
    try:
        found = getattr(import_module(module), name, None)
    except ImportError as error:
        raise ValueError(f"{module}.{name} cannot be imported: {error}") from None
    if not (inspect.isclass(found) and issubclass(found, base)):
        raise ValueError(f"{module} has no class {name} that is derived from {base.__name__}")
    return found


def plugin_name(kind: Kind, name: str) -> str:
    """Return the name of a class (:func:`plugin_class`) as it is recorded.

    Raises:
        ValueError: as :func:`plugin_class`.
    """
    found = plugin_class(kind, name)
    own = found.__module__.partition(".")[0] == "optuna"
    return found.__name__ if own else f"{found.__module__}.{found.__qualname__}"


def make_plugin(kind: Kind, name: str, options: Mapping[str, Any], given: Mapping[str, Any] | None = None) -> Any:
    """Return a sampler or pruner.

    Args:
        kind: which of the two.
        name: as of :func:`plugin_class`.
        options: the user's arguments. One that is itself a sampler or pruner (``wrapped_pruner``) is given by its name.
        given: the search's own arguments, for the classes that take them.

    Raises:
        ValueError: for an unknown class, or an argument that it does not take, of another type, or set by the search.
    """
    found, given = plugin_class(kind, name), given or {}
    taken = inspect.signature(found).parameters
    if fixed := sorted(given.keys() & options.keys()):
        raise ValueError(f"{found.__name__}: {fixed[0]} is set by the search itself; leave it out")
    arguments = {key: value for key, value in given.items() if key in taken}
    for key, value in options.items():
        default = taken[key].default if key in taken else None
        if key.endswith(f"_{kind.lower()}") and value is not None:
            value = make_plugin(kind, str(value), {}, given)
        elif type(default) in _KINDS:
            value = read_value(_KINDS[type(default)], key, value, what=found.__name__)
        arguments[key] = value
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            if (found, *options) in _made:
                warnings.simplefilter("ignore")
            _made.add((found, *options))
            return found(**arguments)
    except (TypeError, ValueError, ImportError) as error:
        words = f"{found.__name__} does not take {format_value(dict(options))}: {error}"
        raise ValueError(
            f"{words}; its arguments: {', '.join(sorted(taken.keys() - given.keys())) or 'none'}"
        ) from None


@contextmanager
def quiet() -> Iterator[None]:
    """Keep Optuna's messages from the console: a line for every study made and every decision drawn on its own."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)
