"""The parts of a Markdown page: code blocks, commands, links and headings."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from nasnet_det.cli import main as nasnet_det_cli

PROJECT = Path(__file__).resolve().parents[2]
#: Every page of the documentation, README first.
PAGES = [PROJECT / "README.md", *sorted((PROJECT / "docs").glob("*.md"))]
#: Pages whose links are checked: the project's other texts as well.
LINKED = [*PAGES, *(path for path in sorted(PROJECT.glob("*.md")) if path.name != "README.md")]

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
_CODE = re.compile(r"`([^`\n]+)`")
_HEADING = re.compile(r"^#{1,6} (.+)$", re.MULTILINE)
#: The script in tools/ of each ``nasnet-det VERB``.
VERBS = nasnet_det_cli.TOOLS
_ASSIGNMENT = re.compile(r"[A-Z][A-Z0-9_]*=")


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, its text and the page's line where the text begins."""

    language: str
    text: str
    line: int


@dataclass(frozen=True)
class Command:
    """A shell command: the variables set for it, and its words."""

    environment: dict[str, str]
    words: tuple[str, ...]

    def __str__(self) -> str:
        return shlex.join(self.words)


def blocks(text: str) -> list[Block]:
    """Return the fenced blocks of a page."""
    return [Block(found[1], found[2], text.count("\n", 0, found.start()) + 2) for found in _FENCE.finditer(text)]


def commands(block: str) -> Iterator[Command]:
    """Yield the commands of a shell block; a backslash at the end of a line continues it."""
    for line in block.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        if words and words[0] == "export":
            words = words[1:]
        number = next((i for i, word in enumerate(words) if not _ASSIGNMENT.match(word)), len(words))
        if words:
            environment = dict(word.split("=", 1) for word in words[:number])
            yield Command(environment, _as_script(words[number:]))


def _as_script(words: list[str]) -> tuple[str, ...]:
    """Return a verb of ``nasnet-det`` as a call of its script."""
    if words[:1] == ["nasnet-det"] and words[1] in VERBS:
        return ("python", f"tools/{VERBS[words[1]]}.py", *words[2:])
    return tuple(words)


def prose(text: str) -> str:
    """Return a page without its fenced blocks."""
    return _FENCE.sub("", text)


def links(text: str) -> list[str]:
    """Return the targets of a page's links and pictures."""
    return _LINK.findall(_CODE.sub("", prose(text)))


def code_spans(text: str) -> list[str]:
    """Return the code spans of a page's prose."""
    return _CODE.findall(prose(text))


def anchors(text: str) -> set[str]:
    """Return the anchors of a page's headings, as GitHub and MkDocs both make them."""
    return {
        re.sub(r"\s", "-", re.sub(r"[^\w\s-]", "", heading.replace("`", "")).strip().lower())
        for heading in _HEADING.findall(prose(text))
    }
