"""One step, one evaluation, one state: what every training of the project is made of.

:class:`Trainer` follows a :class:`~nasnet_det.training.recipe.Recipe` on a network and knows nothing of files or data;
:mod:`nasnet_det.training.run` loops over it.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from inspect import signature
from typing import Any, Protocol

import numpy as np
import torch
from timm.data import Mixup
from timm.loss import BinaryCrossEntropy
from timm.optim import create_optimizer_v2
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.swa_utils import get_ema_multi_avg_fn

from nasnet_det.models.drop_path import ScheduledDropPath, set_drop_path_progress
from nasnet_det.safe_io.values import format_value
from nasnet_det.training.execution import Execution, capture
from nasnet_det.training.optimizer_state import load_state
from nasnet_det.training.recipe import Recipe, RecipeError
from nasnet_det.training.world import World


class Batches(Protocol):
    """Data as the training loop reads it. Epochs and batches are counted from 0."""

    num_classes: int
    input_size: tuple[int, int, int]
    steps_per_epoch: int

    def training(self, epoch: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches of an epoch from number ``start`` on: images ``(B, 3, H, W)`` and labels ``(B,)``, both on the
        device. The same arguments and the same seeds give the same batches."""
        ...

    def validating(self) -> Iterator[tuple[Tensor, Tensor]]:
        """This process's share of the validation images."""
        ...


class Diverged(RuntimeError):
    """The training loss is no longer a finite number."""


@dataclass(frozen=True)
class Evaluation:
    """Mean cross entropy, top-1 and top-5 accuracy (0 to 1) over ``images`` images."""

    loss: float
    top1: float
    top5: float
    images: int


