"""A run that was stopped, was killed or met a full disk continues as if undisturbed."""

from __future__ import annotations

import csv
import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch

from nasnet_det.training.data.cifar10 import load_cifar10
from nasnet_det.training.data.cifar_batches import CifarAugmentation, CifarBatches
from nasnet_det.training.engine import Diverged
from nasnet_det.training.execution import choose_execution
from nasnet_det.training.models import ModelChoice
from nasnet_det.training.recipe import Recipe, load_recipe
from nasnet_det.training.run import EpochReport, Stopped, fit
from nasnet_det.training.run_folder import RunError, TrainingFolder
from nasnet_det.training.session import Session
from tests.helpers import ONE_BLOCK

CPU = choose_execution("cpu")
#: Everything that a step can depend on is on: drop path, dropout, auxiliary head, moving average, cutout, mixing.
RECIPE = load_recipe("cifar_paper").with_settings(
    ["epochs=2", "batch_size=20", "ema_decay=0.9", "drop_rate=0.2", "augmentation.cutout=8", "mix.mixup_alpha=0.2"]
)
MODEL = ModelChoice.of_genotype(ONE_BLOCK, num_cells=1, num_filters=4, stem="cifar")


def _session(folder: Path, recipe: Recipe = RECIPE) -> Session:
    return Session(folder, MODEL, recipe, CPU, 0, {"input_size": (3, 32, 32)}, {"data": "made"})


@pytest.fixture(scope="module")
def data(cifar_like: Path) -> CifarBatches:
    images = load_cifar10(cifar_like, official=False)
    augmentation = CifarAugmentation.from_mapping(RECIPE.augmentation)
    return CifarBatches(images, None, None, RECIPE.batch_size, augmentation, CPU.device, seed=0)


