"""timm's own training pieces train our models: its data set, loader, task, loss, optimizer, scheduler, moving average
and checkpoint saver, put together as its ``train.py`` does. (The script itself is not part of timm's package; where
``NASNET_DET_TIMM_TRAIN`` names a copy of it, it is run.)"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
from timm.data import create_dataset, create_loader, resolve_data_config
from timm.loss import LabelSmoothingCrossEntropy
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from timm.utils import CheckpointSaver, ModelEmaV3

import nasnet_det  # noqa: F401 - registers our models

#: Runs the script of its first argument with our models registered.
REGISTERED = "import nasnet_det, runpy, sys; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
CELL = {"genotype": "darts_v1", "num_cells": 1, "num_filters": 8, "drop_path_rate": 0.2, "drop_rate": 0.1}


def test_timms_pieces_train_our_model(image_folder: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = timm.create_model("nasnet", num_classes=3, **CELL)
    config = resolve_data_config({"input_size": (3, 64, 64)}, model=model)
    data = create_dataset("", root=str(image_folder), split="train")
    loader = create_loader(
        data, config["input_size"], 8, is_training=True, use_prefetcher=False, num_workers=0, persistent_workers=False
    )
    criterion = LabelSmoothingCrossEntropy(0.1)
    optimizer = create_optimizer_v2(model, opt="rmsproptf", lr=0.01, weight_decay=4e-5, momentum=0.9, eps=1.0)
    scheduler, epochs = create_scheduler_v2(optimizer, sched="step", num_epochs=3, decay_epochs=1, decay_rate=0.5)
    average = ModelEmaV3(model, decay=0.9)
    saver = CheckpointSaver(model, optimizer, model_ema=average, checkpoint_dir=str(tmp_path))
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    for epoch in range(epochs):
        model.train()
        for images, labels in loader:
            loss = criterion(model(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            average.update(model)
        scheduler.step(epoch + 1)
        assert torch.isfinite(loss)
        saver.save_checkpoint(epoch, metric=-loss.item())
    # Every weight took part.
    assert all(not torch.equal(before[name], value) for name, value in model.named_parameters())
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.01 * 0.5**3)
    again = timm.create_model("nasnet", num_classes=3, checkpoint_path=str(tmp_path / "last.pth.tar"), **CELL)
    torch.testing.assert_close(again.state_dict(), average.module.state_dict())


def test_timms_task_trains_our_model(image_folder: Path) -> None:
    task = pytest.importorskip("timm.task", reason="timm's tasks are newer than this timm")
    model = timm.create_model("nasnet", num_classes=3, **CELL)
    training = task.ClassificationTask(model, criterion_kwargs={"smoothing": 0.1}, verbose=False)
    optimizer = create_optimizer_v2(model, opt="momentum", lr=0.01)
    images, labels = torch.randn(4, 3, 64, 64), torch.tensor([0, 1, 2, 0])
    training.train()
    losses = []
    for _ in range(8):
        loss = training(images, labels)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert min(losses[-3:]) < losses[0]


def test_timms_script_trains_our_model(image_folder: Path, tmp_path: Path) -> None:
    script = os.environ.get("NASNET_DET_TIMM_TRAIN")
    if not script:
        pytest.skip("NASNET_DET_TIMM_TRAIN names no copy of timm's train.py, which its package does not carry")
    # The script passes the two rates itself, from options of its own: among --model-kwargs they would come twice. Older
    # versions of it have no --device; a --config file sets the device there too.
    cell = {key: value for key, value in CELL.items() if key not in ("drop_rate", "drop_path_rate")}
    network = ["--model", "nasnet", "--drop", str(CELL["drop_rate"]), "--drop-path", str(CELL["drop_path_rate"])]
    network += ["--model-kwargs", *(f"{key}={value}" for key, value in cell.items())]
    config = tmp_path / "config.yaml"
    config.write_text("device: cpu\n")
    data = ["--data-dir", str(image_folder), "--num-classes", "3", "--img-size", "64", "-b", "8", "--workers", "1"]
    where = ["--output", str(tmp_path), "--config", str(config), "--epochs", "1", "--warmup-epochs", "0"]
    command = [sys.executable, "-c", REGISTERED, script, *network, *data, *where]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.rglob("last.pth.tar"))
