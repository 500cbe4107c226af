"""Reading protocol buffers in text form."""

from __future__ import annotations

import pytest

from nasnet_det.detection.convert.protobuf_text import Message, PipelineConfigError, parse

TEXT = """
# a comment
model {  # another
  faster_rcnn: {
    num_classes: 90; scale: -1.5e-3, scale: .25
    type: 'a \\'quoted\\' "name"'
    choice: SOFTMAX
    on: true
    list: [1, 2, 3]
    nested < deep { x: 1 } deep { x: 2 } >
  }
}
"""


def test_every_form_of_value() -> None:
    detector = parse(TEXT).message("model").message("faster_rcnn")
    assert detector.value("num_classes", 0) == 90
    assert detector.values("scale") == [-0.0015, 0.25]
    assert detector.value("type", "") == "a 'quoted' \"name\""
    assert detector.value("choice", "") == "SOFTMAX"
    assert detector.value("on", False) is True
    assert detector.values("list") == [1, 2, 3]
    assert [deep.value("x", 0) for deep in detector.message("nested").values("deep")] == [1, 2]


def test_what_is_missing_has_its_default() -> None:
    message = parse("a: 1")
    assert message.value("b", 0.5) == 0.5
    assert message.value("a", 0.5) == 1.0
    assert message.message("c").message("d").value("e", "x") == "x"


def test_what_nobody_asked_for_is_known() -> None:
    message = parse("a: 1 b { c: 2 d: 3 } e { f: 1 }")
    message.value("a", 0)
    message.message("b").value("c", 0)
    assert list(message.not_understood()) == ["b.d", "e"]
    message.ignore("e")
    assert list(message.not_understood()) == ["b.d"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a {\n b: 1\n", "inside a.*'}'"),
        ("a: 1 }", "line 1: '}'"),
        ("a:\n\n$", "line 3"),
        ("a:", "ends after a"),
        ("a: [1, 2", "list a"),
        ("1: 2", "line 1: .*'1'"),
        ("a: +-", "line 1: .*'[+]-'"),
    ],
)
def test_what_is_broken_is_named(text: str, says: str) -> None:
    with pytest.raises(PipelineConfigError, match=says):
        parse(text)


def test_values_of_another_type_are_refused() -> None:
    message = parse("outer { a: 'x' b { } }").message("outer")
    with pytest.raises(PipelineConfigError, match=r"outer\.a: .*int"):
        message.value("a", 1)
    with pytest.raises(PipelineConfigError, match=r"outer\.a: .*'x'"):
        message.message("a")
    with pytest.raises(PipelineConfigError, match=r"outer\.b: .*int"):
        message.value("b", 1)
    with pytest.raises(PipelineConfigError, match=r"outer\.a .*'x'.*'y'"):
        message.demand("a", "", "y")
    assert isinstance(message.message("b"), Message)