@pytest.fixture(scope="module")
def undisturbed(data: CifarBatches, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "undisturbed"
    _session(folder).run(data, lambda line: None)
    return folder


def _same(first: Any, second: Any) -> bool:
    """Equal to the last bit, however deep."""
    if isinstance(first, torch.Tensor):
        return torch.equal(first, second)
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(_same(first[key], second[key]) for key in first)
    if isinstance(first, (list, tuple)):
        return len(first) == len(second) and all(map(_same, first, second))
    return first == second


def _state(folder: Path) -> dict[str, Any]:
    state = torch.load(folder / "checkpoint.pt", weights_only=True)
    for row in state["history"]:  # what the clock says differs
        del row["seconds"], row["images_per_second"]
    return state


class Killed(BaseException):
    """An exception that no handler catches."""


def _fit(session: Session, data: CifarBatches, **options: Any) -> None:
    keeper = TrainingFolder(session.folder, session.settings())
    fit(session.trainer(data), data, 0, keeper, **options)


def _after(steps: int) -> Callable[[], bool]:
    """True at the question that follows so many steps."""
    asked = iter(range(1000))
    return lambda: next(asked) + 1 >= steps


@pytest.mark.parametrize("steps", [2, 5, 7])
def test_stopped_and_resumed_equals_undisturbed(
    data: CifarBatches, undisturbed: Path, tmp_path: Path, steps: int
) -> None:
    session = _session(tmp_path / "run")
    with pytest.raises(Stopped, match=f"after step {steps} of 10"):
        _fit(session, data, should_stop=_after(steps))
    assert _state(session.folder)["step"] == steps
    session.run(data, lambda line: None)
    assert _same(_state(session.folder), _state(undisturbed))
    saved = [(folder / "model" / "model.safetensors").read_bytes() for folder in (session.folder, undisturbed)]
    assert saved[0] == saved[1]


def test_killed_before_the_first_checkpoint_begins_again(data: CifarBatches, undisturbed: Path, tmp_path: Path) -> None:
    session = _session(tmp_path / "run")
    keeper = TrainingFolder(session.folder, session.settings())
    with pytest.raises(Killed), mock.patch.object(keeper, "save", side_effect=Killed):
        fit(session.trainer(data), data, 0, keeper)
    session.run(data, lambda line: None)
    assert _same(_state(session.folder), _state(undisturbed))


def test_killed_goes_on_from_the_last_checkpoint(data: CifarBatches, undisturbed: Path, tmp_path: Path) -> None:
    def kill(step: int, loss: float | None) -> None:
        if step == 8:
            raise Killed

    session = _session(tmp_path / "run")
    with pytest.raises(Killed):
        _fit(session, data, tick=kill)
    assert _state(session.folder)["step"] == 5
    session.run(data, lambda line: None)
    assert _same(_state(session.folder), _state(undisturbed))


def test_checkpoints_within_an_epoch(data: CifarBatches, tmp_path: Path) -> None:
    session = _session(tmp_path / "run")
    steps: list[int] = []
    keeper = TrainingFolder(session.folder, session.settings())
    keeper.save = lambda state: steps.append(state["step"])  # type: ignore[method-assign]
    fit(session.trainer(data), data, 0, keeper, save_every_seconds=0.0)
    assert steps == list(range(1, 11))


def test_what_a_run_leaves(data: CifarBatches, undisturbed: Path) -> None:
    rows = list(csv.DictReader((undisturbed / "metrics.csv").open()))
    assert [row["epoch"] for row in rows] == ["1", "2"] and [row["step"] for row in rows] == ["5", "10"]
    assert list(rows[0]) == EpochReport.columns()
    assert (undisturbed / "run.png").read_bytes().startswith(b"\x89PNG")
    described = json.loads((undisturbed / "run.json").read_text())
    assert described["recipe"] == json.loads(json.dumps(RECIPE.to_dict())) and described["seed"] == 0


def test_tensorboard_shows_what_the_metrics_say(undisturbed: Path) -> None:
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    board = events.EventAccumulator(str(undisturbed / "tensorboard"))
    board.Reload()
    rows = csv.DictReader((undisturbed / "metrics.csv").open())
    assert [event.value for event in board.Scalars("top1")] == pytest.approx([float(row["top1"]) for row in rows])


def test_a_finished_run_is_not_trained_again(data: CifarBatches, undisturbed: Path) -> None:
    before = (undisturbed / "checkpoint.pt").read_bytes()
    history = _session(undisturbed).run(data, lambda line: None)
    assert len(history) == 2 and (undisturbed / "checkpoint.pt").read_bytes() == before


def test_a_diverged_loss_keeps_the_state_before(data: CifarBatches, tmp_path: Path) -> None:
    session = _session(tmp_path / "run")
    trainer = session.trainer(data)

    def spoil(report: EpochReport) -> None:
        with torch.no_grad():
            next(trainer.model.parameters()).fill_(float("nan"))

    keeper = TrainingFolder(session.folder, session.settings())
    with pytest.raises(Diverged, match=r"nan.*step 10.*epoch 2"):
        fit(trainer, data, 0, keeper, report=spoil)
    state = _state(session.folder)
    assert state["step"] == 5 and all(torch.isfinite(value).all() for value in state["model"].values())


def test_a_full_disk_leaves_the_last_checkpoint(
    data: CifarBatches, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = _session(tmp_path / "run")
    write, written = Path.write_bytes, []

    def write_once(path: Path, content: bytes) -> int:
        if written:
            write(path, bytes(content)[:100])
            raise OSError(28, "No space left on device", str(path))
        written.append(path)
        return write(path, content)

    monkeypatch.setattr(Path, "write_bytes", write_once)
    with pytest.raises(OSError, match="No space left"):
        _fit(session, data)
    monkeypatch.undo()
    assert _state(session.folder)["step"] == 5
    assert not [path for path in session.folder.iterdir() if path.suffix == ".part"]
    session.run(data, lambda line: None)
    assert _same(_state(session.folder), _state(undisturbed))


def test_another_runs_folder_is_refused(data: CifarBatches, undisturbed: Path, tmp_path: Path) -> None:
    other = _session(undisturbed, RECIPE.with_settings(["learning_rate=0.5"]))
    with pytest.raises(RunError, match=r"recipe\.learning_rate.*0\.025.*0\.5"):
        other.run(data, lambda line: None)
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "a.txt").write_text("dear")
    with pytest.raises(RunError, match=r"run\.json"):
        _session(tmp_path / "letters").run(data, lambda line: None)


def test_a_run_from_before_a_recipe_setting_existed_resumes(
    data: CifarBatches, undisturbed: Path, tmp_path: Path
) -> None:
    shutil.copytree(undisturbed, tmp_path / "run")
    path = tmp_path / "run" / "run.json"
    described = json.loads(path.read_text())
    del described["recipe"]["label_smoothing"], described["recipe"]["bn_momentum"]
    path.write_text(json.dumps(described))
    assert len(_session(tmp_path / "run").run(data, lambda line: None)) == 2
    with pytest.raises(RunError, match=r"recipe\.label_smoothing"):
        _session(tmp_path / "run", RECIPE.with_settings(["label_smoothing=0.1"])).run(data, lambda line: None)


def test_a_damaged_checkpoint_is_named(data: CifarBatches, tmp_path: Path) -> None:
    session = _session(tmp_path / "run")
    TrainingFolder(session.folder, session.settings()).save({})
    (session.folder / "checkpoint.pt").write_bytes(b"half a file")
    with pytest.raises(RunError, match=r"checkpoint\.pt"):
        session.run(data, lambda line: None)


def test_a_run_that_could_not_start_leaves_nothing(
    data: CifarBatches, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = _session(tmp_path / "run")
    monkeypatch.setattr(Session, "trainer", lambda *given: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        session.run(data, lambda line: None)
    assert not session.folder.exists()
    session.folder.write_text("a file in place of the folder")
    with pytest.raises(RunError, match="run"):
        session.run(data, lambda line: None)


def test_epochs_fitted_to_a_time(data: CifarBatches, undisturbed: Path, tmp_path: Path) -> None:
    long, short = (_session(tmp_path / "new").epochs_in(seconds, data).epochs for seconds in (1000.0, 1e-6))
    assert long > short == 1
    # A run already begun keeps its number, or resuming would fail.
    assert _session(undisturbed).epochs_in(1000.0, data).epochs == 2


def test_a_zero_classifier_starts_at_the_loss_of_guessing(data: CifarBatches, tmp_path: Path) -> None:
    recipe = RECIPE.with_settings(["zero_classifier=true", "drop_rate=0"])
    loss = _session(tmp_path, recipe).trainer(data).step(*next(data.training(0)))
    assert loss.item() == pytest.approx((1 + recipe.aux_weight) * math.log(data.num_classes), rel=1e-6)


def test_a_checkpoint_of_another_run_is_named(data: CifarBatches, tmp_path: Path) -> None:
    class Other:
        checkpoint = tmp_path / "checkpoint.pt"

        def __init__(self, state: Any) -> None:
            self.state = state

        def load(self) -> Any:
            return self.state

    for state in ({}, {"step": -1}, {"step": 0, "model": {}}, [], {"step": 10**9}):
        with pytest.raises(RunError, match=r"checkpoint\.pt"):
            fit(_session(tmp_path).trainer(data), data, 0, Other(state))
