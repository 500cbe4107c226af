"""Loggers of a training beside its CSV: TensorBoard, Weights & Biases, MLflow."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from nasnet_det.safe_io.values import first_line
from nasnet_det.training.run_folder import open_tensorboard


class LoggerError(ValueError):
    """A logger that is unknown, not installed or cannot be started: names it and what to do."""


class Logger(Protocol):
    """A receiver of a training's numbers."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Record values of a step, counted from 1."""

    def close(self) -> None:
        """Finish the record."""


class TensorBoardLogger:
    """Scalars in ``FOLDER/tensorboard``."""

    def __init__(self, folder: Path, name: str, settings: Mapping[str, Any], start: int) -> None:
        del name, settings
        self._writer = open_tensorboard(folder, start + 1 if start else None)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        for key, value in values.items():
            self._writer.add_scalar(key, value, step)
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


class WandbLogger:
    """A Weights & Biases run named after the folder; offline with ``WANDB_MODE=offline``."""

    def __init__(self, folder: Path, name: str, settings: Mapping[str, Any], start: int) -> None:
        import wandb

        noted = folder / "wandb" / "run_id"  # so that a resumed training continues the same run
        known = noted.read_text(encoding="utf-8").strip() if start and noted.is_file() else None
        self._run = wandb.init(
            project="nasnet_det", name=name, dir=str(folder), config=dict(settings), id=known, resume="allow"
        )
        noted.parent.mkdir(exist_ok=True)
        noted.write_text(self._run.id, encoding="utf-8")

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        self._run.finish()


class MLflowLogger:
    """An MLflow run, at ``MLFLOW_TRACKING_URI`` or else in ``FOLDER/mlruns``."""

    def __init__(self, folder: Path, name: str, settings: Mapping[str, Any], start: int) -> None:
        import mlflow

        if not os.environ.get("MLFLOW_TRACKING_URI"):
            # MLflow's newer releases ask for this before they write to files.
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
            mlflow.set_tracking_uri((folder / "mlruns").resolve().as_uri())
        noted = folder / "mlflow_run_id"
        known = noted.read_text(encoding="utf-8").strip() if start and noted.is_file() else None
        self._mlflow = mlflow
        self._run = mlflow.start_run(run_id=known, run_name=None if known else name)
        noted.write_text(self._run.info.run_id, encoding="utf-8")
        if known is None:
            mlflow.log_params({key: str(value)[:500] for key, value in settings.items()})

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._mlflow.log_metrics({key.replace("@", "_"): value for key, value in values.items()}, step=step)

    def close(self) -> None:
        self._mlflow.end_run()


#: Every logger by its name: its class, the module that it needs, and what to do where it cannot be started.
LOGGERS: dict[str, tuple[type[Any], str, str]] = {
    "tensorboard": (TensorBoardLogger, "tensorboard", "look at the output folder, or leave it out of --loggers"),
    "wandb": (WandbLogger, "wandb", "run wandb login, set WANDB_MODE=offline, or leave it out of --loggers"),
    "mlflow": (MLflowLogger, "mlflow", "look at MLFLOW_TRACKING_URI, or leave it out of --loggers"),
}


def check_loggers(names: Sequence[str]) -> None:
    """Raise :class:`LoggerError` for a name that is unknown or whose package is not installed."""
    for name in names:
        if name not in LOGGERS:
            raise LoggerError(f"unknown logger {name!r}; known: {', '.join(LOGGERS)}")
        if importlib.util.find_spec(LOGGERS[name][1]) is None:
            extra = "train" if name == "tensorboard" else "loggers"
            raise LoggerError(f"logger {name} is not installed: pip install 'nasnet-det[{extra}]'")


def open_loggers(names: Sequence[str], folder: Path, settings: Mapping[str, Any], start: int) -> list[Logger]:
    """Open loggers for the run in ``folder``, which starts or continues after ``start`` steps.

    Raises:
        LoggerError: if one cannot be started, as without an account or a server.
    """
    opened: list[Logger] = []
    for name in names:
        kind, _, remedy = LOGGERS[name]
        try:
            opened.append(kind(folder, folder.name, settings, start))
        except Exception as error:  # each has errors of its own
            for logger in opened:
                logger.close()
            raise LoggerError(f"logger {name} cannot be started ({first_line(error)}): {remedy}") from None
    return opened
