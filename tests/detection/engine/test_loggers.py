"""Loggers write their own formats, without a network."""

from __future__ import annotations

from pathlib import Path

import pytest

from nasnet_det.detection.engine.loggers import LoggerError, check_loggers, open_loggers


def record(name: str, folder: Path) -> None:
    """Log two numbers, end, and continue."""
    for start in (0, 5):
        (logger,) = open_loggers([name], folder, {"steps": 10}, start)
        logger.log(start + 5, {"AP": 10.0 + start})
        logger.close()


def test_unknown_and_missing_loggers_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(LoggerError, match=r"'clearml'.*tensorboard"):
        check_loggers(["clearml"])
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(LoggerError, match=r"wandb .*nasnet-det\[loggers\]"):
        check_loggers(["wandb"])


def test_tensorboard(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    record("tensorboard", tmp_path)
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("AP")] == [(5, 10.0), (10, 15.0)]


def test_mlflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    record("mlflow", tmp_path)
    client = mlflow.tracking.MlflowClient((tmp_path / "mlruns").as_uri())
    run = (tmp_path / "mlflow_run_id").read_text()
    assert [(point.step, point.value) for point in client.get_metric_history(run, "AP")] == [(5, 10.0), (10, 15.0)]
    assert client.get_run(run).data.params == {"steps": "10"}


def test_wandb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    record("wandb", tmp_path)
    runs = {path.name.rpartition("-")[2] for path in (tmp_path / "wandb").glob("offline-run-*")}
    assert runs == {(tmp_path / "wandb" / "run_id").read_text()}  # the second part is of the same run
