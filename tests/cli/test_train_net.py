"""``train-net``, and detectron2's own scripts, as a user calls them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

detectron2 = pytest.importorskip("detectron2")

from nasnet_det.cli.train_net import main  # noqa: E402
from nasnet_det.detection.config import read_config  # noqa: E402 (needs detectron2)
from nasnet_det.detection.engine.run_folder import mark_run  # noqa: E402 (needs detectron2)
from tests.detection.conftest import CONFIGS, options  # noqa: E402 (needs detectron2)
from tests.helpers import torchrun  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
#: detectron2's own tools, which its wheel lays beside it.
OTHERS = Path(detectron2.__file__).parents[1] / "tools"


def arguments(dataset: str, output: Path, **more: Any) -> list[str]:
    """The command line for a small run on a data set."""
    values = {
        "DATASETS.TRAIN": (dataset,),
        "DATASETS.TEST": (dataset,),
        "OUTPUT_DIR": output,
        "MODEL.ROI_HEADS.NUM_CLASSES": 2,
        "INPUT.MIN_SIZE_TRAIN": (64,),
        "INPUT.MIN_SIZE_TEST": 64,
    }
    pairs = options(**{key.replace(".", "__"): value for key, value in {**values, **more}.items()})
    return ["--config-file", str(CONFIGS / "fpn_mobile.yaml"), *map(str, pairs)]


def test_train_then_evaluate_then_resume(tiny_coco: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "out"
    assert main(arguments(tiny_coco, output)) == 0
    state = torch.load(output / "model_final.pth", weights_only=True)
    assert state["trainer"]["iteration"] == 1
    log = (output / "log.txt").read_text()
    assert "images with objects" in log and "AP75" in log  # the look at the data, and COCO's numbers
    assert "PIXEL_MEAN" in log and "PIXEL_MEAN" not in capsys.readouterr().out  # the whole config
    assert "tensorboard.compat.notf" in sys.modules  # TensorBoard imports no TensorFlow
    results = output / "inference" / "coco_instances_results.json"
    assert isinstance(json.loads(results.read_text()), list)
    results.unlink()

    evaluated = arguments(tiny_coco, tmp_path / "eval", MODEL__WEIGHTS=output / "model_final.pth")
    assert main(["--eval-only", *evaluated]) == 0
    assert (tmp_path / "eval" / "inference" / "coco_instances_results.json").is_file()

    described = (output / "config.yaml").read_text()
    assert main(["--resume", *arguments(tiny_coco, output, MODEL__NASNET__NUM_FILTERS=16)]) == 2
    assert (output / "config.yaml").read_text() == described
    assert main(["--resume", *arguments(tiny_coco, output, SOLVER__MAX_ITER=3)]) == 0
    assert torch.load(output / "model_final.pth", weights_only=True)["trainer"]["iteration"] == 2
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"MODEL.NASNET.NUM_FILTER": 8}, "MODEL.NASNET.NUM_FILTERS"),
        ({"MODEL.NASNET.NETWORK": "nasnet_b"}, "MODEL.NASNET.NETWORK"),
        ({"MODEL.NASNET.GENOTYPE": "nowhere.json"}, "nowhere.json"),
        ({"MODEL.WEIGHTS": "nowhere.pth"}, "nowhere.pth"),
        ({"MODEL.DEVICE": "gpu"}, "MODEL.DEVICE is 'gpu'"),
        ({"OUTPUT_DIR": ""}, "OUTPUT_DIR"),
        ({"DATASETS.TRAIN": ("nothing_registered",)}, "'nothing_registered'"),
        ({"MODEL.ROI_HEADS.NUM_CLASSES": 1}, "2 classes"),
        ({"TEST.EXPECTED_RESULTS": [["box", "AP", 30.0, 1.0]]}, "'box'"),
        ({"TEST.EXPECTED_RESULTS": [["bbox", "AP"]]}, "TEST.EXPECTED_RESULTS"),
    ],
)
def test_a_user_s_mistake_is_one_line(
    tiny_coco: str, tmp_path: Path, more: dict[str, Any], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments(tiny_coco, tmp_path / "out", **more)) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert says in line


def test_a_checkpoint_of_another_genotype_is_one_line(
    tiny_coco: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments(tiny_coco, tmp_path / "a", DATASETS__TEST=())) == 0
    more = {"MODEL.WEIGHTS": tmp_path / "a" / "model_final.pth", "MODEL.NASNET.GENOTYPE": "pnasnet_5"}
    assert main(arguments(tiny_coco, tmp_path / "b", **more)) == 2
    assert "pnasnet_5" in capsys.readouterr().err


def test_without_a_config_it_says_which(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "configs/nasnet_frcnn.yaml" in capsys.readouterr().err


def test_evaluation_without_weights_or_of_other_classes_is_refused(
    tiny_coco: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--eval-only", *arguments(tiny_coco, tmp_path / "out")]) == 2
    assert "MODEL.WEIGHTS" in capsys.readouterr().err
    assert not (tmp_path / "out" / "inference").exists()


@pytest.mark.parametrize(
    ("flags", "settings", "named"),
    [(["--num-gpus", "-1"], {}, "--num-gpus"), ([], {"SEED": 2**40}, "SEED"), ([], {"SOLVER.BASE_LR": 0.0}, "BASE_LR")],
)
def test_what_cannot_be_started_leaves_no_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: list[str], settings: dict[str, Any], named: str
) -> None:
    assert main([*flags, *arguments("unread", tmp_path / "out", **settings)]) == 2
    assert named in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_processes_that_have_not_joined_do_not_evaluate_in_one_folder(
    tiny_coco: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    assert main(["--eval-only", *arguments(tiny_coco, tmp_path / "out")]) == 2
    assert "WORLD_SIZE" in capsys.readouterr().err


def test_a_run_is_not_replaced_by_a_new_one(tiny_coco: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "out"
    output.mkdir()
    (output / "last_checkpoint").write_text("model_final.pth")
    (output / "model_final.pth").write_text("mine")
    assert main(arguments(tiny_coco, output)) == 2
    assert "--resume" in capsys.readouterr().err
    mark_run(output, "finetune", {})
    assert main(["--resume", *arguments(tiny_coco, output)]) == 2
    assert "finetune" in capsys.readouterr().err
    (output / "run.json").unlink()
    (output / "last_checkpoint").unlink()  # the checkpoint may be from elsewhere
    assert main(["--resume", *arguments(tiny_coco, output)]) == 2
    assert "model_final.pth" in capsys.readouterr().err
    assert (output / "model_final.pth").read_text() == "mine" and not (output / "config.yaml").exists()
    (output / "config.yaml").write_text(read_config(CONFIGS / "fpn_mobile.yaml").dump())  # killed before it was noted
    assert main(arguments(tiny_coco, output)) == 2
    assert "--resume" in capsys.readouterr().err


def test_a_config_of_the_user_s_is_not_replaced(
    tiny_coco: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config.yaml").write_text("SEED: 5\n")
    assert main(arguments(tiny_coco, tmp_path)) == 2  # among the data
    assert "config.yaml" in capsys.readouterr().err and (tmp_path / "config.yaml").read_text() == "SEED: 5\n"
    config, output = read_config(CONFIGS / "fpn_mobile.yaml"), tmp_path / "out"
    output.mkdir()
    (output / "config.yaml").write_text(config.dump())  # as a run leaves that was stopped before its first checkpoint
    assert main(arguments(tiny_coco, output, SOLVER__MAX_ITER=1, DATASETS__TEST=())) == 0


@pytest.mark.parametrize("name", ["log.txt", "metrics.json"])
def test_a_file_of_the_user_s_is_not_appended_to(
    tiny_coco: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    (tmp_path / name).write_text("mine\n")
    assert main(arguments(tiny_coco, tmp_path)) == 2
    assert name in capsys.readouterr().err and (tmp_path / name).read_text() == "mine\n"


def test_torchrun_s_processes_are_one_training(tiny_coco: str, tmp_path: Path) -> None:
    module, register = tmp_path / "my_data.py", "from detectron2.data.datasets import register_coco_instances"
    data = (tiny_coco, {}, str(tmp_path / "annotations.json"), str(tmp_path))
    module.write_text(f"{register}\ndef setup_environment():\n    register_coco_instances{data}\n")
    torchrun("train_net", arguments(tiny_coco, tmp_path / "out"), DETECTRON2_ENV_MODULE=str(module))
    assert (tmp_path / "out" / "log.txt.rank1").is_file()  # of the second process, which writes nothing else
    assert json.loads((tmp_path / "out" / "inference" / "coco_instances_results.json").read_text()) is not None
    trained = torch.load(tmp_path / "out" / "model_final.pth", weights_only=True)
    assert trained["trainer"]["iteration"] == 1
    assert trained["categories"] == [{"id": 1, "name": "one"}, {"id": 2, "name": "two"}]


def coco_root(annotations: Path, root: Path) -> Path:
    """Write a small data set as minival and as the paper's training set below ``root``; return ``root``."""
    from detectron2.data.datasets.builtin_meta import COCO_CATEGORIES

    from nasnet_det.detection.data.datasets import MINIVAL, SPLITS, TRAIN

    data = json.loads(annotations.read_text())
    data["categories"] = [{"id": entry["id"], "name": entry["name"]} for entry in COCO_CATEGORIES if entry["isthing"]]
    for image in data["images"]:
        image["file_name"] = str(annotations.parent / image["file_name"])
    for name in (MINIVAL, TRAIN):
        file = root / "coco" / SPLITS[name].annotations
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(data))
    return root


