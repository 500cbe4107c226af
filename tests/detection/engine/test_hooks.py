"""Hooks of a training: statistics, threads, averages, validation and early stopping."""

from __future__ import annotations

import csv
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("detectron2")

from detectron2.utils.events import EventStorage

from nasnet_det.detection.engine import hooks
from nasnet_det.detection.engine.hooks import AverageWeights, ChooseThreads, FixStatistics, Validate


def test_statistics_are_fixed_from_a_step_on() -> None:
    norm = torch.nn.BatchNorm2d(2)
    hook = FixStatistics(steps=12)
    hook.trainer = SimpleNamespace(model=torch.nn.Sequential(norm), iter=4)
    hook.before_step()
    norm(torch.randn(3, 2, 4, 4))
    before = norm.running_mean.clone()
    assert before.abs().sum() > 0
    hook.trainer.iter = 5
    hook.before_step()
    norm(torch.randn(3, 2, 4, 4))
    assert torch.equal(norm.running_mean, before)


@pytest.mark.parametrize(("slow", "fast"), [(4, 1), (1, 4)])
def test_the_faster_number_of_threads_is_kept(monkeypatch: pytest.MonkeyPatch, slow: int, fast: int) -> None:
    clock, threads = [0.0], [4]
    monkeypatch.setattr(hooks.time, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads[0])
    monkeypatch.setattr(torch, "set_num_threads", lambda number: threads.__setitem__(0, number))
    hook = ChooseThreads()
    hook.trainer = SimpleNamespace(start_iter=10, iter=10)
    hook.before_train()
    for step in range(10, 20):
        hook.trainer.iter = step
        hook.before_step()
        clock[0] += {slow: 3.0, fast: 1.0}[threads[0]]
        hook.after_step()
    assert threads[0] == fast


def run(hook: Any, steps: int, trainer: Any) -> None:
    """Let a hook see a training of some steps, each of which raises the one weight by 1."""
    hook.trainer = trainer
    for trainer.iter in range(steps):
        trainer.model.weight.data += 1
        with EventStorage(trainer.iter) as trainer.storage:
            trainer.storage.put_scalar("total_loss", 1.0)
            hook.after_step()
        if trainer.finished:
            return


def one_weight() -> torch.nn.Linear:
    model = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.zeros_(model.weight)
    return model


def test_an_average_is_applied_and_taken_off_exactly() -> None:
    model = one_weight()
    average = AverageWeights(model, 0.5)
    run(average, 3, SimpleNamespace(model=model, finished=False))
    expected = 0.0
    for step in range(3):
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * (step + 1)
    with average.applied():
        assert model.weight.item() == pytest.approx(expected)
    assert model.weight.item() == 3
    again = AverageWeights(one_weight(), 0.5)
    again.load_state_dict(average.state_dict())
    assert again.average["weight"].item() == pytest.approx(expected)


def test_the_best_is_kept_and_training_ends_when_nothing_is_better(tmp_path: Path) -> None:
    """Until something is found the validation loss decides; then the AP does."""
    aps, losses = iter([0.0, 0.0, 30.0, 50.0, 40.0, 50.01, 45.0, 99.0]), iter([3.0, 2.0, 4.0, 1.0, 1.0, 1.0, 1.0, 1.0])
    model, kept = one_weight(), []
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    trainer = SimpleNamespace(model=model, finished=False, max_iter=16, optimizer=optimizer)
    validate = Validate(
        2, 3, AverageWeights(model, 0.9), lambda: {"AP": next(aps), "AP50": 0.0, "AP-cat": 1.0}, lambda: next(losses),
        lambda scores: kept.append(scores["AP"]), tmp_path,
    )  # fmt: skip
    run(validate, 16, trainer)
    assert kept == [0.0, 0.0, 30.0, 50.0]
    assert trainer.iter == 13 and validate.state["best_step"] == 8
    with (tmp_path / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows] == ["2", "4", "6", "8", "10", "12", "14"]
    assert {row["train_loss"] for row in rows} == {"1.0"} and "AP-cat" not in rows[0]


def test_the_validation_loss_is_of_images_as_they_are_evaluated(small_config: Any, tmp_path: Path) -> None:
    """Unturned where they are annotated so, in 8 bits, and without those that cannot be read."""
    seen: list[torch.Tensor] = []

    class Model(torch.nn.Module):
        def forward(self, batch: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
            seen.append(batch[0]["image"])
            return {"loss": torch.tensor(float(len(seen)))}

    turned = Image.Exif()
    turned[0x0112] = 6
    pixels = np.arange(64 * 96, dtype=np.uint16).reshape(64, 96)
    Image.fromarray(pixels).save(tmp_path / "deep.png")
    Image.new("RGB", (96, 64)).save(tmp_path / "turned.png", exif=turned)
    (tmp_path / "cut.png").write_bytes((tmp_path / "deep.png").read_bytes()[:200])
    box = {"bbox": [8, 8, 20, 20], "bbox_mode": 1, "category_id": 0, "iscrowd": 0}
    size = {"width": 96, "height": 64, "annotations": [box], "turn": False}
    records = [{"file_name": str(tmp_path / f"{name}.png"), **size} for name in ("turned", "cut", "deep")]
    cfg = small_config("fpn_mobile.yaml", INPUT__MIN_SIZE_TEST=64)
    assert hooks.validation_loss(Model(), cfg, records) == 1.5
    assert [image.shape[1:] for image in seen] == [(64, 96)] * 2
    assert seen[1].min() == 0 and seen[1].max() == 255 and seen[1].unique().numel() > 200
