"""Pages: one file, escaped, pictures within."""

from __future__ import annotations

import base64
import io
import re
from html.parser import HTMLParser

from PIL import Image

from nasnet_det.draw.page import Page


class Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.texts: list[str] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def test_names_are_text_and_never_markup() -> None:
    page = Page("<b>1</b>")
    page.heading("a & b")
    page.text('<script>alert("x")</script>', "fatal")
    page.table(["<i>"], [["<u>"]])
    page.sheet([(Image.new("RGB", (4, 3)), 'x" onerror="y')])
    reader = Reader()
    reader.feed(str(page))
    assert not {"script", "i", "u", "b"} & set(reader.tags)
    assert {"<b>1</b>", "a & b", '<script>alert("x")</script>', "<i>", "<u>", 'x" onerror="y'} <= set(reader.texts)
    assert reader.tags.count("img") == 1


def test_pictures_are_embedded() -> None:
    page = Page("x")
    page.sheet([(Image.new("L", (40, 30), 200), "grey")])
    (data,) = re.findall(r'src="data:image/jpeg;base64,([^"]+)"', str(page))
    with Image.open(io.BytesIO(base64.b64decode(data))) as picture:
        assert picture.size == (40, 30)
    assert "http" not in str(page)
