"""The table of models: what it counts, and that README shows it."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm

from nasnet_det import FAMILY
from nasnet_det.models import table as table_of

ROOT = Path(__file__).resolve().parents[2]


def test_the_mobile_networks_figures_are_the_papers(recwarn: pytest.WarningsRecorder) -> None:
    """5.3 M parameters and 564 M multiply-adds (paper table 3)."""
    pytest.importorskip("fvcore")
    cells = table_of.row("nasnet_a_mobile", FAMILY["nasnet_a_mobile"])
    assert cells[3:7] == ["5.29", "5.3", "564", "564"]
    assert not recwarn.list


def test_readme_shows_every_model_as_it_is_counted() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    table = text.split(table_of.BEGIN)[1].split(table_of.END)[0]
    rows = [line.split(" | ") for line in table.splitlines() if line.startswith("| `")]
    shown = {row[0].strip("| `"): row[3] for row in rows}
    for name in FAMILY:
        parameters = sum(p.numel() for p in timm.create_model(name, device="meta").parameters())
        assert shown[name] == f"{parameters / 1e6:.2f}"


def test_only_what_stands_between_the_marks_is_replaced() -> None:
    text = f"before\n{table_of.BEGIN}\nold\n{table_of.END}\nafter\n"
    assert table_of.replace_between(text, "new\n") == f"before\n{table_of.BEGIN}\nnew\n{table_of.END}\nafter\n"
    with pytest.raises(ValueError, match="marks"):
        table_of.replace_between("no marks", "new\n")
