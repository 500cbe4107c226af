"""Checkpoints are whole, read as data, and fill the model that predicts or is resumed."""

from __future__ import annotations

import json
import logging
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

pytest.importorskip("detectron2")

from nasnet_det.detection.config import ConfigError
from nasnet_det.detection.convert.identity import CheckpointError
from nasnet_det.detection.engine.checkpointer import Checkpointer, build_for_inference, load_for_inference
from nasnet_det.detection.engine.predictor import load_config
from nasnet_det.detection.engine.run_folder import describe_records
from nasnet_det.detection.modeling.rcnn import build_detector
from tests.helpers import Hostile


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


@pytest.mark.parametrize("noted", [None, "", "model_0000009.pth"])
def test_a_run_killed_before_its_checkpoint_was_noted_has_its_newest(tmp_path: Path, noted: str | None) -> None:
    checkpointer = Checkpointer(nn.Linear(2, 2), str(tmp_path))
    assert not checkpointer.has_checkpoint()
    if noted is not None:
        (tmp_path / "last_checkpoint").write_text(noted)
        with pytest.raises(CheckpointError, match="last_checkpoint"):
            checkpointer.get_checkpoint_file()
    for name, newest in (("last", "last"), ("model_0000003", "model_0000003"), ("model_0000001", "model_0000003")):
        torch.save({"model": nn.Linear(2, 2).state_dict(), "iteration": name}, tmp_path / f"{name}.pth")
        (tmp_path / "model_mine.pth").write_text("a file of the user's")
        assert checkpointer.has_checkpoint()
        assert checkpointer.resume_or_load("", resume=True)["iteration"] == newest


@pytest.mark.parametrize("name", ["what?", "Run:1", "two\nlines"])
def test_a_path_is_no_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    checkpointer = Checkpointer(nn.Linear(2, 2), name)
    Path(name).mkdir()
    checkpointer.save("model_final")
    assert checkpointer.load(f"{name}/model_final.pth") == {}


def test_the_checkpoint_before_a_damaged_one_is_named(tmp_path: Path) -> None:
    checkpointer = Checkpointer(nn.Linear(2, 2), str(tmp_path))
    for name in ("model_0000001", "model_0000003", "model_final"):
        checkpointer.save(name)
    (tmp_path / "model_final.pth").write_bytes((tmp_path / "model_final.pth").read_bytes()[:500])
    with pytest.raises(CheckpointError, match=r"model_final\.pth.*model_0000003\.pth") as raised:
        checkpointer.resume_or_load("", resume=True)
    assert "PRETRAINED" not in str(raised.value)  # which is no remedy for a run
    for name in ("model_0000001.pth", "model_0000003.pth"):
        (tmp_path / name).unlink()
    with pytest.raises(CheckpointError, match=r"model_final\.pth.*new run"):
        checkpointer.resume_or_load("", resume=True)


def test_other_data_than_a_resumed_run_s_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    record: dict[str, Any] = {"file_name": "a/1.png", "annotations": [{"bbox": [1.0, 2.0, 3.0, 4.0], "category_id": 0}]}
    moved, more = {**record, "file_name": "b/1.png"}, {**record, "annotations": 2 * record["annotations"]}
    for records, told in (([record], False), ([moved], False), ([more], True)):
        checkpointer = Checkpointer(nn.Linear(2, 2), str(tmp_path))
        checkpointer.extras["data"] = describe_records(records)
        checkpointer.resume_or_load("", resume=True)
        checkpointer.save("last")
        assert ("1 images with 1 boxes, now 1 images with 2 boxes" in caplog.text) is told


def test_checkpoints_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    checkpointer = Checkpointer(torch.nn.Linear(2, 2))
    with pytest.raises(CheckpointError, match=r"nowhere\.pth"):
        checkpointer.load(str(tmp_path / "nowhere.pth"))
    (tmp_path / "broken.pth").write_bytes(b"\x80not a checkpoint")
    with pytest.raises(CheckpointError, match=r"broken\.pth"):
        checkpointer.load(str(tmp_path / "broken.pth"))


def test_a_checkpoint_runs_no_code(tmp_path: Path) -> None:
    torch.save({"model": Hostile(tmp_path / "ran")}, tmp_path / "evil.pth")
    with pytest.raises(CheckpointError, match=r"evil\.pth"):
        Checkpointer(torch.nn.Linear(2, 2)).load(str(tmp_path / "evil.pth"))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("prefix", ["detector.", "_model.", "net.", "backbone.", "module.detector."])
