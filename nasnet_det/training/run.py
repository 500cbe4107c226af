"""The training loop: epochs, checkpoints, reports; stopped at any step and taken up there."""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from typing import Any, Protocol

import torch

from nasnet_det.training.engine import Batches, Diverged, Trainer, seed_step

#: Steps between looks at the loss: each waits for the device.
LOOK_EVERY = 50


@dataclass(frozen=True)
class EpochReport:
    """What came of an epoch.

    Args:
        epoch: epochs finished.
        step: steps taken.
        learning_rate: of the epoch's last step.
        train_loss: mean over the epoch, of what is minimized.
        validation_loss, top1, top5: mean cross entropy and accuracies (0 to 1) on the validation images.
        images_per_second: trained, all processes together, validation not counted.
        seconds: the epoch took, validation and all; of a run taken up again, since then.
    """

    epoch: int
    step: int
    learning_rate: float
    train_loss: float
    validation_loss: float
    top1: float
    top5: float
    images_per_second: float
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    @classmethod
    def columns(cls) -> list[str]:
        """The fields' names."""
        return [field.name for field in fields(cls)]


class Keeper(Protocol):
    """Where a run is kept (:class:`~nasnet_det.training.run_folder.RunFolder`)."""

    def load(self) -> Mapping[str, Any] | None:
        """The last state kept, None if there is none."""
        ...

    def save(self, state: Mapping[str, Any]) -> None:
        """Keep a state in place of the last one."""
        ...

    def log(self, history: list[EpochReport]) -> None:
        """Write down the epochs so far, the last of them new."""
        ...


class Stopped(RuntimeError):
    """The run was asked to stop, and what it had done is kept."""


@dataclass
class _Sum:
    """The running sum of an epoch's losses."""

    loss: torch.Tensor
    steps: int = 0

    def add(self, loss: torch.Tensor) -> None:
        self.loss += loss.double()
        self.steps += 1

    @property
    def mean(self) -> float:
        return float(self.loss) / max(1, self.steps)


def fit(
    trainer: Trainer,
    data: Batches,
    seed: int,
    keeper: Keeper | None = None,
    report: Callable[[EpochReport], None] = lambda report: None,
    tick: Callable[[int, float | None], None] = lambda step, loss: None,
    should_stop: Callable[[], bool] = lambda: False,
    enough: Callable[[EpochReport], bool] = lambda report: False,
    save_every_seconds: float = 600.0,
) -> list[EpochReport]:
    """Train to the recipe's end, from wherever the keeper's state stands.

    Args:
        seed: what every epoch's order and every step's random numbers follow from.
        keeper: where the state is kept after every epoch, every ``save_every_seconds`` and on a stop; None for nowhere.
        report: told of every epoch.
        tick: told the step number after every step, and now and then the epoch's mean loss.
        should_stop: asked after every step whether to stop (with several processes, now and then).
        enough: asked after every epoch whether to end here.

    Returns:
        The reports of all epochs, those before the resumption included.

    Raises:
        Diverged: if the loss is no longer finite; the keeper's last state is from before.
        Stopped: if ``should_stop`` said so; the keeper's state is that of the last step.
    """
    history, loss = _take_up(trainer, keeper)
    saved = time.monotonic()

    def keep() -> None:
        nonlocal saved
        if keeper is not None and trainer.world.leads:
            partial = {"loss": float(loss.loss), "steps": loss.steps}
            rows = [r.to_dict() for r in history]
            keeper.save({**trainer.state_dict(), "history": rows, "partial": partial})
        saved = time.monotonic()

    while trainer.step_number < trainer.total_steps:
        epoch, start = divmod(trainer.step_number, trainer.steps_per_epoch)
        began, images_seen = time.monotonic(), 0
        batches = data.training(epoch, start)
        for number in range(start, trainer.steps_per_epoch):
            seed_step(seed, trainer.step_number, trainer.world.rank)
            images, labels = next(batches)
            loss.add(trainer.step(images, labels))
            images_seen += len(labels) * trainer.world.size
            last = number + 1 == trainer.steps_per_epoch
            looks = last or (number + 1) % LOOK_EVERY == 0
            tick(trainer.step_number, _finite_mean(loss, trainer) if looks else None)
            if last:
                break
            if (looks or trainer.world.size == 1) and trainer.world.any(should_stop(), trainer.execution.device):
                keep()
                raise Stopped(f"stopped after step {trainer.step_number} of {trainer.total_steps}")
            if time.monotonic() - saved > save_every_seconds:
                keep()
        trained = time.monotonic() - began
        measured = trainer.evaluate(data.validating())
        history.append(
            EpochReport(
                epoch + 1,
                trainer.step_number,
                trainer.recipe.learning_rate_at(trainer.step_number - 1, trainer.steps_per_epoch),
                loss.mean,
                measured.loss,
                measured.top1,
                measured.top5,
                images_seen / trained,
                time.monotonic() - began,
            )
        )
        loss = _zero(trainer)
        if keeper is not None and trainer.world.leads:
            keeper.log(history)
        keep()
        report(history[-1])
        if enough(history[-1]):
            break
        if trainer.world.any(should_stop(), trainer.execution.device):
            raise Stopped(f"stopped after step {trainer.step_number} of {trainer.total_steps}")
    return history


@contextmanager
def stop_on_signal() -> Iterator[Callable[[], bool]]:
    """A question whether SIGINT or SIGTERM came; a second one ends the process as usual."""
    came = threading.Event()
    before: dict[signal.Signals, Any] = {}

    def note(number: int, frame: Any) -> None:
        came.set()
        signal.signal(number, before[signal.Signals(number)])

    if threading.current_thread() is threading.main_thread():
        before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield came.is_set
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _take_up(trainer: Trainer, keeper: Keeper | None) -> tuple[list[EpochReport], _Sum]:
    state = keeper.load() if keeper is not None else None
    loss = _zero(trainer)
    if state is None:
        return [], loss
    trainer.load_state_dict(state)
    loss.loss += state["partial"]["loss"]
    loss.steps = state["partial"]["steps"]
    return [EpochReport(**row) for row in state["history"]], loss


def _zero(trainer: Trainer) -> _Sum:
    return _Sum(torch.zeros((), dtype=torch.float64, device=trainer.execution.device))


def _finite_mean(loss: _Sum, trainer: Trainer) -> float:
    mean = loss.mean
    if not math.isfinite(mean):
        epoch = (trainer.step_number - 1) // trainer.steps_per_epoch + 1
        raise Diverged(f"the training loss is {mean} by step {trainer.step_number} (epoch {epoch})")
    return mean
