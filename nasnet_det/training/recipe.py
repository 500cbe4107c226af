"""Recipes as data: everything that decides how a network is trained, in a short YAML file.

The recipes of the project lie beside this module in ``recipes/``; :func:`load_recipe` takes one's name or any file's
path. What a recipe does not say has the default below.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, get_args, get_type_hints

from nasnet_det.safe_io.values import format_names, format_value, parse_yaml

FOLDER = Path(__file__).parent / "recipes"

Schedule = Literal["cosine", "exponential"]
Loss = Literal["cross_entropy", "binary_cross_entropy"]


class RecipeError(ValueError):
    """A recipe that cannot be followed: says which setting, and what it may be."""


@dataclass(frozen=True)
class Recipe:
    """How a network is trained.

    Args:
        name: the recipe's name.
        source: where its numbers come from.
        data: ``cifar`` or ``imagenet``: which data it is for.
        epochs: passes over the training images.
        batch_size: images a step, over all processes.
        learning_rate: at the schedule's start, for that batch size.
        schedule: ``cosine`` (one period, to 0) or ``exponential`` (times ``decay_rate`` every ``decay_epochs``, in
            steps, as TF's ``exponential_decay(staircase=True)``).
        warmup_epochs: epochs over which the learning rate first rises from 0.
        optimizer, optimizer_options: timm's name of the optimizer and its arguments. ``momentum`` is SGD with plain
            momentum, ``sgd`` with Nesterov's, ``rmsproptf`` TensorFlow's RMSProp.
        weight_decay: L2, on the weights of convolutions and linear layers only (as TF-slim's arg scopes).
        clip_gradient_norm: the largest global norm of the gradient; 0 for no clipping.
        loss: softmax cross entropy, or one binary cross entropy per class.
        label_smoothing: the weight of the uniform distribution in the targets.
        aux_weight: the auxiliary head's loss counts this much; 0 trains without the head.
        drop_rate: dropout before the classifier.
        drop_path_rate: 1 - ScheduledDropPath's keep probability at the end of training.
        ema_decay: the moving average of the weights, which is then what is measured and saved; 0 for none. It starts
            as TF's does with a step number: ``min(ema_decay, (1 + step) / (10 + step))``.
        bn_momentum: batch norm's, 1 - TF's decay; 0 leaves the network's own. That of the ImageNet networks, 0.0003,
            needs thousands of steps before their running statistics can be used.
        augmentation: what is done to the training images; see the data's own class.
        mix: arguments of timm's ``Mixup``; empty for none.
    """

    name: str
    data: Literal["cifar", "imagenet"]
    epochs: int
    batch_size: int
    learning_rate: float
    source: str = ""
    schedule: Schedule = "cosine"
    decay_rate: float = 0.97
    decay_epochs: float = 2.4
    warmup_epochs: float = 0.0
    optimizer: str = "momentum"
    optimizer_options: Mapping[str, Any] = field(default_factory=lambda: {"momentum": 0.9})
    weight_decay: float = 0.0
    clip_gradient_norm: float = 0.0
    loss: Loss = "cross_entropy"
    label_smoothing: float = 0.0
    aux_weight: float = 0.0
    drop_rate: float = 0.0
    drop_path_rate: float = 0.0
    ema_decay: float = 0.0
    bn_momentum: float = 0.0
    augmentation: Mapping[str, Any] = field(default_factory=dict)
    mix: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check(self)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], origin: str = "recipe") -> Recipe:
        """Read plain values.

        Raises:
            RecipeError: for a missing or unknown setting, or one of the wrong type or range.
        """
        if not isinstance(data, Mapping):
            raise RecipeError(f"{origin}: a recipe is a mapping of settings, not {type(data).__name__}")
        known = {f.name for f in fields(cls)}
        if unknown := sorted(str(key) for key in data if key not in known):
            raise RecipeError(f"{origin}: unknown settings {format_names(unknown)}; known: {', '.join(sorted(known))}")
        if missing := [key for key in ("name", "data", "epochs", "batch_size", "learning_rate") if key not in data]:
            raise RecipeError(f"{origin}: lacks {', '.join(missing)}")
        try:
            return cls(**{key: _number(value) for key, value in data.items()})
        except RecipeError as error:
            raise RecipeError(f"{origin}: {error}") from None

    def with_settings(self, assignments: Iterable[str]) -> Recipe:
        """This recipe with settings replaced, each given as ``key=value`` (or ``mapping.key=value``) in YAML's words.

        Raises:
            RecipeError: if an assignment cannot be read or its setting does not exist.
        """
        settings = self.to_dict()
        for assignment in assignments:
            path, equals, text = assignment.partition("=")
            if not equals:
                raise RecipeError(f"a setting is given as key=value, not {format_value(assignment)}")
            outer, _, inner = path.strip().partition(".")
            value = _yaml(text, assignment)
            if inner and isinstance(settings.get(outer), Mapping):
                settings[outer] = {**settings[outer], inner: _number(value)}
            else:
                settings[path.strip()] = value
        return Recipe.from_dict(settings, self.name)

    def scaled_to(self, batch_size: int) -> Recipe:
        """The recipe at another batch size, the learning rate scaled in proportion (the paper's 0.04 x 50 workers).

        Raises:
            RecipeError: if that is no batch size.
        """
        _check_number("batch_size", batch_size, int)
        return replace(self, batch_size=batch_size, learning_rate=self.learning_rate * batch_size / self.batch_size)

    def learning_rate_at(self, step: int, steps_per_epoch: int) -> float:
        """The learning rate of a step, counted from 0."""
        epoch = step / steps_per_epoch
        if epoch < self.warmup_epochs:
            return self.learning_rate * (step + 1) / (self.warmup_epochs * steps_per_epoch)
        if self.schedule == "exponential":
            return self.learning_rate * self.decay_rate ** math.floor(epoch / self.decay_epochs)
        passed = (epoch - self.warmup_epochs) / max(self.epochs - self.warmup_epochs, 1e-9)
        return self.learning_rate * 0.5 * (1.0 + math.cos(math.pi * min(1.0, passed)))

    def ema_decay_at(self, step: int) -> float:
        """The moving average's decay after ``step`` steps (TF's ``ExponentialMovingAverage(num_updates=step)``)."""
        return min(self.ema_decay, (1 + step) / (10 + step))


def recipe_names() -> list[str]:
    """The names of the project's recipes."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def load_recipe(name: str | Path) -> Recipe:
    """The project's recipe of that name, or the one in a YAML file.

    Raises:
        RecipeError: if there is none, or it cannot be followed.
    """
    path = FOLDER / f"{name}.yaml"
    if not _is_file(path):
        path = Path(name)
        if not _is_file(path):
            raise RecipeError(f"{name} is neither a file nor a recipe: {', '.join(recipe_names())}")
    try:
        data = _yaml(path.read_text(encoding="utf-8"), str(path))
    except (OSError, ValueError) as error:
        raise RecipeError(f"{path} cannot be read ({error})") from None
    if isinstance(data, dict):
        data.setdefault("name", path.stem)
    return Recipe.from_dict(data, str(path))


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # no path can be written so, or be that long
        return False


def _yaml(text: str, origin: str) -> Any:
    try:
        return parse_yaml(text)
    except ValueError as error:
        raise RecipeError(f"{format_value(origin)[1:-1]}: not YAML ({str(error)[:_LONGEST]})") from None


def _number(value: Any) -> Any:
    """Numbers that YAML 1.1 takes for words, such as 5e-4."""
    if isinstance(value, Mapping):
        return {key: _number(inner) for key, inner in value.items()}
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value


#: Of a number, and of a message of the YAML reader.
_LARGEST, _LONGEST = 1e18, 300
_LEAST = {"epochs": 1, "batch_size": 1, "decay_epochs": 1e-9}
_BELOW_ONE = ("label_smoothing", "drop_rate", "drop_path_rate", "ema_decay")


def _check(recipe: Recipe) -> None:
    hints = get_type_hints(Recipe)
    for name, hint in hints.items():
        value = getattr(recipe, name)
        choices = get_args(hint) if getattr(hint, "__origin__", None) is Literal else ()
        if choices and value not in choices:
            raise RecipeError(f"{name} is one of {', '.join(choices)}, not {format_value(value)}")
        if hint is str and not isinstance(value, str):
            raise RecipeError(f"{name} is text, not {format_value(value)}")
        if "Mapping" in str(hint) and not isinstance(value, Mapping):
            raise RecipeError(f"{name} is a mapping of settings, not {format_value(value)}")
        if isinstance(value, Mapping):
            _check_mapping(name, value)
        if hint in (int, float):
            _check_number(name, value, hint)


def _check_mapping(name: str, settings: Mapping[str, Any]) -> None:
    for key, value in settings.items():
        for number in value if isinstance(value, (list, tuple)) else [value]:
            if isinstance(number, (int, float)) and not abs(number) <= _LARGEST:
                where = format_value(f"{name}.{key}")[1:-1]
                raise RecipeError(f"{where} is a number of at most {_LARGEST:g}, not {format_value(number)}")


def _check_number(name: str, value: Any, kind: type) -> None:
    if type(value) not in (int, kind) or not abs(value) <= _LARGEST:
        what = f"{'whole ' if kind is int else ''}number of at most {_LARGEST:g}"
        raise RecipeError(f"{name} is a {what}, not {format_value(value)}")
    if value < _LEAST.get(name, 0):
        raise RecipeError(f"{name} is at least {_LEAST.get(name, 0):g}, not {value}")
    if name in _BELOW_ONE and value >= 1:
        raise RecipeError(f"{name} is below 1, not {value}")