def test_a_prefix_is_removed_where_the_rest_are_the_model_s(prefix: str, tmp_path: Path) -> None:
    state = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)).state_dict()
    prefixed = {prefix + name: value for name, value in state.items() if not name.endswith("num_batches_tracked")}
    loss = "module.loss.weight" if prefix.startswith("module.") else "loss.weight"
    torch.save({"state_dict": {**prefixed, loss: torch.ones(2)}}, tmp_path / "a.ckpt")
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    load_for_inference(model, str(tmp_path / "a.ckpt"))
    assert torch.equal(model[0].weight, state["0.weight"])
    one, two = ({f"{member}.{name}": value for name, value in state.items()} for member in ("student", "teacher"))
    for others, named in (({**one, "student.2.weight": torch.ones(2)}, ""), (one | two, ".*student.*teacher")):
        torch.save({"state_dict": others}, tmp_path / "b.ckpt")
        with pytest.raises(CheckpointError, match=rf"b\.ckpt{named}"):
            load_for_inference(model, str(tmp_path / "b.ckpt"))


def test_a_pickle_is_read_as_data(tmp_path: Path) -> None:
    model, path, hostile = torch.nn.Linear(2, 2), tmp_path / "zoo.pkl", Hostile(tmp_path / "ran")
    for content in (hostile, {"model": {"weight": hostile}, "__author__": "x"}):
        path.write_bytes(pickle.dumps(content))
        with pytest.raises(CheckpointError, match=r"zoo\.pkl"):
            Checkpointer(model).load(str(path))
    assert not (tmp_path / "ran").exists()

    state = {"weight": np.full((2, 2), 3.0, np.float32), "bias": np.zeros(2, np.float32)}
    for protocol in (2, 5):
        path.write_bytes(pickle.dumps({"model": state, "__author__": "x"}, protocol=protocol))
        Checkpointer(model).load(str(path))
        assert torch.equal(model.weight.data, torch.full((2, 2), 3.0))


def test_values_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    torch.save({"model": {"weight": torch.full((2, 2), float("nan"))}}, tmp_path / "diverged.pth")
    with pytest.raises(CheckpointError, match=r"diverged\.pth: 'weight'"):
        Checkpointer(torch.nn.Linear(2, 2)).load(str(tmp_path / "diverged.pth"))


@pytest.mark.parametrize("value", [torch.ones(2, 2, dtype=torch.int8), torch.ones(2, 2).to_sparse(), 3, {"a": 1}])
def test_what_is_no_weight_is_refused_by_name(value: Any, tmp_path: Path) -> None:
    torch.save({"model": {"weight": value, "bias": torch.zeros(2)}}, tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match=r"other\.pth: '?weight\b"):
        Checkpointer(torch.nn.Linear(2, 2)).load(str(tmp_path / "other.pth"))


class Heads(nn.Module):
    """A detector's last layer, named as detectron2's."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.cls_score, self.bbox_pred = nn.Linear(3, classes + 1), nn.Linear(3, 4)


@pytest.mark.parametrize(
    "weights", [{"other.weight": torch.zeros(2)}, {"backbone.bottom_up.weight": torch.zeros(9, 9)}]
)
def test_a_checkpoint_that_leaves_the_backbone_random_is_refused(tmp_path: Path, weights: dict[str, Any]) -> None:
    model = nn.Module()
    model.backbone = nn.ModuleDict({"bottom_up": nn.Linear(3, 2), "fpn_output2": nn.Linear(2, 2)})
    model.head = nn.Linear(2, 1)
    heads = {"backbone.fpn_output2.weight": torch.ones(2, 2), "head.weight": torch.ones(1, 2)}
    torch.save({"model": {**heads, **weights}}, tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match=r"other\.pth: .*backbone"):
        Checkpointer(model).resume_or_load(str(tmp_path / "other.pth"), resume=False)
    torch.save({"model": {"backbone.bottom_up.weight": torch.ones(2, 3)}}, tmp_path / "own.pth")  # heads are new
    Checkpointer(model).resume_or_load(str(tmp_path / "own.pth"), resume=False)
    assert model.backbone.bottom_up.weight.eq(1).all()  # type: ignore[union-attr]


def test_a_detector_predicts_with_its_own_classes_only(tmp_path: Path) -> None:
    Checkpointer(Heads(80), str(tmp_path)).save("model")
    with pytest.raises(CheckpointError, match=r"model\.pth: .*80 classes.* 3:"):
        load_for_inference(Heads(3), str(tmp_path / "model.pth"))
    Checkpointer(Heads(3)).load(str(tmp_path / "model.pth"))  # a training may start from it


def test_layers_that_would_stay_random_are_named(tmp_path: Path) -> None:
    torch.save(nn.Sequential().state_dict() | {"cls_score.weight": torch.ones(4, 3)}, tmp_path / "part.pth")
    with pytest.raises(CheckpointError, match=r"part\.pth: .*cls_score\.bias.*bbox_pred"):
        load_for_inference(Heads(3), str(tmp_path / "part.pth"))


def test_a_detector_without_a_checkpoint_is_refused_before_pretrained_weights_are_read(
    small_config: Any, tmp_path: Path
) -> None:
    cfg = small_config("fpn_mobile.yaml", MODEL__NASNET__PRETRAINED=str(tmp_path / "absent.h5"))
    with pytest.raises(CheckpointError, match=r"MODEL\.WEIGHTS"):
        build_for_inference(cfg, "")
    Checkpointer(build_detector(small_config("fpn_mobile.yaml")), str(tmp_path)).save("model")
    assert not build_for_inference(cfg, str(tmp_path / "model.pth"))[0].training


def test_settings_of_another_meaning_than_in_training_are_told(
    small_config: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Settings that no weight's shape shows are told, and no others."""
    caplog.set_level(logging.ERROR, "fvcore")  # as commands do
    caplog.handler.setLevel(logging.NOTSET)
    cfg = small_config("fpn_mobile.yaml")
    checkpointer = Checkpointer(build_detector(cfg), str(tmp_path))
    checkpointer.extras["config"] = cfg.dump()
    checkpointer.save("model")
    for key, value in {
        "MODEL.ANCHOR_GENERATOR.SIZES": [[size] for size in (16, 32, 64, 128, 256)],
        "MODEL.PIXEL_STD": [1.0, 1.0, 1.0],
        "INPUT.FORMAT": "BGR",
        "MODEL.ROI_HEADS.SCORE_THRESH_TEST": 0.3,
    }.items():
        other = cfg.clone()
        other.merge_from_list([key, value])
        caplog.clear()
        build_for_inference(other, str(tmp_path / "model.pth"))
        assert (key in caplog.text) == (key != "MODEL.ROI_HEADS.SCORE_THRESH_TEST")
    caplog.clear()
    build_for_inference(cfg, str(tmp_path / "model.pth"))
    ours = [record for record in caplog.records if record.name.startswith("nasnet_det")]  # others are of its reading
    assert not [record for record in ours if record.levelno >= logging.WARNING]


