"""From a folder to a detector in a folder, and a killed run that ends as the undisturbed one."""

from __future__ import annotations

import functools
import json
import multiprocessing
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

pytest.importorskip("detectron2")

from nasnet_det.cli.evaluate import main as evaluate
from nasnet_det.cli.finetune import main
from nasnet_det.cli.predict import main as predict
from nasnet_det.detection.config import ConfigError
from nasnet_det.detection.data.folders import open_dataset
from nasnet_det.detection.data.look import DatasetError
from nasnet_det.detection.engine import finetune as finetune_module
from nasnet_det.detection.engine.artefact import draw_samples
from nasnet_det.detection.engine.finetune import FinetuneError, FinetuneTrainer, Options, finetune
from nasnet_det.detection.engine.loggers import LoggerError
from nasnet_det.detection.engine.predictor import Predictor, load_config
from nasnet_det.detection.engine.run_folder import data_digest
from nasnet_det.detection.engine.trainer import DetectorTrainer
from nasnet_det.export import hub, push_run_to_hub
from tests.helpers import FakeHub

SMALL = {
    "MODEL.NASNET.NUM_FILTERS": 8,
    "MODEL.NASNET.NUM_CELLS": 1,
    "MODEL.FPN.OUT_CHANNELS": 32,
    "MODEL.ROI_BOX_HEAD.FC_DIM": 32,
    "MODEL.RPN.POST_NMS_TOPK_TRAIN": 30,
    "MODEL.RPN.POST_NMS_TOPK_TEST": 12,
    "SOLVER.MAX_ITER": 6,
    "TEST.EVAL_PERIOD": 2,
}
ONE_STEP = {**SMALL, "SOLVER.MAX_ITER": 1, "TEST.EVAL_PERIOD": 1}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Six pictures of a bright square or a dark one, in COCO's form without a split."""
    root = tmp_path / "shapes"
    (root / "images").mkdir(parents=True)
    random = np.random.default_rng(0)
    images, annotations = [], []
    for number in range(1, 7):
        pixels = random.integers(100, 156, (64, 96, 3), dtype=np.uint8)
        x, y = 6 * number, 4 * number
        pixels[y : y + 24, x : x + 30] = 255 * (number % 2)
        Image.fromarray(pixels).save(root / "images" / f"{number}.png")
        images.append({"id": number, "file_name": f"{number}.png", "width": 96, "height": 64})
        entry = {"id": number, "image_id": number, "category_id": 3 + number % 2, "bbox": [x, y, 30, 24]}
        annotations.append({**entry, "area": 720, "iscrowd": 0})
    categories = [{"id": 3, "name": "dark"}, {"id": 4, "name": "bright"}]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (root / "annotations.json").write_text(json.dumps(content))
    return root


def options(data: Path, output: Path, **more: Any) -> Options:
    given = {"weights": "none", "image_size": 64, "loggers": (), "device": "cpu", "settings": SMALL, **more}
    return Options(data=data, output=output, **given)