class Trainer:
    """A network, its optimizer and its moving average, under a recipe.

    Args:
        model: logits of ``(N, 3, H, W)``, or in training a pair of logits and auxiliary logits.
        recipe: how to train it.
        steps_per_epoch: batches an epoch.
        num_classes: classes of the labels.
        execution: where and how.
        world: the processes that share the training.

    Raises:
        RecipeError: for an optimizer or a mix that cannot be made.
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
        self.recipe, self.execution, self.world = recipe, execution, world or World()
        self.steps_per_epoch, self.total_steps = steps_per_epoch, steps_per_epoch * recipe.epochs
        #: Steps taken.
        self.step_number = 0
        self.model = model.to(execution.device, memory_format=execution.memory_format)  # type: ignore[call-overload]
        for module in self.model.modules():
            if recipe.bn_momentum and isinstance(module, _BatchNorm):
                module.momentum = recipe.bn_momentum
        self.optimizer = _optimizer(self.model, recipe)
        self.average = copy.deepcopy(self.model).eval() if recipe.ema_decay else None
        # Lists made once: a network of many small modules is slow to walk at every step.
        self._parameters = list(self.model.parameters())
        self._paths = nn.ModuleList(module for module in self.model.modules() if isinstance(module, ScheduledDropPath))
        self._values, self._averages = _floats(self.model), _floats(self.average)
        self.mix = _mixup(recipe, num_classes)
        self.binary = BinaryCrossEntropy(smoothing=recipe.label_smoothing) if recipe.loss != "cross_entropy" else None
        self._network: nn.Module | None = None

    @property
    def measured_model(self) -> nn.Module:
        """What is evaluated and saved: the moving average where there is one."""
        return self.model if self.average is None else self.average

    @property
    def learning_rate(self) -> float:
        """Of the next step."""
        return self.recipe.learning_rate_at(min(self.step_number, self.total_steps - 1), self.steps_per_epoch)

    def step(self, images: Tensor, labels: Tensor) -> Tensor:
        """Take a step on images ``(B, 3, H, W)`` and labels ``(B,)``; gives the loss, still on the device."""
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

    @torch.no_grad()
    def evaluate(self, batches: Iterator[tuple[Tensor, Tensor]]) -> Evaluation:
        """Measure :attr:`measured_model` on all processes' batches."""
        return evaluate(self.measured_model, batches, self.execution, self.world)

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next step depends on, but for random numbers, which a step's seed decides."""
        return {
            "step": self.step_number,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": None if self.average is None else self.average.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up a state of the same network and recipe.

        Raises:
            ValueError, TypeError, LookupError, RuntimeError, AttributeError: if it is of another, or damaged.
        """
        step = state["step"]
        if type(step) is not int or not 0 <= step <= self.total_steps:
            raise ValueError(f"its step is {format_value(step)}, of {self.total_steps}")
        self.model.load_state_dict(state["model"])
        twin = _optimizer(copy.deepcopy(self.model), self.recipe)
        load_state(self.optimizer, state["optimizer"], twin, step)
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        self.step_number = step

    def _loss(self, outputs: Tensor | tuple[Tensor, Tensor], targets: Tensor) -> Tensor:
        logits, *auxiliary = outputs if isinstance(outputs, tuple) else (outputs,)
        loss = self._criterion(logits, targets)
        for more in auxiliary:
            loss = loss + self.recipe.aux_weight * self._criterion(more, targets)
        return loss

    def _criterion(self, logits: Tensor, targets: Tensor) -> Tensor:
        if self.binary is not None:
            return self.binary(logits.float(), targets)
        # Mixed targets are smoothed where they are mixed.
        smoothing = 0.0 if self.mix is not None else self.recipe.label_smoothing
        return functional.cross_entropy(logits.float(), targets, label_smoothing=smoothing)

    def _prepare(self, images: Tensor) -> nn.Module:
        """The network as it is run: wrapped for several processes, compiled or captured; made at the first step."""
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
def evaluate(
    model: nn.Module, batches: Iterator[tuple[Tensor, Tensor]], execution: Execution, world: World | None = None
) -> Evaluation:
    """Measure a model on batches of images and labels, shared by all processes.

    Raises:
        ValueError: if there are no images.
    """
    model.eval()
    sums = torch.zeros(4, dtype=torch.float64, device=execution.device)
    for images, labels in batches:
        with execution.autocast():
            logits = model(images.contiguous(memory_format=execution.memory_format))
        logits = logits.float()
        hits = logits.topk(min(5, logits.shape[1]), dim=1).indices == labels[:, None]
        loss = functional.cross_entropy(logits, labels, reduction="sum")
        sums += torch.stack([loss.double(), hits[:, 0].sum(), hits.sum(), torch.tensor(len(labels)).to(loss.device)])
    loss_sum, top1, top5, images_seen = (world or World()).total(sums).tolist()
    if not images_seen:
        raise ValueError("there are no images to evaluate on")
    return Evaluation(loss_sum / images_seen, top1 / images_seen, top5 / images_seen, int(images_seen))


def seed_step(seed: int, step: int, rank: int = 0) -> None:
    """Seed every generator for one step: a run taken up again draws what it would have drawn."""
    number = int(np.random.SeedSequence((seed, step, rank)).generate_state(1)[0])
    torch.manual_seed(number)
    random.seed(number)
    np.random.seed(number)


@contextmanager
def own_randomness(device: torch.device) -> Iterator[None]:
    """Leave every generator of the host and of ``device`` as it was found."""
    python, numpy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)


def _floats(model: nn.Module | None) -> list[Tensor]:
    """The weights and running statistics of a network, in order."""
    return [] if model is None else [value for value in model.state_dict().values() if value.is_floating_point()]


def _mixup(recipe: Recipe, num_classes: int) -> Any:
    if not recipe.mix:
        return None
    with _made("mix", recipe.mix):
        _check_numbers(Mixup, recipe.mix)
        known = signature(Mixup).parameters
        alphas = [recipe.mix.get(key, known[key].default) for key in ("mixup_alpha", "cutmix_alpha")]
        if not all(alpha == 0 or 1e-6 <= alpha <= 1e6 for alpha in alphas):  # beyond, numpy draws no number
            raise ValueError("mixup_alpha and cutmix_alpha are 0, or from 1e-6 to 1e6")
        if not (max(alphas) > 0 or recipe.mix.get("cutmix_minmax")):
            raise ValueError("mixup_alpha or cutmix_alpha must be above 0")
        return Mixup(**recipe.mix, label_smoothing=recipe.label_smoothing, num_classes=num_classes)


def _optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    with _made(f"optimizer {format_value(recipe.optimizer)}", recipe.optimizer_options):
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
    """Refuse what is no number where the default is one: what is made notices in a step."""
    known = signature(made).parameters
    for key, value in settings.items():
        default = known[key].default if key in known else None
        if type(default) in (int, float) and type(value) not in (int, float):
            raise TypeError(f"{key} is a number, not {format_value(value)}")


@contextmanager
def _made(what: str, options: Mapping[str, Any]) -> Iterator[None]:
    """What timm and PyTorch raise for their arguments, as an error of the recipe."""
    try:
        yield
    except (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())[:300]
        raise RecipeError(f"{what} cannot be made with {format_value(dict(options))}: {reason}") from None
