"""Training that is stopped and resumed does what an unbroken run does; checkpoints are whole."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("detectron2")

from nasnet_det.detection.convert.identity import CheckpointError
from nasnet_det.detection.engine.trainer import Checkpointer, Trainer


class Killed(BaseException):
    """What stands for a killed process."""


def config(small_config: Any, dataset: str, output: Path, **more: Any) -> Any:
    return small_config(
        "nasnet_frcnn_mobile_600.yaml",
        DATASETS__TRAIN=(dataset,),
        DATASETS__TEST=(),
        OUTPUT_DIR=str(output),
        MODEL__NASNET__LABEL_IDS=[],
        MODEL__NASNET__DROP_PATH_RATE=0.3,
        MODEL__NASNET__DROP_PATH_STEPS=6,
        MODEL__NASNET__IMAGE_SIZE=[64, 64],
        MODEL__ANCHOR_GENERATOR__SIZES=[[16, 32]],
        SOLVER__MAX_ITER=6,
        SOLVER__STEPS=[4],
        SOLVER__CHECKPOINT_PERIOD=2,
        **more,
    )


def train(cfg: Any, resume: bool, killed_at: int | None = None) -> dict[str, torch.Tensor]:
    torch.manual_seed(cfg.SEED)  # as detectron2's default_setup does, for the initial weights
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=resume)
    step = trainer.run_step

    def run_step() -> None:
        if trainer.iter == killed_at:
            raise Killed
        step()

    trainer.run_step = run_step  # type: ignore[method-assign]
    trainer.train()
    return torch.load(Path(cfg.OUTPUT_DIR) / "model_final.pth", weights_only=True)


def test_a_killed_run_resumed_is_the_unbroken_run(small_config: Any, tiny_coco: str, tmp_path: Path) -> None:
    unbroken = train(config(small_config, tiny_coco, tmp_path / "unbroken"), resume=False)
    broken = config(small_config, tiny_coco, tmp_path / "broken")
    with pytest.raises(Killed):
        train(broken, resume=False, killed_at=5)
    # The seed of the order comes from the checkpoint, not from the config.
    resumed = train(config(small_config, tiny_coco, tmp_path / "broken", SEED=99), resume=True)
    assert unbroken["trainer"]["iteration"] == resumed["trainer"]["iteration"] == 5
    for name, value in unbroken["model"].items():
        assert torch.equal(value, resumed["model"][name]), name
    rates = [run["trainer"]["_trainer"]["optimizer"]["param_groups"][0]["lr"] for run in (unbroken, resumed)]
    assert rates[0] == rates[1] == pytest.approx(3e-5)


def test_a_checkpoint_is_replaced_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = torch.nn.Linear(2, 2)
    checkpointer = Checkpointer(model, str(tmp_path))
    checkpointer.save("model_final")
    before = (tmp_path / "model_final.pth").read_bytes()

    def half(data: Any, file: Any) -> None:
        Path(file).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", half)
    with pytest.raises(OSError, match="No space"):
        checkpointer.save("model_final")
    assert (tmp_path / "model_final.pth").read_bytes() == before
    assert {path.name for path in tmp_path.iterdir()} == {"model_final.pth", "last_checkpoint"}
    assert checkpointer.get_checkpoint_file() == str(tmp_path / "model_final.pth")


def test_checkpoints_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    checkpointer = Checkpointer(torch.nn.Linear(2, 2))
    with pytest.raises(CheckpointError, match=r"no checkpoint .*nowhere\.pth"):
        checkpointer.load(str(tmp_path / "nowhere.pth"))
    (tmp_path / "broken.pth").write_bytes(b"\x80not a checkpoint")
    with pytest.raises(CheckpointError, match=r"broken\.pth"):
        checkpointer.load(str(tmp_path / "broken.pth"))


def test_a_checkpoint_runs_no_code(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "ran",))

    torch.save({"model": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(CheckpointError, match=r"evil\.pth"):
        Checkpointer(torch.nn.Linear(2, 2)).load(str(tmp_path / "evil.pth"))
    assert not (tmp_path / "ran").exists()


def test_a_pickle_is_read_as_data(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "ran",))

    model = torch.nn.Linear(2, 2)
    path = tmp_path / "zoo.pkl"
    for content in (Evil(), {"model": {"weight": Evil()}, "__author__": "x"}):
        path.write_bytes(pickle.dumps(content))
        with pytest.raises(CheckpointError, match=r"zoo\.pkl .*nothing in it was executed"):
            Checkpointer(model).load(str(path))
    assert not (tmp_path / "ran").exists()

    state = {"weight": np.full((2, 2), 3.0, np.float32), "bias": np.zeros(2, np.float32)}
    for protocol in (2, 5):
        path.write_bytes(pickle.dumps({"model": state, "__author__": "x"}, protocol=protocol))
        Checkpointer(model).load(str(path))
        assert torch.equal(model.weight.data, torch.full((2, 2), 3.0))


def test_values_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    torch.save({"model": {"weight": torch.full((2, 2), float("nan"))}}, tmp_path / "diverged.pth")
    with pytest.raises(CheckpointError, match=r"diverged\.pth: 'weight' holds values that are not finite"):
        Checkpointer(torch.nn.Linear(2, 2)).load(str(tmp_path / "diverged.pth"))
