"""Parsing of JSON and YAML from outside, and formatting of such values in messages.

Both parsers fail in more ways than their own exceptions: numbers with thousands of digits, nesting that exhausts the
stack, and YAML aliases, with which a few lines expand to billions of values or contain themselves. Here all of these
are ValueErrors.
"""

from __future__ import annotations

import gc
import itertools
import json
import reprlib
import traceback
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import yaml

#: The deepest nesting of lists and mappings: far below the stack's limit.
DEEPEST = 100
#: The number of values that a YAML text may expand to.
MOST_VALUES = 1_000_000


def parse_json(text: str | bytes) -> Any:
    """Parse a JSON text, or bytes in UTF-8, UTF-16 or UTF-32.

    Raises:
        ValueError: if it is not JSON, has a key twice in one object, or is nested too deeply for this Python.
    """
    try:
        return json.loads(text, object_pairs_hook=_unique)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object of JSON; Python's own reader drops all but the last value of a key."""
    made = dict(pairs)
    if len(made) < len(pairs):
        repeated = Counter(key for key, _ in pairs).most_common(1)[0][0]
        raise ValueError(f"an object has the key {format_value(repeated)} more than once")
    return made


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, which itself drops all but the last value of a key."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """Return a mapping whose keys are all different, except ``<<``."""
        node: yaml.MappingNode = super().compose_mapping_node(anchor)
        keys = [
            key for key, _ in node.value if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge"
        ]
        known: set[tuple[str, str]] = set()
        for key in keys:
            if (key.tag, key.value) in known:
                raise ValueError(f"line {key.start_mark.line + 1} has the key {key.value!r} again")
            known.add((key.tag, key.value))
        return node


def parse_yaml(text: str) -> Any:
    """Parse a YAML text into plain values; nothing in it is executed.

    Raises:
        ValueError: if it is not YAML, has a key twice in one mapping, is nested too deeply, or expands to too many
            values.
    """
    try:
        value = yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        code = "; a tag that runs code is not followed: write the values themselves" if "python/" in str(error) else ""
        raise ValueError(" ".join(str(error).split()) + code) from None
    except (RecursionError, OverflowError):
        raise ValueError("it is nested too deeply, or contains a number that is too large") from None
    check_extent(value)
    return value


@contextmanager
def collection_paused() -> Iterator[None]:
    """Pause Python's cycle collector while many small objects are created.

    A million detections hold no cycles, and collection takes a third of the time of reading and scoring them.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def check_extent(value: Any) -> None:
    """Check that a value does not expand to too many others or contain itself.

    Raises:
        ValueError: if it does.
    """
    if _extent(value, {}, 0) > MOST_VALUES:
        raise ValueError(f"its aliases expand to more than {MOST_VALUES} values")


def _extent(value: Any, known: dict[int, int], depth: int) -> int:
    """Return the number of values in ``value``, itself included; shared values are visited once."""
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
    """Format a value for a message: its ``repr``, shortened if it is long, deep or recursive."""
    try:
        text = _shortened.repr(value)
    except ValueError:  # an int with more digits than Python prints
        return f"a {type(value).__name__} too large to print"
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


def format_names(names: Iterable[Any]) -> str:
    """Format names for a message: without quotes, shortened if they are long or many."""
    text = repr(", ".join(map(str, itertools.islice(names, 20))))[1:-1]
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


def printable(text: str) -> str:
    """Return a text for a terminal, with escapes for the commands and line breaks that names from outside may hold."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def named(items: Collection[Any], limit: int = 3, count: int = 0) -> str:
    """Return the first few items and the number of the others: ``a.jpg, b.jpg, c.jpg and 9 more``.

    Args:
        items: all of them, or the first.
        limit: how many to name.
        count: how many there are, if ``items`` are the first.
    """
    shown = ", ".join(str(item) for item in list(items)[:limit])
    more = max(len(items), count) - limit
    return shown + (f" and {more} more" if more > 0 else "")


def one_line(error: BaseException) -> str:
    """Return an exception's message with its lines joined, at most 300 characters.

    Where it has none, as detectron2's assertions, it is the line of code that raised it.
    """
    if not str(error).strip() and (frames := traceback.extract_tb(error.__traceback__)):
        return str(frames[-1].line)[:300]
    return " ".join(str(error).split())[:300]


def first_line(error: BaseException) -> str:
    """Return the first line of an exception's message, at most 300 characters, or its class's name if it is empty."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]


def reason(error: Exception) -> str:
    """Return in one line why a file cannot be read, without the file's name, which an OSError's message has."""
    return error.strerror if isinstance(error, OSError) and error.strerror else one_line(error)