@pytest.mark.parametrize(
    ("model", "changes", "expected"),
    [
        ("fpn_mobile", {}, "published"),
        ("fpn_mobile", {"NUM_CELLS": 4, "GENOTYPE": "nasnet_a"}, "published"),  # as it is published
        ("fpn_mobile", {"NUM_CELLS": 2}, ""),
        ("fpn_mobile", {"GENOTYPE": "pnasnet_5"}, ""),
        ("fpn_mobile", {"NETWORK": "amoebanet_a_mobile"}, ""),
        ("fpn_nasnet_det_1", {}, ""),
        ("fpn_nasnet_det_1", {"PRETRAINED": "mine.safetensors"}, "the config's"),
    ],
)
def test_weights_of_another_network_are_not_asked_for(
    model: str, changes: dict[str, Any], expected: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(finetune_module, "resolve", lambda network: tmp_path)
    settings = {f"MODEL.NASNET.{key}": value for key, value in changes.items()}
    asked = options(data, tmp_path / "run", model=model, weights="auto", settings=settings)
    assert finetune_module._weights(asked, lambda text: None) == expected
    planned = finetune_module._plan(asked, open_dataset(data)[0], expected)
    cfg = finetune_module._config(asked, planned, "a", "b", 2, resumed=False)
    assert changes.get("PRETRAINED", expected) == cfg.MODEL.NASNET.PRETRAINED
    assert (cfg.MODEL.NASNET.NORM == "FrozenBN") == bool(expected) and not cfg.MODEL.WEIGHTS


def test_a_folder_becomes_a_folder_that_can_be_moved(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["--weights", "none", "--image-size", "64", "--device", "cpu", "--loggers", "tensorboard"]
    words += ["--set", *(f"{key}={value}" for key, value in SMALL.items())]
    before = {path: path.read_bytes() for path in data.rglob("*") if path.is_file()}
    assert main([str(data), "--output", str(tmp_path / "run"), *words]) == 0
    printed = capsys.readouterr().out
    assert printed.index("image size") < printed.index("AP50")
    assert {path: path.read_bytes() for path in data.rglob("*") if path.is_file()} == before

    moved = shutil.move(tmp_path / "run", tmp_path / "elsewhere")
    assert (moved / "classes.txt").read_text() == "dark\nbright\n"
    assert json.loads((moved / "scores.json").read_text())["AP50"] >= 0
    assert len((moved / "metrics.csv").read_text().splitlines()) == 4
    assert list((moved / "samples").glob("*.jpg")) and list((moved / "tensorboard").iterdir())
    card = (moved / "README.md").read_text()
    assert "library_name: nasnet_det" in card and "num_filters 8" in card

    for detector in (moved, moved / "model.safetensors"):
        found = tmp_path / f"found-{detector.name}"
        assert predict([str(detector), str(data / "images"), "--output", str(found)]) == 0
        categories = json.loads((found / "images.json").read_text())["categories"]
        assert categories == [{"id": 3, "name": "dark"}, {"id": 4, "name": "bright"}]
        assert {result["category_id"] for result in json.loads((found / "results.json").read_text())} <= {3, 4}
    report = tmp_path / "s.json"
    assert evaluate([str(moved), str(data), "--output", str(tmp_path / "scored"), "--json", str(report)]) == 0
    scores = json.loads((moved / "scores.json").read_text())
    assert 100 * json.loads(report.read_text())["bbox"]["AP"] == pytest.approx(scores["AP"], abs=1e-6)

    # Pushed to the hub, and predicted with from there.
    push_run_to_hub(moved, "me/squares", api=FakeHub(tmp_path / "hub"))
    monkeypatch.setattr(hub, "snapshot_download", lambda name, allow_patterns: tmp_path / "hub" / name)
    assert predict(["hf-hub:me/squares", str(data / "images"), "--output", str(tmp_path / "from_hub")]) == 0
    assert (tmp_path / "from_hub" / "results.json").read_bytes() == (found / "results.json").read_bytes()

    # Data with some of the classes under other ids, and a picture that the resize cannot take.
    content = json.loads((data / "annotations.json").read_text())
    content["annotations"] = [{**entry, "category_id": 1} for entry in content["annotations"] if entry["id"] % 2]
    content["categories"] = [{"id": 1, "name": "bright"}]
    content["images"].append({"id": 7, "file_name": "line.png", "width": 1, "height": 5000})
    Image.new("RGB", (1, 5000)).save(data / "images" / "line.png")
    (data / "annotations.json").write_text(json.dumps({**content, "annotations": []}))
    (data / "val.json").write_text(json.dumps(content))
    assert evaluate([str(moved), str(data), "--output", str(tmp_path / "some")]) == 0
    results = json.loads((tmp_path / "some" / "coco_instances_results.json").read_text())
    assert {result["category_id"] for result in results} <= {1}
    records = [{"file_name": str(data / "images" / f"{name}.png")} for name in ("line", 1)]
    draw_samples(Predictor(load_config(moved)), tmp_path / "drawn", records)
    assert [path.name for path in (tmp_path / "drawn").iterdir()] == ["2-1.jpg"]


@pytest.mark.parametrize("model", ["mask_fpn_mobile", "cascade_mask_fpn_large", "nasnet_frcnn_mobile_600"])
def test_masks_and_the_papers_detector_are_finetuned_by_name(data: Path, tmp_path: Path, model: str) -> None:
    content = json.loads((data / "annotations.json").read_text())
    for entry in content["annotations"]:
        x, y, width, height = entry["bbox"]
        entry["segmentation"] = [[x, y, x + width, y, x + width, y + height, x, y + height]]
    (data / "annotations.json").write_text(json.dumps(content))
    settings = {**ONE_STEP, "MODEL.ROI_MASK_HEAD.CONV_DIM": 16}
    scores = finetune(options(data, tmp_path / "run", model=model, settings=settings, val_share=0.5))
    assert ("segm_AP" in scores) == ("mask" in model)
    header, row = (tmp_path / "run" / "metrics.csv").read_text().splitlines()
    assert float(dict(zip(header.split(","), row.split(","), strict=True))["validation_loss"]) > 0


def die_before_step(number: int) -> None:
    step = FinetuneTrainer.run_step

    def run_step(trainer: FinetuneTrainer) -> None:
        if trainer.iter == number:
            os.kill(os.getpid(), signal.SIGKILL)
        step(trainer)

    FinetuneTrainer.run_step = run_step  # type: ignore[method-assign]


def die_with_a_checkpoint_half_way() -> None:
    replace = Path.replace

    def killing(part: Path, target: Path) -> Path:
        if Path(target).name == "last.pth":
            os.kill(os.getpid(), signal.SIGKILL)
        return replace(part, target)

    Path.replace = killing  # type: ignore[assignment,method-assign]


def die_and_finetune(run: Options, resume: bool, death: Callable[[], None] | None) -> None:
    torch.set_num_threads(1)
    if death is not None:
        death()
    finetune(run, resume)


def in_process(run: Options, resume: bool = False, death: Callable[[], None] | None = None) -> int | None:
    """Run a fine-tuning in a process of its own, in which ``death`` arranges its end; return the exit status.

    It is forked from a server that has only imported this module: autograd's threads do not survive a fork.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    process = context.Process(target=die_and_finetune, args=(run, resume, death))
    process.start()
    process.join()
    return process.exitcode


def test_a_killed_run_resumed_ends_as_the_undisturbed_one(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = options(data, tmp_path / "broken")
    assert in_process(options(data, tmp_path / "whole")) == 0
    assert in_process(run, death=functools.partial(die_before_step, 3)) == -signal.SIGKILL
    assert in_process(run, resume=True, death=die_with_a_checkpoint_half_way) == -signal.SIGKILL
    assert not (tmp_path / "broken" / "scores.json").exists()
    assert in_process(run, resume=True) == 0
    for name in ("metrics.csv", "scores.json"):
        assert (tmp_path / "broken" / name).read_text() == (tmp_path / "whole" / name).read_text()
    whole, broken = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "broken"))
    assert all((whole[name] == broken[name]).all() for name in whole)

    # A finished run is not trained further.
    monkeypatch.setattr(DetectorTrainer, "run_step", pytest.fail)
    scores = {name: value for name, value in finetune(run, resume=True).items() if value == value}
    assert scores == json.loads((tmp_path / "whole" / "scores.json").read_text())


def test_data_are_the_same_from_another_folder_and_after_a_move(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Labels beside the pictures, whose paths YOLO's reader keeps whole."""
    root = (data / "images").rename(tmp_path / "yolo")
    (root / "classes.txt").write_text("square\n")
    for picture in list(root.glob("*.png")):
        picture.with_suffix(".txt").write_text("0 0.5 0.5 0.2 0.3\n")

    def digest(path: Path) -> str:
        return data_digest(path, *open_dataset(path)[:2])

    whole = digest(root)
    monkeypatch.chdir(tmp_path)
    assert digest(Path("yolo")) == whole
    assert digest(root.rename(tmp_path / "moved")) == whole
    (tmp_path / "moved" / "1.txt").write_text("")
    assert digest(Path("moved")) != whole


def part_of(data: Path, folder: Path, images: int, objects: int) -> Path:
    """Copy a data set with its first images and its first objects only."""
    shutil.copytree(data, folder)
    content = json.loads((data / "annotations.json").read_text())
    content |= {"images": content["images"][:images], "annotations": content["annotations"][:objects]}
    (folder / "annotations.json").write_text(json.dumps(content))
    return folder


def test_one_picture_is_learnt_and_validated_on(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root, output = part_of(data, tmp_path / "one", 1, 1), tmp_path / "run"
    finetune(options(root, output, settings=ONE_STEP, val_share=0))
    assert "1 images to train on, 1 to validate on" in capsys.readouterr().out
    assert evaluate([str(output), str(root), "--output", str(tmp_path / "scored")]) == 0
    assert "of 1 images" in capsys.readouterr().out
    finetune(options(data, tmp_path / "more", settings=ONE_STEP, val_share=0, weights=str(output)))
    assert "6 images to train on, 6 to validate on" in capsys.readouterr().out


def test_what_cannot_be_started_or_resumed_changes_nothing(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(FinetuneError, match="new"):
        finetune(options(data, tmp_path / "new"), resume=True)
    assert main([str(data), "--output", str(data)]) == 2
    assert sorted(path.name for path in data.iterdir()) == ["annotations.json", "images"]

    content = json.loads((data / "annotations.json").read_text())
    (data / "val.json").write_text(json.dumps({key: content[key] for key in ("images", "categories")}))
    with pytest.raises(DatasetError, match=r"val\.json.*'annotations'"):
        finetune(options(data, tmp_path / "new"))
    (data / "val.json").write_text(json.dumps({**content, "images": [], "annotations": []}))
    with pytest.raises(DatasetError, match=r"val\.json.*no image"):
        finetune(options(data, tmp_path / "new"))
    (data / "val.json").unlink()

    output = tmp_path / "run"
    monkeypatch.setattr(finetune_module, "resolve", pytest.fail)  # nothing is downloaded for data that are unusable
    with pytest.raises(DatasetError, match="1 image"):
        finetune(options(part_of(data, tmp_path / "one", 1, 1), output))
    with pytest.raises(DatasetError, match="no image has an object"):
        finetune(options(part_of(data, tmp_path / "bare", 6, 0), output, weights="auto"))
    expected = [["bbox", "AP", 1, 2]]
    for key, value in (("SOLVER.MAX_ITER", 0), ("TEST.EXPECTED_RESULTS", expected), ("MODEL.KEYPOINT_ON", True)):
        with pytest.raises(ConfigError, match=key):
            finetune(options(data, output, settings={key: value}, weights="auto"))
    with pytest.raises(DatasetError, match=r"data set shapes_train: it has 2 classes .* 3"):
        finetune(options(data, output, settings={"MODEL.ROI_HEADS.NUM_CLASSES": 3}, weights="auto"))
    with monkeypatch.context() as patch, pytest.raises(FinetuneError, match="GPU"):
        patch.setattr(torch.cuda, "is_available", lambda: False)
        finetune(options(data, output, device="cuda"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "nonsense://")
    with pytest.raises(LoggerError, match="MLFLOW_TRACKING_URI"):
        finetune(options(data, output, loggers=["mlflow"]))

    # Where nothing was learnt, another command begins again.
    finetune(options(data, output, settings=ONE_STEP, val_share=0.5, seed=7))
    with pytest.raises(FinetuneError, match="--resume"):
        finetune(options(data, output))
    with pytest.raises(FinetuneError, match="epochs, settings, seed"):
        finetune(Options(data, output, epochs=9, settings={"SEED": 4}, seed=8), resume=True)
    assert finetune(Options(data, output), resume=True)["AP"] >= 0, "the data are divided as they were"
    with pytest.raises(ConfigError, match="OUTPUT_DIR"):
        finetune(Options(data, tmp_path / "new", settings={"OUTPUT_DIR": "x"}))
    with pytest.raises(ConfigError, match="MAX_ITER"):
        finetune(options(data, tmp_path / "new", settings={**SMALL, "SOLVER.MAX_ITER": 0}))
    assert not (tmp_path / "new").exists()
    content["annotations"][0]["bbox"][0] += 1
    (data / "annotations.json").write_text(json.dumps(content))
    with pytest.raises(FinetuneError, match=str(output)):
        finetune(options(data, output), resume=True)
