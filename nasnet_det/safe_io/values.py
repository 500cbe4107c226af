"""Values from files that others have written: JSON and YAML as plain values, and their place in a message.

Both parsers fail in more ways than by their own errors: numbers of thousands of digits, nesting that exhausts the
stack, and YAML aliases, with which a few lines stand for billions of values or for a value inside itself. Here all of
these are ValueErrors.
"""

from __future__ import annotations

import itertools
import json
import reprlib
from collections.abc import Iterable, Mapping
from typing import Any

import yaml

#: How deep lists and mappings may lie in one another: far below what the stack holds.
DEEPEST = 100
#: How many values a YAML text may stand for once its aliases are written out.
MOST_VALUES = 1_000_000


def parse_json(text: str) -> Any:
    """What a JSON text says.

    Raises:
        ValueError: if it is not JSON, or nested too deeply for this Python.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def parse_yaml(text: str) -> Any:
    """What a YAML text says, in plain values; nothing in it is executed.

    Raises:
        ValueError: if it is not YAML, is nested too deeply, or stands for too many values.
    """
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from None
    except (RecursionError, OverflowError):
        raise ValueError("it is nested too deeply, or holds a number that is too large") from None
    check_extent(value)
    return value


def check_extent(value: Any) -> None:
    """Refuse values that stand for too many others, or contain themselves.

    Raises:
        ValueError: if so.
    """
    if _extent(value, {}, 0) > MOST_VALUES:
        raise ValueError(f"its aliases stand for more than {MOST_VALUES} values")


def _extent(value: Any, known: dict[int, int], depth: int) -> int:
    """How many values ``value`` stands for, itself counted; what is shared is walked over once."""
    if not isinstance(value, (Mapping, list, tuple, set)):
        return 1
    if depth > DEEPEST:
        raise ValueError(f"it is nested more than {DEEPEST} deep")
    if id(value) not in known:
        inner = [*value, *value.values()] if isinstance(value, Mapping) else value
        known[id(value)] = 1 + sum(_extent(item, known, depth + 1) for item in inner)
    return known[id(value)]


_LONGEST = 200
_shortened = reprlib.Repr()
_shortened.maxstring = _shortened.maxother = 60
_shortened.maxlong = 30


def format_value(value: Any) -> str:
    """A value as a message shows it: in Python's words, cut where it is long, deep or without end."""
    try:
        text = _shortened.repr(value)
    except ValueError:  # an integer of more digits than Python writes
        return f"a {type(value).__name__} too large to be written"
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


def format_names(names: Iterable[Any]) -> str:
    """Names as a message shows them: without quotes, cut where they are long or many."""
    text = repr(", ".join(map(str, itertools.islice(names, 20))))[1:-1]
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."
