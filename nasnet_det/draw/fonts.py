"""Fonts for labels in any script: a label is drawn with a font that has all its characters, or not at all."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from functools import cache, lru_cache
from pathlib import Path

from PIL import ImageFont, features

#: Directions of characters that are written from right to left, and categories of marks that join their neighbours.
_RIGHT_TO_LEFT, _MARKS = ("R", "AL"), ("Mn", "Mc", "Me")
#: Beyond this a label is cut, as nothing of the picture would be left.
_LONGEST = 40
_SCALABLE = (".ttf", ".otf", ".ttc")


def font_for(text: str, size: float) -> ImageFont.FreeTypeFont:
    """Return a font that can draw ``text``; Pillow's own for ASCII and for text that :func:`is_readable` refuses."""
    path = None if text.isascii() else _font_file(frozenset(text))
    font = ImageFont.load_default(size=size) if path is None else ImageFont.truetype(path, size)
    assert isinstance(font, ImageFont.FreeTypeFont)  # load_default returns another kind only without a size
    return font


def readable_names(names: Sequence[str]) -> list[str]:
    """Return class names for labels: on one line, cut where long, and ``class N`` for those that no font can draw."""
    lines = [" ".join(str(name).split()) for name in names]
    cut = [line if len(line) <= _LONGEST else f"{line[: _LONGEST - 3]}..." for line in lines]
    return [name if is_readable(name) else f"class {number}" for number, name in enumerate(cut)]


def is_readable(text: str) -> bool:
    """Return whether ``text`` can be drawn: every character is in one font, and joined as its script demands."""
    if not text.isprintable() or not text.strip():
        return False
    if text.isascii():
        return True
    joined = any(unicodedata.bidirectional(c) in _RIGHT_TO_LEFT or unicodedata.category(c) in _MARKS for c in text)
    return not (joined and not features.check("raqm")) and _font_file(frozenset(text)) is not None


@lru_cache(maxsize=4096)
def _font_file(characters: frozenset[str]) -> str | None:
    """Return the first scalable font that has all the characters: matplotlib's DejaVu Sans, then the system's."""
    wanted = {ord(character) for character in characters if not character.isspace()}
    return next((path for path in _font_files() if wanted <= _covered(path)), None)


@cache
def _font_files() -> tuple[str, ...]:
    from matplotlib import font_manager

    scalable = [path for path in map(Path, font_manager.findSystemFonts()) if path.suffix.lower() in _SCALABLE]
    upright = sorted(set(scalable), key=lambda path: ("Regular" not in path.stem, path.name))
    return (font_manager.findfont("DejaVu Sans"), *map(str, upright))


@cache
def _covered(path: str) -> frozenset[int]:
    """Return the code points of a font's glyphs; none for one that has bitmaps of a single size, or is damaged."""
    from matplotlib.ft2font import FT2Font

    try:
        font = FT2Font(path)
        return frozenset(font.get_charmap()) if font.scalable else frozenset()
    except (OSError, RuntimeError):
        return frozenset()