def test_detectron2_s_own_scripts_run_the_paper_s_config_and_its_twin(tiny_coco: str, tmp_path: Path) -> None:
    """Both scripts unmodified, one after the other in a process that knows this project by its environment alone."""
    twin = {
        **{"model.network.pretrained": "", "model.network.num_filters": 8, "model.network.num_cells": 1},
        **{"model.network.norm": "BN", "model.image_size": "[128,128]"},
        **{"model.proposal_generator.head.in_channels": 160, "model.proposal_generator.max_proposals": "[30,12]"},
        **{"dataloader.train.num_workers": 0, "dataloader.test.num_workers": 0},
        **{"train.device": "cpu", "train.max_iter": 2, "train.output_dir": tmp_path / "lazy"},
    }
    calls = [
        ("train_net.py", "nasnet_frcnn.yaml", options(OUTPUT_DIR=tmp_path / "out")),
        ("lazyconfig_train_net.py", "nasnet_frcnn.py", [f"{key}={value}" for key, value in twin.items()]),
    ]
    lines = [[OTHERS / script, "--config-file", CONFIGS / config, *words] for script, config, words in calls]
    if missing := [line[0] for line in lines if not line[0].is_file()]:
        pytest.skip(f"detectron2 was installed without {missing[0].name}")
    program = "import runpy, sys\n" + "".join(
        f"sys.argv = {list(map(str, line))}\nrunpy.run_path(sys.argv[0], run_name='__main__')\n" for line in lines
    )
    root = coco_root(tmp_path / "annotations.json", tmp_path / "datasets")
    environment = {**os.environ, "DETECTRON2_ENV_MODULE": "nasnet_det.detection", "DETECTRON2_DATASETS": str(root)}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-W", "ignore", "-c", program]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert (tmp_path / "out" / "model_final.pth").is_file()
    saved = torch.load(tmp_path / "lazy" / "model_final.pth", weights_only=True)
    assert saved["trainer"]["optimizer"]["data"]["images"] == 7