def test_a_run_is_resumed_with_its_own_classes_only(tmp_path: Path) -> None:
    def run(classes: list[str]) -> Checkpointer:
        checkpointer = Checkpointer(Heads(len(classes)), str(tmp_path))
        checkpointer.extras["categories"] = [{"id": number, "name": name} for number, name in enumerate(classes)]
        return checkpointer

    run(["cat", "dog"]).save("model")
    run(["cat", "dog"]).resume_or_load("", resume=True)
    for other in (["dog", "cat"], ["cat", "dog", "hen"]):
        with pytest.raises(CheckpointError, match=r"model\.pth"):
            run(other).resume_or_load("", resume=True)


def test_the_average_of_a_run_predicts(tmp_path: Path) -> None:
    raw, average = Heads(2), Heads(2)
    torch.save({"model": raw.state_dict(), "model_ema": average.state_dict()}, tmp_path / "model.pth")
    model = Heads(2)
    load_for_inference(model, str(tmp_path / "model.pth"))
    assert torch.equal(model.cls_score.weight, average.cls_score.weight)


@pytest.mark.parametrize("name", ["model.pth", "model.safetensors", "model.pkl"])
@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs"),
        (b"", "empty"),
        (b'{"metadata": {"total_size": 8}, "weight_map": {}}', "weight_map"),
    ],
)
def test_files_in_place_of_a_checkpoint_are_told(tmp_path: Path, name: str, content: bytes, word: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=rf"{name}.*{word}"):
        Checkpointer(Heads(3)).load(str(tmp_path / name))


def test_checkpoints_are_known_by_their_content_and_found_in_folders(tmp_path: Path) -> None:
    model, folder = Heads(2), tmp_path / "accelerate"
    folder.mkdir()
    (folder / "optimizer.bin").touch()
    save_file(model.state_dict(), folder / "model.safetensors")
    (tmp_path / "blob").write_bytes((folder / "model.safetensors").read_bytes())
    torch.save(model.state_dict(), tmp_path / "model.pkl")
    for path in (tmp_path / "blob", tmp_path / "model.pkl", folder):
        loaded = Heads(2)
        load_for_inference(loaded, str(path))
        assert torch.equal(model.cls_score.weight, loaded.cls_score.weight)
    index = {"weight_map": dict.fromkeys(model.state_dict(), "model.safetensors")}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    load_for_inference(loaded, str(folder / "model.safetensors.index.json"))
    (folder / "model.safetensors.index.json").unlink()
    (folder / "model.safetensors").rename(folder / "1.safetensors")
    (folder / "2.safetensors").touch()
    with pytest.raises(CheckpointError, match=r"accelerate.*1\.safetensors, 2\.safetensors"):
        load_for_inference(loaded, str(folder))
    with pytest.raises(ConfigError, match="--config-file"):  # it is not taken for a config
        load_config(tmp_path / "blob")
