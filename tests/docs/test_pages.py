"""Every command and every Python block of the pages works: page by page, from top to bottom, in an empty folder."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from nasnet_det.genotypes.genotype import OPERATIONS, Genotype
from nasnet_det.models import operations
from tests.docs import table, tried, world
from tests.docs.pages import PAGES, Block, Command, blocks, commands

SHELL, PYTHON, DATA, OTHER = ("sh", "bash"), ("python",), ("json",), ("", "bibtex")


@pytest.fixture(autouse=True)
def forget() -> Iterator[None]:
    """Unregister the operations and data sets of a page after it."""
    before, builders = set(OPERATIONS), dict(operations._BUILDERS)
    yield
    for name in set(OPERATIONS) - before:
        del OPERATIONS[name]
    operations._BUILDERS.clear()
    operations._BUILDERS.update(builders)
    try:
        from detectron2.data import DatasetCatalog, MetadataCatalog
    except ImportError:
        return
    for name in ("toy", "my_train", "my_val", "nasnet_demo"):
        for catalog in (DatasetCatalog, MetadataCatalog):
            if name in catalog:
                catalog.remove(name)


@pytest.fixture(scope="session")
def published(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A function that returns the substitute for a member's published weights; each is written once."""
    root = tmp_path_factory.mktemp("published")

    def file_of(member: str) -> Path:
        path = root / f"{member}.safetensors"
        if not path.is_file():
            world.save_weights(member, path)
        return path

    return file_of


@pytest.fixture
def no_downloads(published: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Let ``pretrained=True`` find the substitutes."""
    monkeypatch.setattr(
        "nasnet_det.weights.published._first_of", lambda names, cache_dir: published(names[0].split(".")[0])
    )


class Reader:
    """A reader who follows a page.

    Args:
        page: the page's file name.
        patch: sets environment variables for the page.
        slow: whether slow rows are run.
    """

    def __init__(self, page: str, patch: pytest.MonkeyPatch, slow: bool) -> None:
        self.page, self.patch, self.slow = page, patch, slow
        self.namespace: dict[str, Any] = {"__name__": "__page__"}

    def read(self, block: Block) -> None:
        """Follow a block.

        Raises:
            AssertionError: if that fails; names the command and its line.
        """
        assert block.language in (*SHELL, *PYTHON, *DATA, *OTHER), f"{self.page}:{block.line}: {block.language}"
        if block.language in SHELL:
            for command in commands(block.text):
                self.give(command, block.line)
        elif block.language in PYTHON:
            self.run_python(block)
        elif block.language in DATA:
            content = json.loads(block.text)
            if "normal" in content:
                Genotype.from_dict(content)

    def give(self, command: Command, line: int) -> None:
        """Run a command, or check its words."""
        where = f"{self.page}:{line}: {command}"
        for name, value in command.environment.items():
            self.patch.setenv(name, value)
            if name == "DETECTRON2_ENV_MODULE" and value.endswith(".py"):
                from detectron2.utils.env import setup_custom_environment

                setup_custom_environment(value)
        if not command.words:
            return
        row = table.row_of(self.page, str(command))
        program, *words = shlex.split(row.swapped(str(command)) if row else str(command))
        if program == "pip":
            tried.check_pip(words)
        elif program == "make":
            tried.check_make(words)
        else:
            assert row is not None, f"{where}\ntests/docs/table.py has no row for it"
            self.try_program(program, [*words, *shlex.split(row.more)], row, where)

    def try_program(self, program: str, words: list[str], row: table.Row, where: str) -> None:
        """Run a Python script, or check its words; another program needs a reason not to be run."""
        if program == "torchrun":
            script, words = tried.torchrun(words)
        elif program == "python" and words[0].endswith(".py"):
            script, *words = words
        else:
            assert row.why, f"{where}\nis not a script: its row in tests/docs/table.py needs a reason not to run it"
            return
        if script.startswith("DETECTRON2/"):
            import detectron2

            script = script.replace("DETECTRON2", str(Path(detectron2.__file__).parents[1]), 1)
        if row.why or (row.slow and not self.slow):
            tried.check(script, words)
        else:
            status = tried.run(script, words)
            assert status == row.status, f"{where}\nexit status {status} instead of {row.status}"

    def run_python(self, block: Block) -> None:
        """Run a Python block in the namespace of those before it."""
        needed = table.PAGES.get(self.page, table.Page())
        for text, name in needed.saved:
            if text in block.text:
                Path(name).write_text(block.text, encoding="utf-8")
        row = table.row_of(self.page, block.text)
        text = row.swapped(block.text) if row else block.text
        code = compile("\n" * (block.line - 1) + text, self.page, "exec")
        if row is None or not (row.why or (row.slow and not self.slow)):
            exec(code, self.namespace)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_page(
    page: Path, no_downloads: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pytestconfig: pytest.Config
) -> None:
    needed = table.PAGES.get(page.name, table.Page())
    for module in needed.needs:
        pytest.importorskip(module)
    monkeypatch.chdir(tmp_path)
    world.make_world(tmp_path, needed.files)
    reader = Reader(page.name, monkeypatch, pytestconfig.getoption("--run-slow"))
    for block in blocks(page.read_text(encoding="utf-8")):
        reader.read(block)


def test_every_row_is_of_use() -> None:
    """No row is left over from a command that is gone."""
    found: dict[str, list[str]] = {}
    for page in PAGES:
        for block in blocks(page.read_text(encoding="utf-8")):
            texts = [str(command) for command in commands(block.text)] if block.language in SHELL else [block.text]
            found.setdefault(page.name, []).extend(texts)
    assert set(table.PAGES) <= set(found)
    for page, needed in table.PAGES.items():
        for row in needed.rows:
            assert any(re.search(row.pattern, text) for text in found[page]), f"{page}: nothing matches {row.pattern}"
    for row in table.ROWS:
        assert any(re.search(row.pattern, text) for texts in found.values() for text in texts), row.pattern


def test_a_renamed_option_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(__file__).parents[2])
    tried.check("tools/draw_cell.py", ["nasnet_a", "--out", "a.svg"])
    with pytest.raises(AssertionError, match="draw_cell"):
        tried.check("tools/draw_cell.py", ["nasnet_a", "--output-file", "a.svg"])
    pytest.importorskip("detectron2")
    from nasnet_det.detection.config import ConfigError

    with pytest.raises(ConfigError, match="COLOUR"):
        tried.check("tools/train_net.py", ["--config-file", "configs/fpn_mobile.yaml", "MODEL.NASNET.COLOUR", "1"])


def test_a_command_that_nobody_knows_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    reader = Reader("README.md", monkeypatch, slow=False)
    with pytest.raises(AssertionError, match=r"nothing\.py"):
        reader.give(Command({}, ("python", "tools/nothing.py")), 1)
