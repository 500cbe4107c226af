"""No command writes over a file that it reads."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from nasnet_det.cli.main import main
from nasnet_det.genotypes.published import PUBLISHED


def annotations(path: Path) -> str:
    content = {"images": [{"id": 1, "file_name": "a.jpg"}], "annotations": [], "categories": [{"id": 1, "name": "cat"}]}
    path.write_text(json.dumps(content))
    return str(path)


def weights(path: Path) -> str:
    save_file({"stem.conv.weight": torch.zeros(3)}, path)
    return str(path)


def cell(path: Path) -> str:
    PUBLISHED["nasnet_a"].save(path)
    return str(path)


def results(path: Path) -> str:
    path.write_text("[]")
    return str(path)


@pytest.mark.parametrize("name", ["annotations", "results", "cell"])
def test_an_input_named_as_output_stays(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = {
        "annotations": [
            "evaluate",
            "--annotations",
            "{annotations}",
            "--results",
            "{results}",
            "--json",
            "{annotations}",
        ],
        "results": ["evaluate", "--annotations", "{annotations}", "--results", "{results}", "--json", "{link}"],
        "cell": ["draw-cell", "{cell}", "--output", "{cell}"],
    }[name]
    if name != "cell":
        pytest.importorskip("pycocotools")
    files = {"annotations": annotations(tmp_path / "a.json"), "results": results(tmp_path / "r.json")}
    files["cell"] = cell(tmp_path / "cell.svg")
    (tmp_path / "link.json").symlink_to(tmp_path / "r.json")
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    assert main([word.format(**files, link=tmp_path / "link.json") for word in words]) == 2
    assert "overwritten" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_weights_are_not_converted_in_place(tmp_path: Path) -> None:
    file = weights(tmp_path / "w.safetensors")
    before = Path(file).read_bytes()
    assert main(["convert-weights", file, file, "--overwrite"]) == 2
    assert Path(file).read_bytes() == before
