"""Checkpoints of runs: restored, or refused with an error that names the file; no code is run."""

from __future__ import annotations

import io
import json
import pickle
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nasnet_det.training.engine import Diverged, Trainer
from nasnet_det.training.execution import Execution
from nasnet_det.training.recipe import Recipe
from nasnet_det.training.run import RunError, fit
from nasnet_det.training.run_folder import TrainingFolder
from tests.fuzz.conftest import Fuzz
from tests.fuzz.engine import Case
from tests.fuzz.mutate import ODD, spoil_bytes, spoil_value
from tests.fuzz.tensors import as_arrays, hostile_object, ordered, ran, spoil_tensors

SETTINGS = {"title": "fuzz"}


class Noise:
    """Data of two batches per epoch, images of 8 x 8."""

    num_classes, input_size, steps_per_epoch = 5, (3, 8, 8), 2

    def training(self, epoch: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        for number in range(start, self.steps_per_epoch):
            yield torch.full((4, 3, 8, 8), 0.1 * number + epoch), torch.tensor([0, 1, 2, 3])

    def validating(self) -> Iterator[tuple[Tensor, Tensor]]:
        yield from self.training(0)


def trainer(optimizer: str) -> Trainer:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(72, 5))
    options = {"momentum": 0.9} if optimizer == "momentum" else {}
    recipe = Recipe("fuzz", "cifar", 3, 4, 0.01, optimizer=optimizer, optimizer_options=options, ema_decay=0.9)
    return Trainer(network, recipe, Noise.steps_per_epoch, 5, Execution(torch.device("cpu")))


def saved_run(folder: Path, optimizer: str) -> Path:
    """Return the checkpoint that a run of three epochs writes after its first."""
    keeper = TrainingFolder(folder, SETTINGS, tensorboard=False)
    fit(trainer(optimizer), Noise(), 0, keeper, enough=lambda report: True)
    return keeper.checkpoint


@pytest.mark.parametrize("optimizer", ["momentum", "adamw"])
def test_training_checkpoint(optimizer: str, fuzz: Fuzz, tmp_path_factory: pytest.TempPathFactory) -> None:
    data = saved_run(tmp_path_factory.mktemp("run") / "run", optimizer).read_bytes()
    whole = torch.load(io.BytesIO(data), weights_only=True)

    def attempt(case: Case) -> None:
        keeper = TrainingFolder(case.folder / "run", SETTINGS, tensorboard=False)
        (case.folder / "run").mkdir()
        if case.random.random() < 0.4:
            keeper.checkpoint.write_bytes(spoil_bytes(data, case))
        else:
            torch.save(spoil_state(whole, case), keeper.checkpoint)
        with (
            case.allows(
                RunError, naming=keeper.checkpoint, making=("run/run.json", "run/checkpoint.pt", "run/metrics.csv")
            ),
            suppress(Diverged),  # the numbers of a valid checkpoint may be wrong
        ):
            fit(trainer(optimizer), Noise(), 0, keeper)
        assert not ran(case)

    fuzz(attempt, share=0.5)


def spoil_state(whole: dict[str, Any], case: Case) -> Any:
    """Return a training state with its tensors or its plain values spoiled."""
    state, kind = dict(whole), case.random.randrange(5)
    if case.pristine or kind == 1:
        return spoil_tensors(state, case)
    if kind == 0:
        part = case.random.choice(("model", "average"))
        return {**state, part: spoil_tensors(state[part], case)}
    if kind == 4:
        moments = state["optimizer"]["state"]
        number = case.random.choice(list(moments))
        moments = {**moments, number: spoil_tensors(moments[number], case)}
        return {**state, "optimizer": {**state["optimizer"], "state": moments}}
    return spoil_value(state, case, (torch.ones(3), torch.ones(2, 3, 3, 3), torch.tensor(5)))


def test_run_description(fuzz: Fuzz) -> None:
    """``run.json`` of a run that is continued."""
    settings = {"title": "fuzz", "recipe": {"epochs": 3, "mix": {}}, "model": {"arguments": {"a": [1, 2]}}}

    def attempt(case: Case) -> None:
        described = {"format": "nasnet_det.training_run", **settings}
        path = case.folder / "run.json"
        path.write_bytes(spoil_bytes(json.dumps(spoil_value(described, case)).encode(errors="replace"), case, 1))
        with case.allows(RunError, naming=case.folder):
            TrainingFolder(case.folder, settings)

    fuzz(attempt)


@pytest.mark.parametrize("ending", ["pth", "pkl", "pyth"])
def test_detector_checkpoint(ending: str, fuzz: Fuzz) -> None:
    """Files for MODEL.WEIGHTS in this project's and detectron2's formats, of tensors and of arrays."""
    pytest.importorskip("detectron2")
    from nasnet_det.detection.convert.identity import CheckpointError
    from nasnet_det.detection.engine.checkpointer import Checkpointer
    from nasnet_det.detection.modeling.backbone import build_network

    torch.manual_seed(0)
    network = build_network("nasnet_a_mobile", "darts_v2", 1, 4, 4, norm="BN")
    model = nn.ModuleDict({"network": network, "head": nn.Linear(4, 2)})
    tensors = {name: value.clone() for name, value in model.state_dict().items()}
    key = "model_state" if ending == "pyth" else "model"

    def content(case: Case) -> bytes:
        state = spoil_tensors(tensors, case)
        saved: Any = {key: state, "__author__": "nasnet_det", "iteration": 5}
        if not case.pristine and case.random.random() < 0.3:
            saved = case.random.choice((ordered(state, case), spoil_tensors(saved, case), hostile_object(case)))
        if ending != "pkl":
            buffer = io.BytesIO()
            torch.save(saved, buffer)
            return buffer.getvalue()
        return pickle.dumps(as_arrays(saved), protocol=case.random.choice((2, 4)))

    def attempt(case: Case) -> None:
        path = case.folder / f"weights.{ending}"
        path.write_bytes(spoil_bytes(content(case), case) if case.random.random() < 0.4 else content(case))
        with case.allows(CheckpointError, naming=path):
            Checkpointer(model).load(str(path))
        assert not ran(case)
        model.load_state_dict(tensors)

    fuzz(attempt, share=0.4)


def test_last_checkpoint(fuzz: Fuzz) -> None:
    """The file that names the checkpoint from which a run is resumed."""
    pytest.importorskip("detectron2")
    from nasnet_det.detection.convert.identity import CheckpointError
    from nasnet_det.detection.engine.checkpointer import Checkpointer

    model = nn.Linear(2, 2)

    def attempt(case: Case) -> None:
        Checkpointer(model, str(case.folder)).save("model_final")
        noted, odd = case.folder / "last_checkpoint", str(case.random.choice(ODD)).encode("utf-8", "surrogatepass")
        replaced = not case.pristine and case.random.random() < 0.5
        noted.write_bytes(odd if replaced else spoil_bytes(noted.read_bytes(), case))
        with case.allows(CheckpointError, naming=case.folder):
            Checkpointer(model, str(case.folder)).resume_or_load("", resume=True)

    fuzz(attempt)
