"""The training step, the evaluation and the state of a classifier's training.

:class:`Trainer` applies a :class:`~nasnet_det.training.recipe.Recipe` to a network, independently of files and data
sets; :mod:`nasnet_det.training.run` is the loop around it.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from inspect import signature
from typing import Any, Protocol

import torch
from timm.data import Mixup
from timm.loss import BinaryCrossEntropy
from timm.optim import create_optimizer_v2
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.swa_utils import get_ema_multi_avg_fn

from nasnet_det.models.drop_path import ScheduledDropPath, set_drop_path_progress
from nasnet_det.safe_io.values import format_value, one_line
from nasnet_det.training.execution import Execution, capture
from nasnet_det.training.optimizer_state import load_state
from nasnet_det.training.processor import keep_freed_memory
from nasnet_det.training.recipe import Recipe, RecipeError
from nasnet_det.training.world import World


class Batches(Protocol):
    """The interface of a data set in batches. Epochs and batches are counted from 0."""

    num_classes: int
    input_size: tuple[int, int, int]
    steps_per_epoch: int

    def training(self, epoch: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """Return an epoch's batches, beginning with batch ``start``: images ``(B, 3, H, W)`` and labels ``(B,)``, both
        on the device. The same arguments and seeds give the same batches."""
        ...

    def validating(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Return this process's share of the validation images, in batches."""
        ...


class Diverged(RuntimeError):
    """The training loss is NaN or infinite."""


@dataclass(frozen=True)
class Evaluation:
    """Mean cross entropy, top-1 and top-5 accuracy (0 to 1) over ``images`` images."""

    loss: float
    top1: float
    top5: float
    images: int


