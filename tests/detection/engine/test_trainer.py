"""Training that is stopped and resumed does what an unbroken run does, and one that cannot work says why."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("detectron2")

from nasnet_det.detection.config import ConfigError
from nasnet_det.detection.engine.trainer import (
    DetectorTrainer,
    ShortTrainer,
    TrainingError,
    check_solver,
    folder_name,
)
from nasnet_det.weights import WeightsError
from tests.helpers import assert_same


class Killed(BaseException):
    """Raised to simulate a killed process."""


def config(small_config: Any, dataset: str, output: Path, **more: Any) -> Any:
    return small_config(
        "nasnet_frcnn_mobile_600.yaml",
        DATASETS__TRAIN=(dataset,),
        DATASETS__TEST=(),
        OUTPUT_DIR=str(output),
        MODEL__NASNET__LABEL_IDS=[],
        MODEL__ROI_HEADS__NUM_CLASSES=2,
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
    trainer = DetectorTrainer(cfg)
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
    assert_same(resumed["model"], unbroken["model"])
    rates = [run["trainer"]["_trainer"]["optimizer"]["param_groups"][0]["lr"] for run in (unbroken, resumed)]
    assert rates[0] == rates[1] == pytest.approx(3e-5)


def test_a_resumed_run_needs_no_other_weights_than_its_own(small_config: Any, tiny_coco: str, tmp_path: Path) -> None:
    first = train(config(small_config, tiny_coco, tmp_path / "run"), resume=False)
    cfg = config(small_config, tiny_coco, tmp_path / "run", MODEL__NASNET__PRETRAINED=str(tmp_path / "absent.pt"))
    with pytest.raises(WeightsError, match=r"absent\.pt"):
        DetectorTrainer(cfg)
    trainer = DetectorTrainer(cfg, resume=True)
    trainer.resume_or_load(resume=True)
    assert_same(trainer.model.state_dict(), first["model"])


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"SOLVER__AMP__ENABLED": True}, "SOLVER.AMP.ENABLED"),
        ({"SOLVER__REFERENCE_WORLD_SIZE": 8, "SOLVER__IMS_PER_BATCH": 12}, "REFERENCE_WORLD_SIZE"),
        ({"SOLVER__REFERENCE_WORLD_SIZE": -1}, "REFERENCE_WORLD_SIZE"),
        ({"SOLVER__IMS_PER_BATCH": 0}, "SOLVER.IMS_PER_BATCH"),
        ({"SOLVER__MAX_ITER": 0}, "SOLVER.MAX_ITER"),
        ({"SOLVER__BASE_LR": float("inf")}, "SOLVER.BASE_LR"),
        ({"SOLVER__CHECKPOINT_PERIOD": 0}, "SOLVER.CHECKPOINT_PERIOD"),
    ],
)
def test_a_solver_that_cannot_work_is_refused(small_config: Any, changes: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        DetectorTrainer.check(small_config("fpn_mobile.yaml", **changes))


@pytest.mark.parametrize(("key", "value"), [("EVAL_PERIOD", 0), ("EVAL_PERIOD", -3), ("PRECISE_BN__ENABLED", True)])
def test_a_short_training_evaluates_and_has_no_other_hooks(small_config: Any, key: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=rf"TEST\.{key.partition('__')[0]}"):
        ShortTrainer.check(small_config("fpn_mobile.yaml", **{f"TEST__{key}": value}))


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"LR_SCHEDULER_NAME": "WarmupStepWithFixedGammaLR", "WARMUP_ITERS": 1}, r"step 9 of 9"),
        ({"LR_SCHEDULER_NAME": "WarmupStepWithFixedGammaLR"}, r"step 0 of 9"),
        ({"LR_SCHEDULER_NAME": "WarmupCosineLR", "BASE_LR": 0.0}, "ZeroDivisionError"),
        ({"LR_SCHEDULER_NAME": "Cosine"}, "LR_SCHEDULER_NAME Cosine"),
        ({"STEPS": [5, 3]}, "STEPS"),
        ({"STEPS": [5], "GAMMA": -1.0, "WARMUP_ITERS": 1}, "step 5 of 9"),
    ],
)
def test_a_schedule_without_a_rate_for_every_step_is_refused(
    small_config: Any, changes: dict[str, Any], named: str
) -> None:
    cfg = small_config("fpn_mobile.yaml", SOLVER__MAX_ITER=9, **{f"SOLVER__{key}": changes[key] for key in changes})
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=cfg.SOLVER.BASE_LR)
    with pytest.raises(ConfigError, match=named):
        DetectorTrainer.build_lr_scheduler(cfg, optimizer)


def test_processes_that_have_not_joined_do_not_train_in_one_folder(
    small_config: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    check_solver(small_config("fpn_mobile.yaml"))
    monkeypatch.setenv("RANK", "1")
    with pytest.raises(ConfigError, match=r"WORLD_SIZE.*LOCAL_RANK"):
        check_solver(small_config("fpn_mobile.yaml"))


@pytest.mark.parametrize("name", ["../x", "/data/x", "a/b", "..", "C:\\x"])
def test_every_test_set_has_a_folder_below_that_of_its_run(name: str, tmp_path: Path) -> None:
    assert (tmp_path / folder_name(name)).resolve().parent == tmp_path.resolve()
    assert folder_name(name) != name
    assert folder_name("coco_2017_val v1.2") == "coco_2017_val v1.2"


def test_the_folder_of_a_test_set_of_a_long_name_can_be_made(tmp_path: Path) -> None:
    names = [folder_name(500 * letter + end) for letter in ("a", "\u00e4", "/") for end in ("1", "2")]
    for name in names:
        (tmp_path / name).mkdir()


def test_results_that_could_not_be_written_are_told_before(small_config: Any, tiny_coco: str, tmp_path: Path) -> None:
    cfg = config(small_config, tiny_coco, tmp_path)
    cfg.DATASETS.TEST = (tiny_coco,)
    (tmp_path / "inference").touch()
    with pytest.raises(NotADirectoryError, match="inference"):
        DetectorTrainer(cfg)


def test_a_diverged_loss_names_the_step_and_a_remedy(small_config: Any, tiny_coco: str, tmp_path: Path) -> None:
    cfg = config(small_config, tiny_coco, tmp_path / "run", SOLVER__BASE_LR=1e30, SOLVER__CLIP_GRADIENTS__ENABLED=False)
    with pytest.raises(TrainingError, match=r"step \d: .*SOLVER\.BASE_LR \(now 1e\+30\)"):
        train(cfg, resume=False)


def test_what_ends_a_training_is_not_hidden_by_what_follows(
    small_config: Any, tiny_coco: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(name: str) -> Any:
        def fail(*_: Any, **__: Any) -> None:
            raise OSError(28, "No space left on device", name)

        return fail

    trainer = DetectorTrainer(config(small_config, tiny_coco, tmp_path / "run"))
    monkeypatch.setattr(trainer, "after_step", full("checkpoint"))
    monkeypatch.setattr(trainer, "after_train", full("log"))
    with pytest.raises(OSError, match="checkpoint"):
        trainer.train()


def test_a_signal_leaves_a_checkpoint_of_the_step(small_config: Any, tiny_coco: str, tmp_path: Path) -> None:
    trainer = DetectorTrainer(config(small_config, tiny_coco, tmp_path / "run"))
    step = trainer.run_step

    def run_step() -> None:
        step()
        if trainer.iter == 2:
            signal.raise_signal(signal.SIGTERM)

    trainer.run_step = run_step  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt, match="step 3"):
        trainer.train()
    assert (tmp_path / "run" / "last_checkpoint").read_text() == "model_0000002.pth"
