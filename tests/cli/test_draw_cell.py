"""tools/draw_cell.py as a user runs it."""

from __future__ import annotations

from pathlib import Path

import pytest

from nasnet_det.cli.draw_cell import main
from nasnet_det.genotypes.published import PUBLISHED


def test_a_published_name_and_a_file_are_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    PUBLISHED["enas"].save("mine.json")
    assert main(["nasnet_a"]) == 0
    assert main(["mine.json", "--out", "pictures/mine.png"]) == 0
    assert capsys.readouterr().out.split() == ["nasnet_a.svg", "pictures/mine.png"]
    assert "<svg" in Path("nasnet_a.svg").read_text(encoding="utf-8")
    assert Path("pictures/mine.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["no_such_cell"], "no_such_cell"),
        (["missing.json"], "no such genotype file"),
        (["nasnet_a", "--out", "cell.pdf"], ".svg or .png"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and message in error and error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
