"""Labels in any script are readable, or the class's number."""

from __future__ import annotations

import pytest
from PIL import Image

from nasnet_det.draw.detections import Detection, draw
from nasnet_det.draw.fonts import font_for, is_readable, readable_names


def test_names_that_no_font_draws_become_numbers() -> None:
    names = ["cat", "Käfer", "собака", "a\nb", "", "\x00", "\U000e0041", "x" * 300]
    found = readable_names(names)
    assert found[:4] == ["cat", "Käfer", "собака", "a b"]
    assert found[4:7] == ["class 4", "class 5", "class 6"]
    assert len(found[7]) < 50


@pytest.mark.parametrize("name", ["σκύλος", "كلب", "犬", "कुत्ता", "🐶"])
def test_a_readable_name_has_all_its_glyphs(name: str) -> None:
    """A missing glyph is drawn as the box of a code point without a character."""
    if is_readable(name):
        font = font_for(name, 40)
        missing = bytes(font.getmask("\uffff"))
        assert all(bytes(font.getmask(character)) != missing for character in name)
    draw(Image.new("RGB", (100, 80)), [Detection((5, 20, 60, 70), 0, readable_names([name])[0])])
