"""The demo, run as a user runs it, with a network small enough for a test; and in earnest where there is time."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

pytest.importorskip("detectron2")
from detectron2.data import DatasetCatalog, MetadataCatalog

from nasnet_det.cli.demo import main

SMALL = ["MODEL.NASNET.NUM_FILTERS", "8", "MODEL.NASNET.NUM_CELLS", "1"]
SMALL += ["INPUT.MIN_SIZE_TRAIN", "(64,)", "INPUT.MIN_SIZE_TEST", "64"]
SHORT = ["SOLVER.MAX_ITER", "3", "TEST.EVAL_PERIOD", "3", "SOLVER.CHECKPOINT_PERIOD", "2"]


@pytest.fixture(autouse=True)
def forget_the_dataset() -> None:
    for catalog in (DatasetCatalog, MetadataCatalog):
        if "nasnet_demo" in catalog:
            catalog.remove("nasnet_demo")


def test_it_trains_judges_and_draws(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    output = Path("demo")  # also the name of its config
    assert main(["--output", str(output), *SMALL, *SHORT]) == 1
    printed = capsys.readouterr().out
    assert "not learnt" in printed and "AP50" in printed
    assert len(list((output / "pictures").glob("*.jpg"))) == 9
    assert (output / "overview.jpg").is_file() and (output / "config.yaml").is_file()
    assert json.loads((output / "scores.json").read_text())["AP50"] < 90

    # A finished run is shown, not trained again; --restart trains a new one.
    trained = (output / "model_final.pth").stat().st_mtime_ns
    assert main(["--output", str(output), *SMALL, *SHORT]) == 1
    assert "holds a finished run" in capsys.readouterr().out
    assert (output / "model_final.pth").stat().st_mtime_ns == trained
    own = [output / name for name in ("notes.txt", "model_mine.pth", "model_final_copy.pth")]
    for path in own:
        path.write_text("a file of the user's")
    assert main(["--output", str(output), "--restart", *SMALL, *SHORT]) == 1
    assert (output / "model_final.pth").stat().st_mtime_ns != trained
    assert all(path.is_file() for path in own)


def test_a_stopped_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    from nasnet_det.detection.engine.demo import Judge

    def stop(judge: Judge) -> None:
        if judge.trainer.iter == 1:
            signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(Judge, "after_step", stop)
        assert main(["--output", str(tmp_path), *SMALL, *SHORT]) == 130
    assert str(tmp_path) in capsys.readouterr().err
    assert main(["--output", str(tmp_path), *SMALL, *SHORT]) == 1
    assert "from step 2" in capsys.readouterr().out


def test_a_folder_that_is_none_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["--data", str(tmp_path), "--output", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err.startswith("error: ")


@pytest.mark.parametrize("restart", [True, False])
def test_a_folder_of_the_user_s_is_left_alone(tmp_path: Path, restart: bool) -> None:
    """As an output, with or without ``--restart``, and as data and output at once."""
    (tmp_path / "annotations.json").write_text("{}")
    (tmp_path / "model_mine.pth").touch()
    for data in ([], ["--data", str(tmp_path)]):
        assert main([*data, "--output", str(tmp_path), *(["--restart"] if restart else [])]) == 2
    assert {path.name for path in tmp_path.iterdir()} == {"annotations.json", "model_mine.pth"}


@pytest.mark.slow
def test_nine_photographs_are_learnt(tmp_path: Path) -> None:
    assert main(["--output", str(tmp_path)]) == 0
    assert json.loads((tmp_path / "scores.json").read_text())["AP50"] >= 90
