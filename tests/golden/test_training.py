"""Training steps against those of TF-slim and of the TF Object Detection API."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nasnet_det.golden.comparison import Comparison, GoldenError, read_meta
from nasnet_det.golden.training import compare_training


def results_of(folder: Path) -> dict[str, Comparison]:
    return {result.name: result for result in compare_training(folder, read_meta(folder))}


def copy_of(folder: Path, target: Path, meta: dict[str, Any] | None = None, **outputs: np.ndarray) -> Path:
    """The folder with other entries in its metadata and other outputs."""
    for file in folder.iterdir():
        if file.name not in ("meta.json", "outputs.npz"):
            (target / file.name).symlink_to(file)
    np.savez(target / "outputs.npz", **{**np.load(folder / "outputs.npz"), **outputs})
    (target / "meta.json").write_text(json.dumps({**read_meta(folder), **(meta or {})}))
    return target


@pytest.mark.parametrize("name", ["train_cifar_thin", "train_mobile_thin"])
def test_steps_are_those_of_tf_slim(name: str, golden: Path) -> None:
    pytest.importorskip("tensorflow")
    found = results_of(golden / name)
    lines = {"loss_main", "loss_aux_weighted", "loss_l2", "gradient", "weights", "running mean", "running variance"}
    assert found.keys() == lines | ({"moving average"} if "mobile" in name else set())
    assert all(result.passed for result in found.values()), found
    # Far closer than asked: nothing but float64's rounding is left.
    assert max(found[name].error for name in ("loss_main", "loss_aux_weighted", "loss_l2", "gradient")) < 1e-11


def test_other_outputs_are_beyond_their_bounds(golden: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorflow")
    folder = golden / "train_cifar_thin"
    stored = np.load(folder / "outputs.npz")
    changed = {
        "loss_main": stored["loss_main"] * (1 + 1e-8),
        "grad/cell_0/1x1/weights": stored["grad/cell_0/1x1/weights"] * 1.01,
        "after/cell_0/beginning_bn/moving_mean": stored["after/cell_0/beginning_bn/moving_mean"] + 0.01,
    }
    found = results_of(copy_of(folder, tmp_path, **changed))
    assert {name for name, result in found.items() if not result.passed} == {"loss_main", "gradient", "running mean"}


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"optimizer": "adagrad"}, "adagrad"),
        ({"hparams": {"drop_path_keep_prob": 0.5}}, "drop_path_keep_prob"),
        ({"batch": None}, "batch"),
    ],
)
def test_training_that_cannot_be_compared(change: dict[str, Any], named: str, golden: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorflow")
    folder = golden / "train_cifar_thin"
    if "hparams" in change:
        change = {"hparams": {**read_meta(folder)["hparams"], **change["hparams"]}}
    with pytest.raises(GoldenError, match=named):
        results_of(copy_of(folder, tmp_path, change))


def test_detector_step_is_that_of_the_object_detection_api(golden: Path) -> None:
    pytest.importorskip("tensorflow")
    pytest.importorskip("detectron2")
    from nasnet_det.golden.detector_training import GRADIENT_BOUNDS, compare_detector_training

    folder = golden / "tfod_train_400"
    found = {result.name: result for result in compare_detector_training(folder, read_meta(folder))}
    assert found.keys() == {"loss_rpn_loc", "loss_rpn_cls", "loss_box_reg", "loss_cls", *GRADIENT_BOUNDS}
    assert all(result.passed for result in found.values()), found
    assert "1026" in found["all variables"].note
