"""The training loop: epochs, checkpoints, reports; stopped at any step and taken up there."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
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
    def from_dict(cls, data: Mapping[str, Any]) -> EpochReport:
        """Read what :meth:`to_dict` gave.

        Raises:
            TypeError: if a field is missing, unknown or no number.
        """
        if wrong := [name for name, value in data.items() if type(value) not in (int, float)]:
            raise TypeError(f"in a report {wrong[0]} is no number")
        return cls(**data)

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


class RunError(ValueError):
    """A run's folder or checkpoint that cannot be used: says why, and what to do."""


class Stopped(RuntimeError):
    """The run was asked to stop, and what it had done is kept."""

    #: What a shell gives for SIGINT.
    exit_status = 130


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
        RunError: if the keeper's state is damaged, or of another run.
        Diverged: if the loss is no longer finite; the keeper's last state is from before.
        Stopped: if ``should_stop`` said so; the keeper's state is that of the last step.
    """
    loop = _Loop(trainer, data, seed, keeper, tick, should_stop, save_every_seconds)
    if loop.history and enough(loop.history[-1]):
        return loop.history
    while trainer.step_number < trainer.total_steps:
        last = loop.epoch()
        report(last)
        if enough(last):
            break
        if trainer.step_number < trainer.total_steps:
            loop.stop_if_asked()
    return loop.history


class _Loop:
    """What a run is doing: its history, the loss of the epoch under way, and when it was last kept."""

    def __init__(
        self,
        trainer: Trainer,
        data: Batches,
        seed: int,
        keeper: Keeper | None,
        tick: Callable[[int, float | None], None],
        should_stop: Callable[[], bool],
        save_every_seconds: float,
    ) -> None:
        self.trainer, self.data, self.seed, self.keeper = trainer, data, seed, keeper
        self.tick, self.should_stop, self.save_every_seconds = tick, should_stop, save_every_seconds
        self.saved = time.monotonic()
        self.loss, self.history = self._no_loss(), list[EpochReport]()
        state = keeper.load() if keeper is not None else None
        if state is not None:
            self._take_up(state)

    def _take_up(self, state: Any) -> None:
        try:
            self.trainer.load_state_dict(state)
            self.loss.loss += float(state["partial"]["loss"])
            self.loss.steps = int(state["partial"]["steps"])
            self.history = [EpochReport.from_dict(row) for row in state["history"]]
        except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
            reason = " ".join(str(error).split())[:300]
            place = getattr(self.keeper, "checkpoint", "the last checkpoint")
            raise RunError(
                f"{place} is damaged, or of another run ({reason}); remove it to start anew, or choose another folder"
            ) from error

    def epoch(self) -> EpochReport:
        """Train what is left of the epoch under way, measure, and keep."""
        trainer, began = self.trainer, time.monotonic()
        images_seen = self._train()
        trained = time.monotonic() - began
        measured = trainer.evaluate(self.data.validating())
        report = EpochReport(
            epoch=trainer.step_number // trainer.steps_per_epoch,
            step=trainer.step_number,
            learning_rate=trainer.recipe.learning_rate_at(trainer.step_number - 1, trainer.steps_per_epoch),
            train_loss=self.loss.mean,
            validation_loss=measured.loss,
            top1=measured.top1,
            top5=measured.top5,
            images_per_second=images_seen / trained,
            seconds=time.monotonic() - began,
        )
        self.history.append(report)
        self.loss = self._no_loss()
        if self.keeper is not None and trainer.world.is_main_process:
            self.keeper.log(self.history)
        self._keep()
        return report

    def stop_if_asked(self, keep: bool = False) -> None:
        """Raise :class:`Stopped` if any process was asked to stop."""
        if self.trainer.world.any(self.should_stop(), self.trainer.execution.device):
            if keep:
                self._keep()
            step, steps = self.trainer.step_number, self.trainer.total_steps
            raise Stopped(f"stopped after step {step} of {steps}; the same command continues from there")

    def _train(self) -> int:
        """The epoch's remaining steps; gives the number of images that all processes saw."""
        trainer, images_seen = self.trainer, 0
        epoch, start = divmod(trainer.step_number, trainer.steps_per_epoch)
        batches = self.data.training(epoch, start)
        for number in range(start + 1, trainer.steps_per_epoch + 1):
            seed_step(self.seed, trainer.step_number, trainer.world.rank)
            images, labels = next(batches)
            self.loss.add(trainer.step(images, labels))
            images_seen += len(labels) * trainer.world.size
            last = number == trainer.steps_per_epoch
            looks = last or number % LOOK_EVERY == 0
            self.tick(trainer.step_number, self._finite_loss() if looks else None)
            if last:
                break  # the epoch is measured before anything is kept
            if looks or trainer.world.size == 1:
                self.stop_if_asked(keep=True)
            if time.monotonic() - self.saved > self.save_every_seconds:
                self._keep()
        return images_seen

    def _keep(self) -> None:
        if self.keeper is not None and self.trainer.world.is_main_process:
            partial = {"loss": float(self.loss.loss), "steps": self.loss.steps}
            history = [report.to_dict() for report in self.history]
            self.keeper.save({**self.trainer.state_dict(), "history": history, "partial": partial})
        self.saved = time.monotonic()

    def _finite_loss(self) -> float:
        mean, step = self.loss.mean, self.trainer.step_number
        if not math.isfinite(mean):
            epoch = (step - 1) // self.trainer.steps_per_epoch + 1
            raise Diverged(
                f"the training loss is {mean} by step {step} (epoch {epoch}); the last checkpoint is from before. "
                "Try a lower learning_rate, in another folder"
            )
        return mean

    def _no_loss(self) -> _Sum:
        return _Sum(torch.zeros((), dtype=torch.float64, device=self.trainer.execution.device))