class Trainer:
    """A network with its optimizer and the moving average of its weights, trained step by step under a recipe.

    Args:
        model: maps ``(N, 3, H, W)`` to logits ``(N, num_classes)``; in training mode it may return a pair of logits and
            auxiliary logits.
        recipe: the hyperparameters.
        steps_per_epoch: the number of batches in an epoch.
        num_classes: the number of classes of the labels.
        execution: device, precision, memory layout and mode.
        world: the processes of a distributed training.

    Raises:
        RecipeError: if the recipe's optimizer or mixing is invalid.
    """

    def __init__(
        self,
        model: nn.Module,
        recipe: Recipe,
        steps_per_epoch: int,
        num_classes: int,
        execution: Execution,
        world: World | None = None,
    ) -> None:
        if execution.device.type == "cpu":
            keep_freed_memory()
        self.recipe, self.execution, self.world = recipe, execution, world or World()
        self.steps_per_epoch, self.total_steps = steps_per_epoch, steps_per_epoch * recipe.epochs
        #: The number of steps taken.
        self.step_number = 0
        self.model = model.to(execution.device, memory_format=execution.memory_format)  # type: ignore[call-overload]
        for module in self.model.modules():
            if recipe.bn_momentum and isinstance(module, _BatchNorm):
                module.momentum = recipe.bn_momentum
        self.optimizer = _optimizer(self.model, recipe)
        self.average = copy.deepcopy(self.model).eval() if recipe.ema_decay else None
        # Collected once: traversing a network of many small modules at every step is slow.
        self._parameters = list(self.model.parameters())
        self._paths = nn.ModuleList(module for module in self.model.modules() if isinstance(module, ScheduledDropPath))
        self._values, self._averages = _floats(self.model), _floats(self.average)
        self.mix = _mixup(recipe, num_classes, recipe.batch_size // self.world.size)
        self.binary = BinaryCrossEntropy(smoothing=recipe.label_smoothing) if recipe.loss != "cross_entropy" else None
        self._network: nn.Module | None = None

    @property
    def measured_model(self) -> nn.Module:
        """The network to evaluate and save: the moving average if the recipe has one, else the trained network."""
        return self.model if self.average is None else self.average

    @property
    def learning_rate(self) -> float:
        """The learning rate of the next step."""
        return self.recipe.learning_rate_at(min(self.step_number, self.total_steps - 1), self.steps_per_epoch)

    def step(self, images: Tensor, labels: Tensor) -> Tensor:
        """Take a step on images ``(B, 3, H, W)`` and labels ``(B,)``; return the loss, a scalar on the device."""
        if not self.model.training:
            self.model.train()
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate * group.get("lr_scale", 1.0)
        set_drop_path_progress(self._paths, self.step_number / self.total_steps)
        targets: Tensor = labels
        if self.mix is not None:
            images, targets = self.mix(images, labels)
        images = images.contiguous(memory_format=self.execution.memory_format)
        network = self._prepare(images) if self._network is None else self._network
        with self.execution.autocast():
            outputs = network(images)
        loss = self._loss(outputs, targets)
        loss.backward()
        if self.recipe.clip_gradient_norm:
            nn.utils.clip_grad_norm_(self._parameters, self.recipe.clip_gradient_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step_number += 1
        if self.average is not None:
            decay = self.recipe.ema_decay_at(self.step_number)
            get_ema_multi_avg_fn(decay)(self._averages, self._values, self.step_number)
        return loss.detach()

    def evaluate(self, batches: Iterator[tuple[Tensor, Tensor]]) -> Evaluation:
        """Evaluate :attr:`measured_model` on the batches of all processes."""
        return evaluate_classifier(self.measured_model, batches, self.execution, self.world)

    def state_dict(self) -> dict[str, Any]:
        """Return the state of training. Generators are not part of it: every step seeds them (:func:`seed_step`)."""
        return {
            "step": self.step_number,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": None if self.average is None else self.average.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a state saved under the same network and recipe.

        Raises:
            ValueError, TypeError, LookupError, RuntimeError, AttributeError: if it belongs to another network or
                recipe, or is damaged.
        """
        step = state["step"]
        if type(step) is not int or not 0 <= step <= self.total_steps:
            raise ValueError(f"step must be an int from 0 to {self.total_steps}, got {format_value(step)}")
        self.model.load_state_dict(state["model"])
        twin = _optimizer(copy.deepcopy(self.model), self.recipe)
        load_state(self.optimizer, state["optimizer"], twin, step)
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        self.step_number = step

    def _loss(self, outputs: Tensor | tuple[Tensor, Tensor], targets: Tensor) -> Tensor:
        logits, *auxiliary = outputs if isinstance(outputs, tuple) else (outputs,)
        loss = self.criterion(logits, targets)
        for more in auxiliary:
            loss = loss + self.recipe.aux_weight * self.criterion(more, targets)
        return loss

    def criterion(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the recipe's loss of logits ``(B, classes)``, in float32 or, of float64 logits, in float64."""
        logits = _at_least_float32(logits)
        if self.binary is not None:
            return self.binary(logits, targets)
        # Mixup has already smoothed the targets that it mixed.
        smoothing = 0.0 if self.mix is not None else self.recipe.label_smoothing
        targets = targets.to(logits.dtype) if targets.is_floating_point() else targets
        return functional.cross_entropy(logits, targets, label_smoothing=smoothing)

    def _prepare(self, images: Tensor) -> nn.Module:
        """Compile or capture the network and wrap it for distributed training, at the first step."""
        network: Any = self.model
        if self.execution.mode == "compile":
            network = torch.compile(network)
        elif self.execution.mode == "graph":
            if self.world.size > 1:
                raise ValueError("mode graph trains in one process; use eager or compile with torchrun")
            network = capture(network, images, self.execution)
        self._network = self.world.wrap(network, self.execution.device)
        return self._network


@torch.no_grad()
def evaluate_classifier(
    model: nn.Module, batches: Iterator[tuple[Tensor, Tensor]], execution: Execution, world: World | None = None
) -> Evaluation:
    """Evaluate a model on batches of images and labels; every process gives its share and gets the whole result.

    Raises:
        ValueError: if the batches hold no images.
    """
    model.eval()
    sums = torch.zeros(4, dtype=torch.float64, device=execution.device)
    for images, labels in batches:
        with execution.autocast():
            logits = model(images.contiguous(memory_format=execution.memory_format))
        logits = _at_least_float32(logits)
        hits = logits.topk(min(5, logits.shape[1]), dim=1).indices == labels[:, None]
        loss = functional.cross_entropy(logits, labels, reduction="sum")
        sums += torch.stack([loss.double(), hits[:, 0].sum(), hits.sum(), torch.tensor(len(labels)).to(loss.device)])
    loss_sum, top1, top5, images_seen = (world or World()).total(sums).tolist()
    if not images_seen:
        raise ValueError("expected at least one image to evaluate on, got none")
    return Evaluation(loss_sum / images_seen, top1 / images_seen, top5 / images_seen, int(images_seen))


def _at_least_float32(logits: Tensor) -> Tensor:
    """Return half-precision logits in float32, others unchanged: a loss of float64 logits is a float64 loss."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def _floats(model: nn.Module | None) -> list[Tensor]:
    """Return the weights and running statistics of a network, in order."""
    return [] if model is None else [value for value in model.state_dict().values() if value.is_floating_point()]


def _mixup(recipe: Recipe, num_classes: int, images: int) -> Any:
    if not recipe.mix:
        return None
    with _as_recipe_error("mix", recipe.mix):
        _check_numbers(Mixup, recipe.mix)
        known = signature(Mixup).parameters
        alphas = [recipe.mix.get(key, known[key].default) for key in ("mixup_alpha", "cutmix_alpha")]
        if not all(alpha == 0 or 1e-6 <= alpha <= 1e6 for alpha in alphas):  # outside, NumPy's beta draws NaN
            raise ValueError("mixup_alpha and cutmix_alpha must be 0, or from 1e-6 to 1e6")
        if not (max(alphas) > 0 or recipe.mix.get("cutmix_minmax")):
            raise ValueError("mixup_alpha or cutmix_alpha must be above 0")
        if images % 2:
            raise ValueError(f"images are mixed in pairs, but a batch of a process has {images}")
        return Mixup(**recipe.mix, label_smoothing=recipe.label_smoothing, num_classes=num_classes)


def _optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    with _as_recipe_error(f"optimizer {format_value(recipe.optimizer)}", recipe.optimizer_options):
        optimizer = create_optimizer_v2(
            model,
            opt=recipe.optimizer,
            lr=recipe.learning_rate,
            weight_decay=recipe.weight_decay,
            filter_bias_and_bn=True,
            **recipe.optimizer_options,
        )
        _check_numbers(type(optimizer), recipe.optimizer_options)
    return optimizer


def _check_numbers(made: Any, settings: Mapping[str, Any]) -> None:
    """Refuse a value of another type where the default is a number; the object itself would fail at its first step."""
    known = signature(made).parameters
    for key, value in settings.items():
        default = known[key].default if key in known else None
        if type(default) in (int, float) and type(value) not in (int, float):
            raise TypeError(f"{key} must be a number, got {format_value(value)}")


@contextmanager
def _as_recipe_error(what: str, options: Mapping[str, Any]) -> Iterator[None]:
    """Raise timm's and PyTorch's errors about their arguments as a RecipeError."""
    try:
        yield
    except (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise RecipeError(f"{what}: invalid arguments {format_value(dict(options))} ({one_line(error)})") from None
