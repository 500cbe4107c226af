"""Parser of protocol buffers in text form without their definitions, for ``pipeline.config``."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from nasnet_det.safe_io.values import format_value

_TOKEN = re.compile(r"""\s*(?:\#[^\n]*|("(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*')|([-+.\w/]+)|([{}<>\[\]:,;]))""")


class PipelineConfigError(ValueError):
    """A pipeline config that is broken or unsupported; names the field, its value and what is supported."""


class Message:
    """A message of the file: its fields, and which of them were asked for.

    Args:
        fields: every value of each field, in order.
        path: the message's path in the file.
    """

    def __init__(self, fields: dict[str, list[Any]], path: str = "") -> None:
        self.fields, self.path = fields, path
        self._asked: set[str] = set()

    def values(self, name: str) -> list[Any]:
        """Return all values of a field."""
        self._asked.add(name)
        return self.fields.get(name, [])

    def value(self, name: str, default: Any) -> Any:
        """Return a field's last value, of the type of ``default``, or ``default`` if the field is missing.

        Raises:
            PipelineConfigError: if it is of another type.
        """
        values = self.values(name)
        if not values:
            return default
        value = values[-1]
        if isinstance(default, float) and type(value) is int:
            value = float(value)
        if type(value) is not type(default):
            raise PipelineConfigError(
                f"{self.path[:200]}{name}: expected {type(default).__name__}, not {format_value(value)}"
            )
        return value

    def message(self, name: str) -> Message:
        """Return a field that is a message, or an empty message if it is missing."""
        values = self.values(name)
        if values and not isinstance(values[-1], Message):
            raise PipelineConfigError(
                f"{self.path[:200]}{name}: expected a message in braces, not {format_value(values[-1])}"
            )
        return values[-1] if values else Message({}, f"{self.path}{name}.")

    def demand(self, name: str, default: Any, supported: Any) -> None:
        """Refuse any value of a field but the supported one.

        Raises:
            PipelineConfigError: for another value.
        """
        value = self.value(name, default)
        if value != supported:
            raise PipelineConfigError(
                f"{self.path[:200]}{name} is {format_value(value)}; only {supported!r} is supported"
            )

    def ignore(self, *names: str) -> None:
        """Mark fields that have no effect here as read."""
        self._asked.update(names)

    def not_understood(self) -> Iterator[str]:
        """Yield the paths of fields that were not read, in this message and those inside it."""
        for name, values in self.fields.items():
            if name not in self._asked:
                yield self.path + name
            elif isinstance(values[-1], Message) and values[-1]._asked:
                yield from values[-1].not_understood()


def parse(text: str) -> Message:
    """Parse the text form.

    Raises:
        PipelineConfigError: if it is broken, with the line.
    """
    tokens = list(_tokens(text))
    try:
        message, end = _message(tokens, 0, "", "")
    except RecursionError:
        raise PipelineConfigError("its messages are nested too deeply") from None
    if end < len(tokens):
        raise PipelineConfigError(f"line {tokens[end][1]}: {format_value(tokens[end][0])} closes nothing")
    return message


def _tokens(text: str) -> Iterator[tuple[str, int]]:
    position = 0
    text = text.rstrip()
    while position < len(text):
        found = _TOKEN.match(text, position)
        if not found:
            rest = text[position:].lstrip()
            line = text.count("\n", 0, len(text) - len(rest)) + 1
            raise PipelineConfigError(f"line {line}: cannot be read from {rest[:20]!r} on")
        line = text.count("\n", 0, found.end()) + 1
        position = found.end()
        token = found.group(1) or found.group(2) or found.group(3)
        if token:
            yield token, line


def _message(tokens: list[tuple[str, int]], at: int, closing: str, path: str) -> tuple[Message, int]:
    """Parse the message from token ``at`` to ``closing``; returns it and the next token's position."""
    fields: dict[str, list[Any]] = {}
    while at < len(tokens) and tokens[at][0] != closing:
        name, line = tokens[at]
        if name in ",;":
            at += 1
            continue
        if not re.fullmatch(r"[A-Za-z_]\w*", name):
            if name in "}>":
                break
            raise PipelineConfigError(f"line {line}: expected a field's name, not {format_value(name)}")
        at += 1
        if at < len(tokens) and tokens[at][0] == ":":
            at += 1
        values, at = _values(tokens, at, name, path)
        fields.setdefault(name, []).extend(values)
    if closing and (at >= len(tokens) or tokens[at][0] != closing):
        raise PipelineConfigError(
            f"the file ends inside {path[:200].rstrip('.') or 'a message'}: {closing!r} is missing"
        )
    return Message(fields, path), at + bool(closing)


def _values(tokens: list[tuple[str, int]], at: int, name: str, path: str) -> tuple[list[Any], int]:
    if at >= len(tokens):
        raise PipelineConfigError(f"the file ends after {path[:200]}{format_value(name)[1:-1]}")
    token, line = tokens[at]
    if token in "{<":
        value, at = _message(tokens, at + 1, "}" if token == "{" else ">", f"{path}{name}.")
        return [value], at
    if token != "[":
        return [_scalar(token, line)], at + 1
    values: list[Any] = []
    at += 1
    while at < len(tokens) and tokens[at][0] != "]":
        if tokens[at][0] == ",":
            at += 1
            continue
        found, at = _values(tokens, at, name, path)
        values += found
    if at >= len(tokens):
        raise PipelineConfigError(f"the file ends inside the list {path[:200]}{format_value(name)[1:-1]}")
    return values, at + 1


def _scalar(token: str, line: int) -> Any:
    if token[0] in "\"'":
        return re.sub(r"\\(.)", r"\1", token[1:-1])
    if token in ("true", "false"):
        return token == "true"
    for kind in (int, float):
        try:
            return kind(token)
        except ValueError:
            continue
    if not re.fullmatch(r"[A-Za-z_]\w*", token):
        raise PipelineConfigError(f"line {line}: expected a value, got {format_value(token)}")
    return token
