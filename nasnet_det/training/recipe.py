"""Training recipes as data: every hyperparameter of a training, in a short YAML file.

The project's recipes are in ``recipes/`` beside this module; :func:`load_recipe` takes the name of one or the path of a
file. Settings that a file omits have the defaults of :class:`Recipe`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from nasnet_det.safe_io.files import exists
from nasnet_det.safe_io.settings import build, parse_assignments, with_numbers
from nasnet_det.safe_io.values import format_names, format_value, parse_yaml, reason

FOLDER = Path(__file__).parent / "recipes"

#: The largest magnitude of any number: beyond it, PyTorch's optimizers overflow.
_LARGEST = 1e18
Schedule = Literal["cosine", "exponential"]
Loss = Literal["cross_entropy", "binary_cross_entropy"]
Count = Annotated[int, Field(ge=1, le=_LARGEST)]
Number = Annotated[float, Field(ge=0, le=_LARGEST)]
Positive = Annotated[float, Field(ge=1e-9, le=_LARGEST)]
BelowOne = Annotated[float, Field(ge=0, lt=1)]


class RecipeError(ValueError):
    """A recipe that is missing, unreadable or has an invalid setting."""


@dataclass(frozen=True)
class Recipe:
    """The hyperparameters of a training.

    Args:
        name: the recipe's name.
        data: the kind of data it is for, ``cifar`` or ``imagenet``.
        epochs: passes over the training images.
        batch_size: images in a step, summed over all processes.
        learning_rate: the initial learning rate, for that batch size.
        source: the origin of the settings.
        schedule: ``cosine`` (one period, to 0) or ``exponential`` (times ``decay_rate`` every ``decay_epochs``, counted
            in steps, as TF's ``exponential_decay(staircase=True)``).
        decay_rate, decay_epochs: see ``schedule``.
        warmup_epochs: epochs of a linear increase of the learning rate from 0.
        optimizer, optimizer_options: timm's name of the optimizer and its arguments. ``momentum`` is SGD with classical
            momentum, ``sgd`` with Nesterov's, ``rmsproptf`` TensorFlow's RMSProp.
        weight_decay: L2 on the weights of convolutions and linear layers only (as TF-slim's arg scopes).
        clip_gradient_norm: the largest global norm of the gradient; 0 for no clipping.
        loss: softmax cross entropy, or a binary cross entropy for each class.
        label_smoothing: the weight of the uniform distribution in the targets.
        aux_weight: the weight of the auxiliary head's loss; 0 trains without the head.
        drop_rate: dropout before the classifier.
        drop_path_rate: 1 - ScheduledDropPath's keep probability at the end of training.
        ema_decay: decay of the moving average of the weights, which is then evaluated and saved; 0 for none. As TF's
            with a step number it starts with ``min(ema_decay, (1 + step) / (10 + step))``.
        zero_classifier: start the classifiers, the auxiliary head's too, with weights of zero, so that the loss begins
            at that of guessing. TF-slim's initialization by the fan out gives ten classes logits in the tens, which
            short schedules spend their first epochs unlearning. Weights that are loaded stay as they are.
        bn_momentum: momentum of batch norm (1 - TF's decay); 0 keeps the network's own. The ImageNet networks' 0.0003
            needs thousands of steps before the running statistics can be used.
        augmentation: augmentation of the training images, as the data set's class defines it
            (:class:`~nasnet_det.training.data.cifar_batches.CifarAugmentation`, ``timm.data.create_transform``).
        mix: arguments of timm's ``Mixup``; empty for none.
    """

    name: str
    data: Literal["cifar", "imagenet"]
    epochs: Count
    batch_size: Count
    learning_rate: Number
    source: str = ""
    schedule: Schedule = "cosine"
    decay_rate: Number = 0.97
    decay_epochs: Positive = 2.4
    warmup_epochs: Number = 0.0
    optimizer: str = "momentum"
    optimizer_options: Mapping[str, Any] = field(default_factory=lambda: {"momentum": 0.9})
    weight_decay: Number = 0.0
    clip_gradient_norm: Number = 0.0
    loss: Loss = "cross_entropy"
    label_smoothing: BelowOne = 0.0
    aux_weight: Number = 0.0
    drop_rate: BelowOne = 0.0
    drop_path_rate: BelowOne = 0.0
    ema_decay: BelowOne = 0.0
    zero_classifier: bool = False
    bn_momentum: Number = 0.0
    augmentation: Mapping[str, Any] = field(default_factory=dict)
    mix: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for setting in ("optimizer_options", "augmentation", "mix"):
            for key, value in getattr(self, setting).items():
                _check_magnitude(f"{setting}.{key}", value)
        if self.schedule == "exponential" and self.decay_rate > 1:
            growth = self.epochs / self.decay_epochs * math.log10(self.decay_rate)
            if growth + math.log10(max(self.learning_rate, 1)) > math.log10(_LARGEST):
                raise RecipeError(
                    f"the learning rate must stay at most {_LARGEST:g}: decay_rate ({self.decay_rate:g}, every "
                    f"{self.decay_epochs:g} of {self.epochs} epochs) is above 1, and multiplies it by 1e{growth:.0f}"
                )

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], origin: str = "recipe") -> Recipe:
        """Build a recipe from plain values.

        Args:
            data: a value for every setting, or for those without a default.
            origin: the origin of the values, for messages.

        Raises:
            RecipeError: for a setting that is missing, unknown, or of the wrong type or range.
        """
        return build(cls, data, RecipeError, origin)

    def with_settings(self, assignments: Iterable[str]) -> Recipe:
        """Return this recipe with settings replaced by ``key=value`` words; ``mapping.key=value`` replaces one value of
        a mapping.

        Raises:
            RecipeError: if a word is not an assignment, or its setting does not exist or is invalid.
        """
        return self.changed(parse_assignments(assignments, RecipeError))

    def changed(self, changes: Mapping[str, Any]) -> Recipe:
        """Return this recipe with settings replaced; the key ``mapping.key`` replaces one value of a mapping.

        Raises:
            RecipeError: if a setting does not exist or is invalid.
        """
        settings = self.to_dict()
        for path, value in changes.items():
            outer, _, inner = path.partition(".")
            if inner and isinstance(settings.get(outer), Mapping):
                settings[outer] = {**settings[outer], inner: value}
            else:
                settings[path] = value
        return Recipe.from_dict(settings, self.name)

    def scaled_to(self, batch_size: int) -> Recipe:
        """Return the recipe for another batch size, with the learning rate scaled in proportion.

        Raises:
            RecipeError: if the batch size is not at least 1.
        """
        scaled = replace(self, learning_rate=self.learning_rate * batch_size / self.batch_size)
        return Recipe.from_dict({**scaled.to_dict(), "batch_size": batch_size}, self.name)

    def learning_rate_at(self, step: int, steps_per_epoch: int) -> float:
        """Return the learning rate of a step, counted from 0."""
        epoch = step / steps_per_epoch
        if epoch < self.warmup_epochs:
            return self.learning_rate * (step + 1) / (self.warmup_epochs * steps_per_epoch)
        if self.schedule == "exponential":
            return self.learning_rate * self.decay_rate ** math.floor(epoch / self.decay_epochs)
        passed = (epoch - self.warmup_epochs) / max(self.epochs - self.warmup_epochs, 1e-9)
        return self.learning_rate * 0.5 * (1.0 + math.cos(math.pi * min(1.0, passed)))

    def ema_decay_at(self, step: int) -> float:
        """Return the moving average's decay after ``step`` steps (TF's
        ``ExponentialMovingAverage(num_updates=step)``)."""
        return min(self.ema_decay, (1 + step) / (10 + step))


def recipe_names() -> list[str]:
    """Return the names of the project's recipes."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def load_recipe(name: str | Path) -> Recipe:
    """Load one of the project's recipes by name, or a YAML file by path.

    Raises:
        RecipeError: if the recipe does not exist, cannot be read, or has an invalid setting.
    """
    path = FOLDER / f"{name}.yaml"
    if not exists(path):
        path = Path(name)
        if not (exists(path) and path.is_file()):
            raise RecipeError(f"{name} is neither a file nor a recipe: {', '.join(recipe_names())}")
    try:
        data = with_numbers(parse_yaml(path.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise RecipeError(f"{path}: not a readable YAML file ({reason(error)})") from None
    if isinstance(data, dict):
        data.setdefault("name", path.stem)
    return Recipe.from_dict(data, str(path))


def _check_magnitude(name: str, value: Any) -> None:
    for number in value if isinstance(value, (list, tuple)) else [value]:
        if isinstance(number, (int, float)) and not abs(number) <= _LARGEST:
            raise RecipeError(f"{format_names([name])} must be at most {_LARGEST:g}, got {format_value(number)}")
