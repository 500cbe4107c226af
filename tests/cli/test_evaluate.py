"""The command that scores results, run as a user runs it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("pycocotools")

from nasnet_det.cli.evaluate import main


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    box = {"image_id": 7, "category_id": 3, "bbox": [1.0, 2.0, 30.0, 20.0]}
    data = {
        "images": [{"id": 7, "width": 40, "height": 30}],
        "categories": [{"id": 3, "name": "car"}],
        "annotations": [box | {"id": 1, "iscrowd": 0, "area": 600.0}],
    }
    (tmp_path / "annotations.json").write_text(json.dumps(data))
    (tmp_path / "results.json").write_text(json.dumps([box | {"score": 0.5}]))
    return tmp_path / "annotations.json", tmp_path / "results.json"


def run(annotations: Path, results: Path, *more: str) -> int:
    return main(["--annotations", str(annotations), "--results", str(results), *more])


def test_twelve_numbers_are_printed_and_written(files: tuple[Path, Path], capsys: pytest.CaptureFixture) -> None:
    out = files[0].parent / "scores.json"
    assert run(*files, "--json", str(out), "--per-category") == 0
    found = json.loads(out.read_text())
    assert len(found["bbox"]) == 12
    assert found["bbox"]["AP"] == pytest.approx(1.0)
    assert found["bbox"]["APm"] == -1.0
    printed = capsys.readouterr().out
    assert "100.00" in printed and "car" in printed


def test_a_fault_of_the_user_is_a_line_and_status_2(files: tuple[Path, Path], capsys: pytest.CaptureFixture) -> None:
    assert run(files[0], files[0]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: results file") and error.count("\n") == 1
    assert run(*files, "--iou-types", "segm") == 2
    assert "'segmentation'" in capsys.readouterr().err


def test_a_page_of_the_user_is_not_written_over(files: tuple[Path, Path], capsys: pytest.CaptureFixture) -> None:
    page = files[0].parent / "site" / "index.html"
    page.parent.mkdir()
    for own in (page, page.with_name("categories.csv")):
        own.write_text("mine")
        assert run(*files, "--report", str(page.parent)) == 2
        assert str(own) in capsys.readouterr().err and own.read_text() == "mine"
        own.unlink()
    for _ in range(2):  # an earlier report is replaced
        assert run(*files, "--report", str(page.parent)) == 0


def test_a_file_of_the_user_is_not_replaced_by_scores(files: tuple[Path, Path], capsys: pytest.CaptureFixture) -> None:
    own, scores = files[0].parent / "notes.json", files[0].parent / "scores.json"
    own.write_text('{"bbox": "mine"}')
    assert run(*files, "--json", str(own)) == 2
    assert str(own) in capsys.readouterr().err and own.read_text() == '{"bbox": "mine"}'
    assert [run(*files, "--json", str(scores)) for _ in range(2)] == [0, 0]  # its own are


@pytest.mark.parametrize("option", ["--output", "--report", "--json"])
def test_a_file_in_place_of_a_folder_is_told_before_anything_runs(
    files: tuple[Path, Path], capsys: pytest.CaptureFixture, option: str
) -> None:
    inside = files[0] / "scores.json" if option == "--json" else files[0]
    assert main(["a detector that is not looked for", str(files[0].parent), option, str(inside)]) == 2
    assert f"{files[0]}: Not a directory" in capsys.readouterr().err
    assert run(*files, "--json", str(files[0].parent)) == 2
    assert "expected a file" in capsys.readouterr().err


def test_boxes_in_another_format_are_asked_about(files: tuple[Path, Path], capsys: pytest.CaptureFixture) -> None:
    results = json.loads(files[1].read_text())
    files[1].write_text(json.dumps([results[0] | {"bbox": [11, 12, 39, 29]}]))
    assert run(*files) == 0
    assert "results.json" in (error := capsys.readouterr().err) and "x0, y0, x1, y1" in error


def test_repeated_detections_are_told(files: tuple[Path, Path], capsys: pytest.CaptureFixture) -> None:
    assert run(*files) == 0 and "repeat" not in capsys.readouterr().err
    results = json.loads(files[1].read_text())
    files[1].write_text(json.dumps(results * 2 + [results[0] | {"score": 0.4}]))
    assert run(*files) == 0
    assert "1 of 3 detections" in capsys.readouterr().err


def test_a_detector_is_not_run_on_images_without_annotations(
    files: tuple[Path, Path], capsys: pytest.CaptureFixture
) -> None:
    folder = files[0].parent / "data"
    folder.mkdir()
    image = {"id": 1, "file_name": "1.png", "width": 40, "height": 30}
    content = {"images": [image], "categories": [{"id": 3, "name": "car"}], "annotations": []}
    (folder / "train.json").write_text(json.dumps(content))
    del content["annotations"]
    (folder / "val.json").write_text(json.dumps(content))
    assert main(["a detector that is not looked for", str(folder)]) == 2
    assert "val.json" in (error := capsys.readouterr().err) and "--submission" in error


def test_a_test_set_is_made_into_a_submission(files: tuple[Path, Path], capsys: pytest.CaptureFixture) -> None:
    data = json.loads(files[0].read_text())
    del data["annotations"]
    files[0].write_text(json.dumps(data))
    assert run(*files) == 2
    assert "--submission" in capsys.readouterr().err
    assert run(*files, "--submission", "NASNet", "--output", str(files[0].parent / "out")) == 0
    assert (files[0].parent / "out" / "detections_test-dev2017_NASNet_results.zip").is_file()
