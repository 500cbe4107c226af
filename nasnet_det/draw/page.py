"""One HTML file of text, tables and pictures, complete in itself."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Sequence
from html import escape

from PIL import Image

#: A regular expression that is found at the beginning of every page, and of no other file.
OWN = rb"<style>\nbody \{ font: 15px/1\.5 system-ui, sans-serif; margin: 2rem auto; max-width: 76rem;"
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 76rem; padding: 0 1rem; color: #222; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2rem; border-bottom: 1px solid #ddd; }
table { border-collapse: collapse; margin: .5rem 0; display: block; width: fit-content;
  max-width: 100%; overflow: auto; max-height: 36rem; }
td, th { padding: .2rem .7rem; border-bottom: 1px solid #eee; text-align: right; white-space: nowrap; }
td:first-child, th:first-child { text-align: left; } th { position: sticky; top: 0; background: #f6f6f6; }
.sheet { display: grid; grid-template-columns: repeat(auto-fill, minmax(17rem, 1fr)); gap: 1rem; }
.wide.sheet { grid-template-columns: repeat(auto-fill, minmax(min(100%, 34rem), 1fr)); }
figure { margin: 0; } img { max-width: 100%; height: auto; } figcaption { font-size: .85rem; overflow-wrap: anywhere; }
.fatal { color: #a00; } .note { color: #555; }
"""


class Page:
    """A page that grows from its title downwards; every text is escaped.

    Args:
        title: the heading.
    """

    def __init__(self, title: str) -> None:
        self._title = escape(title)
        self._parts = [f"<h1>{self._title}</h1>"]

    def heading(self, text: str) -> None:
        """Add a section's heading."""
        self._parts.append(f"<h2>{escape(text)}</h2>")

    def text(self, text: str, kind: str = "") -> None:
        """Add a paragraph; ``kind`` is ``fatal``, ``note`` or nothing."""
        self._parts.append(f'<p class="{escape(kind)}">{escape(text)}</p>')

    def table(self, head: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
        """Add a table; its first column is aligned left, the others right."""
        cells = [_row("th", head), *(_row("td", row) for row in rows)]
        self._parts.append(f"<table>{''.join(cells)}</table>")

    def drawing(self, svg: str, caption: str) -> None:
        """Add a drawing in SVG."""
        data = base64.b64encode(svg.encode()).decode()
        self._parts.append(_figure(f"data:image/svg+xml;base64,{data}", caption))

    def sheet(self, pictures: Iterable[tuple[Image.Image, str]], wide: bool = False) -> None:
        """Add pictures side by side, each over its caption; two in a row if they are wide."""
        figures = "".join(_figure(_embedded(picture), caption) for picture, caption in pictures)
        self._parts.append(f'<div class="{"wide sheet" if wide else "sheet"}">{figures}</div>')

    def __str__(self) -> str:
        """Return the whole file."""
        return (
            f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{self._title}</title>'
            f"<style>{_STYLE}</style></head><body>{''.join(self._parts)}</body></html>"
        )


def _row(tag: str, cells: Sequence[object]) -> str:
    return "<tr>" + "".join(f"<{tag}>{escape(str(cell))}</{tag}>" for cell in cells) + "</tr>"


def _figure(source: str, caption: str) -> str:
    text = escape(caption)
    return f'<figure><img src="{source}" alt="{text}"><figcaption>{text}</figcaption></figure>'


def _embedded(picture: Image.Image) -> str:
    buffer = io.BytesIO()
    picture.convert("RGB").save(buffer, format="JPEG", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
