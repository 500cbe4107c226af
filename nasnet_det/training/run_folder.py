"""A run on disk: its settings, its last checkpoint, a CSV, TensorBoard scalars and a plot."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from nasnet_det.safe_io.files import replacing, write_text
from nasnet_det.safe_io.values import parse_json
from nasnet_det.training.run import EpochReport, RunError

FORMAT = "nasnet_det.training_run"
_SCALARS = ("learning_rate", "train_loss", "validation_loss", "top1", "top5", "images_per_second")


class RunFolder:
    """The files of one run: ``run.json``, ``checkpoint.pt``, ``metrics.csv``, ``tensorboard/`` and ``run.png``.

    Each is replaced whole or not at all, so that a kill or a full disk leaves the last good one.

    Args:
        path: the folder; made if absent.
        settings: what the run is: plain values. A run is taken up only with the same.
        tensorboard: whether to write scalars for it, where it is installed.

    Raises:
        RunError: if the folder holds a run of other settings, or something else.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any], tensorboard: bool = True) -> None:
        self.path, self.settings = path, json.loads(json.dumps(settings))
        self.checkpoint = path / "checkpoint.pt"
        self._wants_tensorboard = tensorboard
        self._writer: Any = None
        described = path / "run.json"
        if described.exists():
            self._compare(described)
        elif path.is_dir() and any(path.iterdir()):
            raise RunError(f"{path} holds other files and no run; choose another --out")
        else:
            write_text(described, json.dumps({"format": FORMAT, **self.settings}, indent=2) + "\n")

    def load(self) -> Mapping[str, Any] | None:
        """The last checkpoint.

        Raises:
            RunError: if it cannot be read.
        """
        if not self.checkpoint.exists():
            return None
        try:
            return torch.load(self.checkpoint, map_location="cpu", weights_only=True)
        except Exception as error:  # a damaged file makes the reader fail in any way
            reason = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
            raise RunError(f"{self.checkpoint} cannot be read ({reason}); remove it to start anew") from None

    def save(self, state: Mapping[str, Any]) -> None:
        """Keep a checkpoint in place of the last."""
        # Through memory: on a full disk torch's own writer fails with words about positions.
        content = io.BytesIO()
        torch.save(dict(state), content)
        with replacing(self.checkpoint) as part:
            part.write_bytes(content.getbuffer())

    def log(self, history: list[EpochReport]) -> None:
        """Write the CSV anew, and the last epoch to TensorBoard."""
        text = io.StringIO()
        writer = csv.DictWriter(text, EpochReport.columns(), lineterminator="\n")
        writer.writeheader()
        writer.writerows(report.to_dict() for report in history)
        write_text(self.path / "metrics.csv", text.getvalue())
        board = self._tensorboard(history[-1].step)
        if board is not None:
            for name in _SCALARS:
                board.add_scalar(name, getattr(history[-1], name), history[-1].step)
            board.flush()

    def plot(self, history: list[EpochReport]) -> None:
        """Draw loss, accuracy and learning rate over the epochs."""
        draw_run(history, self.path / "run.png", str(self.settings.get("title", self.path.name)))

    def close(self) -> None:
        """End the TensorBoard file."""
        if self._writer is not None:
            self._writer.close()

    def _tensorboard(self, step: int) -> Any:
        if self._wants_tensorboard and self._writer is None:
            # TensorBoard's own switch: with a module of this name it does not load TensorFlow where that is installed.
            sys.modules.setdefault("tensorboard.compat.notf", ModuleType("tensorboard.compat.notf"))
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError:
                self._wants_tensorboard = False
                return None
            self._writer = SummaryWriter(str(self.path / "tensorboard"), purge_step=step)
        return self._writer

    def _compare(self, described: Path) -> None:
        try:
            found = parse_json(described.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise RunError(f"{described} cannot be read ({error})") from None
        if not isinstance(found, dict) or found.pop("format", None) != FORMAT:
            raise RunError(f"{described} describes no training run; choose another --out")
        differing = [
            f"{key[:60]}: {_short(there)} there, {_short(here)} now"
            for key, there, here in _differences(found, self.settings)
        ]
        if differing:
            raise RunError(
                f"{self.path} holds a run of other settings ({'; '.join(differing[:4])}); "
                "take it up with its own, or choose another --out"
            )


def draw_run(history: list[EpochReport], path: Path, title: str) -> None:
    """Draw a run's losses, accuracies and learning rate over its epochs as a PNG."""
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


def _differences(found: Any, wanted: Any, prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    """The settings in which two descriptions differ: their path, the one and the other."""
    if isinstance(found, dict) and isinstance(wanted, dict):
        for key in sorted({*found, *wanted}):
            yield from _differences(found.get(key), wanted.get(key), f"{prefix}.{key}" if prefix else key)
    elif found != wanted:
        yield prefix, found, wanted


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
