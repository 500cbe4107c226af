"""One step, one evaluation, one state: what every training of the project is made of.

:class:`Trainer` follows a :class:`~nasnet_det.training.recipe.Recipe` on a network and knows nothing of files or data;
:mod:`nasnet_det.training.run` loops over it.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import torch
from timm.data import Mixup
from timm.loss import BinaryCrossEntropy
from timm.optim import create_optimizer_v2
from timm.utils import ModelEmaV3
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from nasnet_det.drop_path import set_drop_path_progress
from nasnet_det.training.recipe import Recipe
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


@dataclass(frozen=True)
class Execution:
    """Where and how the arithmetic is done.

    Args:
        device: the device.
        precision: ``float32``, or ``bfloat16`` for the operations that autocast runs in it.
        channels_last: whether images and weights lie channels last in memory.
        mode: ``eager``; ``compile`` (torch.compile); ``graph`` (forward and backward as captured CUDA graphs).
    """

    device: torch.device
    precision: Literal["float32", "bfloat16"] = "float32"
    channels_last: bool = False
    mode: Literal["eager", "compile", "graph"] = "eager"

    @property
    def memory_format(self) -> torch.memory_format:
        """torch's name of the layout."""
        return torch.channels_last if self.channels_last else torch.contiguous_format

    def autocast(self) -> AbstractContextManager[Any]:
        """The context of a forward pass. Its cache of cast weights is off: a captured graph must not refer to it."""
        if self.precision == "float32":
            return nullcontext()
        return torch.autocast(self.device.type, torch.bfloat16, cache_enabled=self.mode != "graph")

    def describe(self) -> str:
        """In words, for logs."""
        layout = "channels_last" if self.channels_last else "contiguous"
        return f"{self.device}, {self.precision}, {layout}, {self.mode}"


def choose_execution(
    device: str | torch.device | None = None,
    precision: str = "auto",
    channels_last: bool | None = None,
    mode: str = "eager",
) -> Execution:
    """The device asked for, or the best there is, and what gains on it: on a CPU channels_last in float32 (measured:
    0.55 of a contiguous training step's time; bfloat16 takes longer); on a GPU that computes in bfloat16, both.

    Raises:
        ValueError: if the device, precision or mode does not exist here.
    """
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        place = torch.device(device)
        torch.empty(0, device=place)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device {device} cannot be used ({str(error).splitlines()[0]})") from None
    gains = place.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    if precision not in ("auto", "float32", "bfloat16"):
        raise ValueError(f"precision is auto, float32 or bfloat16, not {precision!r}")
    if mode not in ("eager", "compile", "graph") or (mode == "graph" and place.type != "cuda"):
        raise ValueError(f"mode is eager, compile or, on a CUDA device, graph; not {mode!r} on {place}")
    in_bfloat16 = gains if precision == "auto" else precision == "bfloat16"
    return Execution(
        place,
        "bfloat16" if in_bfloat16 else "float32",
        gains or place.type == "cpu" if channels_last is None else channels_last,
        mode,  # type: ignore[arg-type]
    )


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
        self.optimizer = create_optimizer_v2(
            self.model,
            opt=recipe.optimizer,
            lr=recipe.learning_rate,
            weight_decay=recipe.weight_decay,
            filter_bias_and_bn=True,
            **recipe.optimizer_options,
        )
        self.ema = ModelEmaV3(self.model, decay=recipe.ema_decay) if recipe.ema_decay else None
        self.mix = _mixup(recipe, num_classes)
        self.binary = BinaryCrossEntropy(smoothing=recipe.label_smoothing) if recipe.loss != "cross_entropy" else None
        self._network: nn.Module | None = None

    @property
    def measured_model(self) -> nn.Module:
        """What is evaluated and saved: the moving average where there is one."""
        return self.ema.module if self.ema is not None else self.model

    @property
    def learning_rate(self) -> float:
        """Of the next step."""
        return self.recipe.learning_rate_at(min(self.step_number, self.total_steps - 1), self.steps_per_epoch)

    def step(self, images: Tensor, labels: Tensor) -> Tensor:
        """Take a step on images ``(B, 3, H, W)`` and labels ``(B,)``; gives the loss, still on the device."""
        self.model.train()
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate * group.get("lr_scale", 1.0)
        set_drop_path_progress(self.model, self.step_number / self.total_steps)
        targets: Tensor = labels
        if self.mix is not None:
            images, targets = self.mix(images, labels)
        images = images.contiguous(memory_format=self.execution.memory_format)
        network = self._network or self._prepare(images)
        with self.execution.autocast():
            outputs = network(images)
        loss = self._loss(outputs, targets)
        loss.backward()
        if self.recipe.clip_gradient_norm:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.clip_gradient_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step_number += 1
        if self.ema is not None:
            self.ema.decay = self.recipe.ema_decay_at(self.step_number)
            self.ema.update(self.model)
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
            "ema": None if self.ema is None else self.ema.module.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up a state of the same network and recipe."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.ema is not None:
            self.ema.module.load_state_dict(state["ema"])
        self.step_number = state["step"]

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
            network = _capture(network, images, self.execution)
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


def _mixup(recipe: Recipe, num_classes: int) -> Any:
    if not recipe.mix:
        return None
    return Mixup(**recipe.mix, label_smoothing=recipe.label_smoothing, num_classes=num_classes)


def _capture(model: nn.Module, images: Tensor, execution: Execution) -> Any:
    """Forward and backward as CUDA graphs: the many small operations of a cell then cost no launch each. The warm-up
    that capturing needs leaves no trace in the running statistics."""
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    with execution.autocast():
        network = torch.cuda.make_graphed_callables(model, (torch.zeros_like(images),))
    with torch.no_grad():
        for name, buffer in model.named_buffers():
            buffer.copy_(buffers[name])
    return network
