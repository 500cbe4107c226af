"""A training run from its settings to the saved model, as the training commands share it."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from nasnet_det.safe_io.locks import working_in
from nasnet_det.safe_io.stopping import stop_on_signal
from nasnet_det.training.engine import Batches, Trainer
from nasnet_det.training.execution import Execution
from nasnet_det.training.models import ModelChoice, load_weights, save_local_dir, zero_classifiers
from nasnet_det.training.progress import StepLines
from nasnet_det.training.recipe import Recipe
from nasnet_det.training.run import EpochReport, Stopped, fit
from nasnet_det.training.run_folder import TrainingFolder
from nasnet_det.training.seeds import own_randomness, seed_step
from nasnet_det.training.world import World

#: The step number whose seed initializes the weights; no training has as many steps.
_BEFORE_ALL = 2**32 - 1


@dataclass(frozen=True)
class Session:
    """A run to start or to resume.

    Args:
        folder: the folder of its files.
        model: the network.
        recipe: the hyperparameters.
        execution: device, precision, memory layout and mode.
        seed: the seed of all its random numbers.
        data_config: timm's description of the saved model's input.
        described: further settings that a resumed run must share, such as the data's.
        pretrained: the timm name of the weights to start from; None for random initialization.
        world: the processes of a distributed run.
        label_names: the names of the classes, stored in the saved model.
    """

    folder: Path
    model: ModelChoice
    recipe: Recipe
    execution: Execution
    seed: int
    data_config: Mapping[str, Any]
    described: Mapping[str, Any]
    pretrained: str | None = None
    world: World = field(default_factory=World)
    label_names: tuple[str, ...] = ()

    def settings(self) -> dict[str, Any]:
        """Return the content of ``run.json``: the settings that a resumed run must share."""
        return {
            "title": f"{self.model.architecture}, {self.recipe.name}, seed {self.seed}",
            "model": self.model.to_dict(),
            "pretrained": self.pretrained,
            "recipe": self.recipe.to_dict(),
            "seed": self.seed,
            "precision": self.execution.precision,
            "channels_last": self.execution.channels_last,
            "processes": self.world.size,
            **self.described,
        }

    def describe(self, data: Batches) -> str:
        """Return network and recipe in words, for logs.

        Raises:
            ModelError: if the network does not exist, or the device has no memory to train it.
        """
        copies = 4 if self.recipe.ema_decay else 3  # with gradient and momentum
        parameters = self.model.count_parameters(data.num_classes, self.execution.device, copies)
        return f"{self.model.architecture}, {parameters:,} parameters, {self.recipe.name}"

    def trainer(self, data: Batches) -> Trainer:
        """Return the initialized network of this run, ready to train."""
        seed_step(self.seed, _BEFORE_ALL)
        recipe = self.recipe
        network = self.model.build_for_training(
            data.num_classes, data.input_size[-1], recipe.drop_rate, recipe.drop_path_rate, recipe.aux_weight > 0
        )
        if self.pretrained is not None:
            load_weights(network, self.pretrained)
        elif recipe.zero_classifier:
            zero_classifiers(network)
        return Trainer(network, recipe, data.steps_per_epoch, data.num_classes, self.execution, self.world)

    def run(self, data: Batches, log: Callable[[str], None], more: bool = False) -> list[EpochReport]:
        """Train to the end, resuming from the folder's checkpoint, then save the model in the same folder.

        Args:
            data: the images.
            log: called with lines about the run.
            more: whether other work follows, which a signal after the last step stops, too.

        Returns:
            The reports of all epochs.

        Raises:
            RunError: if the folder contains another run.
            FolderInUseError: if another process trains in it.
            Diverged, Stopped: see :func:`~nasnet_det.training.run.fit`.
            OSError: if a file is not writable; the last complete files remain.
        """
        is_main, recipe = self.world.is_main_process, self.recipe
        if recipe.warmup_epochs >= recipe.epochs:  # as in a short trial of a recipe
            most = f"the learning rate rises throughout, and is never above {recipe.learning_rate:g}"
            log(f"warmup_epochs ({recipe.warmup_epochs:g}) is not below epochs ({recipe.epochs}): {most}")
        keeper = TrainingFolder(self.folder, self.settings())
        alone = working_in(self.folder) if is_main else nullcontext()
        with alone, own_randomness(self.execution.device), stop_on_signal() as should_stop:
            trainer = self.trainer(data)
            bar = tqdm(total=trainer.total_steps, unit="step", disable=None if is_main else True)
            try:
                lines = StepLines(trainer.total_steps, self.recipe.batch_size, log)
                tick = lines if bar.disable else _ticker(bar)
                history = fit(trainer, data, self.seed, keeper, _reporter(self, log), tick, should_stop)
            finally:
                bar.close()
                keeper.close()
        if is_main:
            keeper.plot(history)
            weights = trainer.measured_model.state_dict()
            target = self.folder / "model"
            save_local_dir(self.model, weights, target, data.num_classes, self.data_config, self.label_names)
        if more and should_stop():
            raise Stopped(f"stopped at the end of {self.folder}; the same command continues from there")
        return history

    def epochs_in(self, seconds: float, data: Batches) -> Recipe:
        """Return the recipe with as many epochs as this device can train and evaluate in ``seconds``.

        The time is measured on some steps and one evaluation of a network that is then discarded. A run that has
        already begun keeps its number of epochs.
        """
        begun = _epochs_begun(self.folder)
        if begun:
            return replace(self.recipe, epochs=begun)
        with own_randomness(self.execution.device):
            trainer = self.trainer(data)
            batches = data.training(self.recipe.epochs - 1)  # of the largest images, with progressive resizing
            for _ in range(min(3, data.steps_per_epoch)):
                trainer.step(*next(batches))
            _wait(self.execution.device)
            began, steps = time.monotonic(), 0
            while steps < data.steps_per_epoch - 3 and time.monotonic() - began < seconds / 50:
                trainer.step(*next(batches))
                steps += 1
                if steps % 10 == 0:  # not after every step: a GPU computes one while the next is launched
                    _wait(self.execution.device)
            _wait(self.execution.device)
            per_step = (time.monotonic() - began) / max(1, steps)
            trainer.evaluate(islice(data.validating(), 1))  # a GPU chooses its algorithms in the first batch
            began = time.monotonic()
            trainer.evaluate(data.validating())
            per_epoch = per_step * data.steps_per_epoch + time.monotonic() - began
        return replace(self.recipe, epochs=max(1, int(seconds / per_epoch)))


def _reporter(session: Session, log: Callable[[str], None]) -> Callable[[EpochReport], None]:
    def report(epoch: EpochReport) -> None:
        if session.world.is_main_process:
            log(
                f"epoch {epoch.epoch}/{session.recipe.epochs}  loss {epoch.train_loss:.4f}  "
                f"validation loss {epoch.validation_loss:.4f}  top-1 {100 * epoch.top1:.2f}  "
                f"top-5 {100 * epoch.top5:.2f}  lr {epoch.learning_rate:.3g}  "
                f"{epoch.images_per_second:.0f} images/s  {epoch.seconds:.0f} s"
            )

    return report


def _ticker(bar: tqdm) -> Callable[[int, float | None], None]:
    def tick(step: int, loss: float | None) -> None:
        bar.update(step - bar.n)
        if loss is not None:
            bar.set_postfix(loss=f"{loss:.4f}", refresh=False)

    return tick


def _epochs_begun(folder: Path) -> int | None:
    path = folder / "run.json"
    if not path.is_file():
        return None
    try:
        return int(json.loads(path.read_text(encoding="utf-8"))["recipe"]["epochs"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _wait(device: torch.device) -> None:
    """Wait until the device has finished its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def log_above_bars(line: str) -> None:
    """Print a line above the progress bars."""
    tqdm.write(line, file=sys.stdout)
    sys.stdout.flush()
