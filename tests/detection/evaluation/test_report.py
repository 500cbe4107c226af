"""The report of an evaluation: its files, and its page in a browser."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("pycocotools")
from nasnet_det.cli.evaluate import main
from nasnet_det.detection.evaluation.evaluation import evaluate
from nasnet_det.detection.evaluation.report import write_report
from tests.detection.evaluation.test_errors import BOX, found, truth
from tests.draw.browser import shown


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A picture with a hen that is found and a fox that is taken for a hen, with annotations and results."""
    other = [100.0, 100.0, 50.0, 50.0]
    annotations = truth((1, BOX), (2, other))
    annotations["images"][0]["file_name"] = "yard.png"
    annotations["categories"][1]["name"] = "<fox & $co>"
    Image.fromarray(np.full((200, 200, 3), 90, np.uint8)).save(tmp_path / "yard.png")
    (tmp_path / "val.json").write_text(json.dumps(annotations))
    (tmp_path / "results.json").write_text(json.dumps(found((1, BOX, 0.9), (1, other, 0.8))))
    return tmp_path


def run(files: Path, *more: str) -> int:
    inputs = ["--annotations", str(files / "val.json"), "--results", str(files / "results.json")]
    return main([*inputs, "--report", str(files / "report"), *more])


def test_numbers_are_written(files: Path) -> None:
    assert run(files) == 0
    errors = json.loads((files / "report" / "errors.json").read_text())
    assert errors["counts"]["classification"] == 1 and errors["AP50"] == pytest.approx(0.5)
    with (files / "report" / "categories.csv").open(newline="") as file:
        rows = {row["category"]: row for row in csv.DictReader(file)}
    assert float(rows["hen"]["AP"]) == pytest.approx(1.0) and float(rows["<fox & $co>"]["AP50"]) == 0.0
    assert (rows["hen"]["objects"], rows["hen"]["found"]) == ("1", "1")
    with (files / "report" / "confusion.csv").open(newline="") as file:
        assert list(csv.reader(file))[1:3] == [["hen", "1", "0", "0"], ["<fox & $co>", "1", "0", "0"]]


@pytest.mark.filterwarnings("error:Glyph", "error:constrained_layout")
@pytest.mark.parametrize("name", ["鶏", "\U0001f414", "he\nn\x07", "x" * 3000, "$\\frac"])
def test_names_that_no_font_has_are_drawn_as_numbers(files: Path, name: str) -> None:
    annotations = json.loads((files / "val.json").read_text())
    annotations["categories"][0]["name"] = name
    (files / "val.json").write_text(json.dumps(annotations))
    assert run(files, "--images", str(files)) == 0


def test_a_browser_shows_the_page(files: Path) -> None:
    assert run(files, "--images", str(files)) == 0
    text, pictures = shown(files / "report" / "index.html")
    assert pictures == 4  # three drawings and the worst picture
    assert "yard.png" in text and "&lt;fox &amp; $co&gt;" in text and "<fox" not in text


def test_nothing_found_and_nothing_to_find(tmp_path: Path) -> None:
    for true, results in ((truth((1, BOX)), []), (truth(), found((1, BOX, 0.9)))):
        page = write_report(tmp_path, true, results, evaluate(true, results))
        assert "nan" not in re.sub('base64,[^"]*', "", page.read_text())


def test_pictures_that_are_missing_are_named(files: Path, capsys: pytest.CaptureFixture[Any]) -> None:
    (files / "yard.png").unlink()
    assert run(files, "--images", str(files)) == 0
    assert "yard.png" in capsys.readouterr().err
