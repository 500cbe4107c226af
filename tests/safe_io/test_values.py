"""Foreign JSON and YAML: read as data, or a ValueError for any mistake; values in messages are short."""

from __future__ import annotations

import gc
from typing import Any

import pytest

from nasnet_det.safe_io.values import (
    DEEPEST,
    check_extent,
    collection_paused,
    format_names,
    format_value,
    named,
    parse_json,
    parse_yaml,
    printable,
)


def test_what_is_right_is_read() -> None:
    assert parse_json('{"a": [1, 2.5, null]}') == {"a": [1, 2.5, None]}
    assert parse_yaml("a: &x [1, 2]\nb: *x\n") == {"a": [1, 2], "b": [1, 2]}


@pytest.mark.parametrize("text", ["{", "[" * 100_000, "9" * 5000, "\ud800"])
def test_json_that_cannot_be_read_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError):
        parse_json(text)


LAUGHS = "\n".join(["a0: &a0 [x, x]", *(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]" for i in range(1, 60))])


@pytest.mark.parametrize(
    "text",
    [
        *("a: [", "!!python/object/apply:os.getcwd []", LAUGHS, "a: &a [*a]", "a: &a {b: *a}", "[" * 3000),
        "a: " + "[" * (DEEPEST + 2) + "]" * (DEEPEST + 2),
    ],
)
def test_yaml_that_cannot_be_read_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError):
        parse_yaml(text)


@pytest.mark.parametrize("text", ['{"a": 1, "ab": 2, "a": 1}', '[{"b": {"ab": 1, "a": 2, "ab": 3}}]'])
def test_a_repeated_key_is_named(text: str) -> None:
    for parse in (parse_json, parse_yaml):
        with pytest.raises(ValueError, match=r"'a'|'ab'"):
            parse(text)
    with pytest.raises(ValueError, match="'1'"):
        parse_yaml("names:\n  0: a\n  1: b\n  1: c\n")


def test_keys_that_are_merged_are_not_repeated() -> None:
    text = "x: &x {a: 1}\ny: &y {<<: *x, a: 2}\nz: {<<: *y, <<: *x, b: {a: 3}}\n"
    assert parse_yaml(text)["z"] == {"a": 1, "b": {"a": 3}}


def test_commands_of_a_terminal_are_escaped() -> None:
    assert printable("caf\xe9 \x1b[2J\n\u202e") == "caf\xe9 \\x1b[2J\\n\\u202e"


def test_shared_values_are_no_bomb() -> None:
    inner = list(range(1000))
    check_extent([inner] * 900)
    with pytest.raises(ValueError, match="aliases"):
        check_extent([inner] * 1100)


def test_a_message_shows_a_little_of_anything() -> None:
    endless: list[Any] = []
    endless.append(endless)
    for value in ("a" * 10**6, list(range(10**5)), 10**5000, endless, {str(i): "b" * 100 for i in range(100)}):
        assert 3 < len(format_value(value)) < 210
    assert format_value("text") == "'text'"
    assert format_names(["a", "b", 3]) == "a, b, 3"
    assert len(format_names(["x" * 500] * 500)) < 210


def test_named() -> None:
    assert named(["a", "b"]) == "a, b"
    assert named(range(5)) == "0, 1, 2 and 2 more"


def test_garbage_collection_continues_after_an_error() -> None:
    with pytest.raises(RuntimeError), collection_paused():
        assert not gc.isenabled()
        raise RuntimeError
    assert gc.isenabled()
