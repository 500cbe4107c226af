"""Links, anchors and file names in the pages are valid; external addresses are not visited."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.docs.pages import LINKED, PROJECT, VERBS, anchors, code_spans, commands, links

#: A path below one of the project's folders, with an ending.
FILE = re.compile(r"^(?:benchmarks|configs|docs|examples|nasnet_det|notebooks|requirements|tests|tools)/[\w./-]+\.\w+$")


@pytest.mark.parametrize("page", LINKED, ids=lambda page: page.name)
def test_links_are_valid(page: Path) -> None:
    dead = []
    for link in links(page.read_text(encoding="utf-8")):
        if "://" in link:
            parts = urlsplit(link)
            if parts.scheme not in ("http", "https") or "." not in parts.netloc:
                dead.append(link)
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        there = target.exists() and target.is_relative_to(PROJECT)
        if not there or (anchor and anchor not in anchors(target.read_text(encoding="utf-8"))):
            dead.append(link)
    assert not dead


@pytest.mark.parametrize("page", LINKED, ids=lambda page: page.name)
def test_files_named_in_the_prose_exist(page: Path) -> None:
    words = [word for span in code_spans(page.read_text(encoding="utf-8")) for word in span.split()]
    missing = [word for word in words if FILE.match(word) and not (PROJECT / word).exists()]
    assert not missing


def test_a_shell_block_is_read_as_a_shell_reads_it() -> None:
    block = "A=1 python x.py \\\n    --name 'a b'  # why\n\nexport B=2\n"
    first, second = commands(block)
    assert first.environment == {"A": "1"} and first.words == ("python", "x.py", "--name", "a b")
    assert second.environment == {"B": "2"} and not second.words


def test_every_verb_is_on_the_page_of_the_command_line() -> None:
    spans = set(code_spans((PROJECT / "docs" / "command-line.md").read_text(encoding="utf-8")))
    assert set(VERBS) <= spans
    assert {f"tools/{tool}.py" for tool in VERBS.values()} <= spans
