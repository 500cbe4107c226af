"""A training run on disk: settings, last checkpoint, metrics as CSV and TensorBoard scalars, and a plot."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Mapping
from dataclasses import astuple
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from nasnet_det.safe_io.files import replacing, write_csv, write_text
from nasnet_det.safe_io.folders import is_vacant
from nasnet_det.safe_io.settings import differences
from nasnet_det.safe_io.values import first_line, parse_json, reason
from nasnet_det.training.recipe import Recipe
from nasnet_det.training.run import EpochReport, RunError

FORMAT = "nasnet_det.training_run"
_SCALARS = ("learning_rate", "train_loss", "validation_loss", "top1", "top5", "images_per_second")


class TrainingFolder:
    """The files of a run: ``run.json``, ``checkpoint.pt``, ``metrics.csv``, ``tensorboard/`` and ``run.png``.

    Files are replaced atomically, so that a killed process or a full disk leaves the last complete ones.

    Args:
        path: the folder; created, beginning with ``run.json``, when the first epoch is logged or checkpoint saved.
        settings: the run's settings, plain values. A run resumes only with the same settings; recipe settings that
            ``run.json`` lacks, because an earlier version wrote it, count as their defaults.
        tensorboard: write TensorBoard scalars, if it is installed.

    Raises:
        RunError: if the folder holds a run with other settings, or other files.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any], tensorboard: bool = True) -> None:
        self.path, self.settings = path, json.loads(json.dumps(settings))
        self.checkpoint = path / "checkpoint.pt"
        self._wants_tensorboard = tensorboard
        self._writer: Any = None
        self._described = path / "run.json"
        if self._described.exists():
            self._compare(self._described)
        elif not is_vacant(path):
            raise RunError(f"{path} contains files but no run.json; choose another --output")

    def load(self) -> Mapping[str, Any] | None:
        """Return the last checkpoint, or None.

        Raises:
            RunError: if it is damaged.
        """
        if not self.checkpoint.exists():
            return None
        try:
            return torch.load(self.checkpoint, map_location="cpu", weights_only=True)
        except Exception as error:  # a damaged file raises almost anything
            reason = f"{type(error).__name__}: {first_line(error)}"
            raise RunError(f"{self.checkpoint} is not readable ({reason}); remove it to start over") from None

    def save(self, state: Mapping[str, Any]) -> None:
        """Save a checkpoint, replacing the last one."""
        # Through memory: on a full disk torch.save itself fails with an unrelated message.
        content = io.BytesIO()
        torch.save(dict(state), content)
        self._describe()
        with replacing(self.checkpoint) as part:
            part.write_bytes(content.getbuffer())

    def log(self, history: list[EpochReport]) -> None:
        """Rewrite the CSV, and add the last epoch to TensorBoard."""
        self._describe()
        write_csv(self.path / "metrics.csv", [EpochReport.columns(), *map(astuple, history)])
        board = self._tensorboard(history[-1].step)
        if board is not None:
            for name in _SCALARS:
                board.add_scalar(name, getattr(history[-1], name), history[-1].step)
            board.flush()

    def plot(self, history: list[EpochReport]) -> None:
        """Draw loss, accuracy and learning rate over the epochs."""
        draw_run(history, self.path / "run.png", str(self.settings.get("title", self.path.name)))

    def close(self) -> None:
        """Close the TensorBoard file."""
        if self._writer is not None:
            self._writer.close()

    def _describe(self) -> None:
        """Write ``run.json``, by which a run is known, before any other file."""
        if not self._described.exists():
            write_text(self._described, json.dumps({"format": FORMAT, **self.settings}, indent=2) + "\n")

    def _tensorboard(self, step: int) -> Any:
        if self._wants_tensorboard and self._writer is None:
            try:
                self._writer = open_tensorboard(self.path, step)
            except ImportError:
                self._wants_tensorboard = False
        return self._writer

    def _compare(self, described: Path) -> None:
        try:
            found = parse_json(described.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise RunError(f"{described} is not readable ({reason(error)})") from None
        if not isinstance(found, dict) or found.pop("format", None) != FORMAT:
            raise RunError(f"{described} is not that of a training run; choose another --output")
        differing = [
            f"{key[:60]}: {_short(there)} there, now {_short(here)}"
            for key, there, here in differences(_with_defaults(found), _with_defaults(self.settings))
        ]
        if differing:
            raise RunError(
                f"{self.path} contains a run with other settings ({'; '.join(differing[:4])}); "
                "resume it with its own settings, or choose another --output"
            )


def open_tensorboard(folder: Path, step: int | None = None) -> Any:
    """Return a writer of TensorBoard's files in ``FOLDER/tensorboard``; what is there from ``step`` on is outdated.

    Raises:
        ImportError: if TensorBoard is not installed.
    """
    keep_tensorflow_out()
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(folder / "tensorboard"), purge_step=step)


def keep_tensorflow_out() -> None:
    """Let TensorBoard not import an installed TensorFlow, which takes seconds and prints notices, by its own switch: a
    module of this name."""
    sys.modules.setdefault("tensorboard.compat.notf", ModuleType("tensorboard.compat.notf"))


def draw_run(history: list[EpochReport], path: Path, title: str) -> None:
    """Draw a run's losses, accuracies and learning rate over its epochs, as a PNG."""
    from matplotlib.figure import Figure

    epochs = [report.epoch for report in history]
    figure = Figure(figsize=(9.6, 3.2), layout="constrained")
    losses, accuracies, rates = figure.subplots(1, 3)
    losses.plot(epochs, [report.train_loss for report in history], label="training")
    losses.plot(epochs, [report.validation_loss for report in history], label="validation")
    losses.set_title("loss (training: as minimized)", fontsize="small")
    accuracies.plot(epochs, [100 * report.top1 for report in history], label="top-1")
    accuracies.plot(epochs, [100 * report.top5 for report in history], label="top-5")
    accuracies.set_title("validation accuracy (%)", fontsize="small")
    rates.plot(epochs, [report.learning_rate for report in history])
    rates.set_title("learning rate", fontsize="small")
    for axes in (losses, accuracies):
        axes.legend(fontsize="small")
    for axes in (losses, accuracies, rates):
        axes.set_xlabel("epoch")
        axes.grid(alpha=0.3)
    figure.suptitle(title)
    with replacing(path) as part:
        figure.savefig(part, format="png", dpi=120)


def _with_defaults(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return a run's settings with the defaults of those that its recipe lacks."""
    recipe = settings.get("recipe")
    defaults = Recipe("", "cifar", epochs=1, batch_size=1, learning_rate=0.0).to_dict()
    return {**settings, "recipe": {**defaults, **recipe}} if isinstance(recipe, dict) else dict(settings)


def _short(value: Any) -> str:
    text = "none" if value is None else json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
