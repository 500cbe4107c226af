"""The training loop: epochs, evaluation, checkpoints; it can be stopped at any step and resumes exactly there."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Protocol

import torch

from nasnet_det.safe_io.values import one_line
from nasnet_det.training.engine import Batches, Diverged, Trainer
from nasnet_det.training.seeds import seed_step

#: Steps between checks of the loss, each of which waits for the device.
CHECK_EVERY = 50


@dataclass(frozen=True)
class EpochReport:
    """The results of an epoch.

    Args:
        epoch: the number of finished epochs.
        step: the number of steps taken.
        learning_rate: the learning rate of the epoch's last step.
        train_loss: the mean of the minimized loss over the epoch.
        validation_loss: the mean cross entropy on the validation images.
        top1, top5: accuracies on the validation images, 0 to 1.
        images_per_second: training images per second of all processes together, without the validation.
        seconds: the time of the epoch including the validation; in a resumed run, since the resumption.
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
        """Return plain values, for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> EpochReport:
        """Build from the values of :meth:`to_dict`.

        Raises:
            TypeError: if a field is missing, unknown or not a number.
        """
        if wrong := [name for name, value in data.items() if type(value) not in (int, float)]:
            raise TypeError(f"{wrong[0]} in a report must be a number")
        return cls(**data)

    @classmethod
    def columns(cls) -> list[str]:
        """Return the names of the fields."""
        return [field.name for field in fields(cls)]


class Keeper(Protocol):
    """Storage of a run's state (:class:`~nasnet_det.training.run_folder.TrainingFolder`)."""

    def load(self) -> Mapping[str, Any] | None:
        """Return the last saved state, or None."""
        ...

    def save(self, state: Mapping[str, Any]) -> None:
        """Save a state, replacing the last one."""
        ...

    def log(self, history: list[EpochReport]) -> None:
        """Write the reports of all epochs, of which the last is new."""
        ...


class RunError(ValueError):
    """A run's folder or checkpoint that is damaged or belongs to another run."""


class Stopped(RuntimeError):
    """The run was stopped on request; its state is saved."""

    #: The exit status that shells use for SIGINT.
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
    """Train until the end of the recipe, resuming from the keeper's state.

    Args:
        trainer: the network to train.
        data: the images.
        seed: the seed of every epoch's order and every step's random numbers.
        keeper: the storage of the state, which is saved after every epoch, every ``save_every_seconds`` and on a stop;
            None saves nothing.
        report: called after every epoch.
        tick: called after every step with the step number and, every :data:`CHECK_EVERY` steps, the epoch's mean loss.
        should_stop: called after every step; a true result stops the run (with several processes, it is called every
            :data:`CHECK_EVERY` steps).
        enough: called after every epoch; a true result ends the training early.
        save_every_seconds: the longest time between two saved states.

    Returns:
        The reports of all epochs, including those before a resumption.

    Raises:
        RunError: if the keeper's state is damaged or belongs to another run.
        Diverged: if the loss is NaN or infinite; the saved state is from before.
        Stopped: if ``should_stop`` returned true; the saved state is that of the last step.
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
    """The state of the loop: reports, the current epoch's loss, and the time of the last save."""

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
            self._restore(state)

    def _restore(self, state: Any) -> None:
        try:
            self.trainer.load_state_dict(state)
            self.loss.loss += float(state["partial"]["loss"])
            self.loss.steps = int(state["partial"]["steps"])
            self.history = [EpochReport.from_dict(row) for row in state["history"]]
        except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
            path = getattr(self.keeper, "checkpoint", "the last checkpoint")
            raise RunError(
                f"{path} is damaged or belongs to another run ({one_line(error)}); "
                "remove it to start over, or choose another folder"
            ) from error

    def epoch(self) -> EpochReport:
        """Train the rest of the current epoch, evaluate and save."""
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
        self._save()
        return report

    def stop_if_asked(self, save: bool = False) -> None:
        """Raise :class:`Stopped` if any process was asked to stop."""
        if self.trainer.world.any(self.should_stop(), self.trainer.execution.device):
            if save:
                self._save()
            step, steps = self.trainer.step_number, self.trainer.total_steps
            raise Stopped(f"stopped after step {step} of {steps}; the same command continues from there")

    def _train(self) -> int:
        """Take the epoch's remaining steps; return the number of images seen by all processes."""
        trainer, images_seen = self.trainer, 0
        epoch, start = divmod(trainer.step_number, trainer.steps_per_epoch)
        batches = self.data.training(epoch, start)
        for number in range(start + 1, trainer.steps_per_epoch + 1):
            seed_step(self.seed, trainer.step_number, trainer.world.rank)
            images, labels = next(batches)
            self.loss.add(trainer.step(images, labels))
            images_seen += len(labels) * trainer.world.size
            last = number == trainer.steps_per_epoch
            checks = last or number % CHECK_EVERY == 0
            self.tick(trainer.step_number, self._finite_loss() if checks else None)
            if last:
                break  # the epoch is evaluated before anything is saved
            if checks or trainer.world.size == 1:
                self.stop_if_asked(save=True)
            if time.monotonic() - self.saved > self.save_every_seconds:
                self._save()
        return images_seen

    def _save(self) -> None:
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
                f"the training loss is {mean} at step {step} (epoch {epoch}); the last checkpoint is from before. "
                "Try a lower learning_rate, in another folder"
            )
        return mean

    def _no_loss(self) -> _Sum:
        return _Sum(torch.zeros((), dtype=torch.float64, device=self.trainer.execution.device))
