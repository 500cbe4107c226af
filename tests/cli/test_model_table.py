"""The table of models: what it counts, and that README shows it."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
import timm

from nasnet_det import FAMILY

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    pytest.importorskip("fvcore")
    spec = importlib.util.spec_from_file_location("model_table", ROOT / "tools" / "model_table.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_mobile_networks_figures_are_the_papers(tool: ModuleType) -> None:
    """5.3 M parameters and 564 M multiply-adds (paper table 3)."""
    cells = tool.row("nasnet_a_mobile", FAMILY["nasnet_a_mobile"])
    assert cells[3:7] == ["5.29", "5.3", "564", "564"]


def test_readme_shows_every_model_as_it_is_counted(tool: ModuleType) -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    table = text.split(tool.BEGIN)[1].split(tool.END)[0]
    rows = [line.split(" | ") for line in table.splitlines() if line.startswith("| `")]
    shown = {row[0].strip("| `"): row[3] for row in rows}
    for name in FAMILY:
        parameters = sum(p.numel() for p in timm.create_model(name, device="meta").parameters())
        assert shown[name] == f"{parameters / 1e6:.2f}"


def test_only_what_stands_between_the_marks_is_replaced(tool: ModuleType) -> None:
    text = f"before\n{tool.BEGIN}\nold\n{tool.END}\nafter\n"
    assert tool.replace_between(text, "new\n") == f"before\n{tool.BEGIN}\nnew\n{tool.END}\nafter\n"
    with pytest.raises(ValueError, match="marks"):
        tool.replace_between("no marks", "new\n")
