"""Mutations of inputs: of bytes, of text, and of plain values by their structure.

Each draws from the case's generator; a pristine case gets its input back unchanged.
"""

from __future__ import annotations

import copy
import json
import struct
from collections.abc import Callable, Iterator, Sequence
from random import Random
from typing import Any

from tests.fuzz.engine import Case

#: Numbers at which readers break.
NUMBERS = (0, 1, -1, 2, 3, 7, 127, 128, 255, 256, 2**15, 2**16, 2**31 - 1, 2**31, 2**32, 2**53 + 1, 2**63 - 1, 2**63)
#: Values of unexpected types and sizes.
ODD: tuple[Any, ...] = (
    *NUMBERS,
    *(-(2**31), -(2**63), 10**30, 10**400, 0.5, -0.0, 1e-320, 1e308, float("nan"), float("inf"), float("-inf")),
    *(None, True, False, "", " ", "x", "0", "1", "-1", "nan", "1e999", "null", "None", "\0", "\n", "\ud800", "ü" * 50),
    *("../../etc/passwd", "/dev/zero", "~", "http://127.0.0.1:9/x", "a" * 5000, "{}", "%s%n", "\u202e", "identity"),
    *([], {}, [[]], [None], {"": 0}, {"a": {"b": []}}, [0] * 1000, [[[[[]]]]]),
)
#: Pieces of text at which parsers break.
PIECES = (
    *"{}[]\"',:\\\n\t\0#",
    *("&a ", "*a", "- ", "<<: ", "---\n", "...\n", "? ", "!!binary x", "!!python/name:os.system ", "\\ud800", "\ufeff"),
    *("NaN", "-Infinity", "1e999", "0x7f", "1_000", "null", "true", "2001-01-01", "0o17", "1:30"),
    *("[" * 2000, "9" * 5000, "-" * 50, "a: " * 300, " " * 3000, "{" * 500),
)


def spoil_bytes(data: bytes, case: Case, edits: int = 4) -> bytes:
    """Return bytes with a few changes, most often in the first and last kilobytes, where formats keep their headers."""
    if case.pristine:
        return data
    random, found = case.random, bytearray(data)
    if random.random() < 0.02:
        return random.randbytes(random.choice((0, 1, 8, 100, 4000)))
    for _ in range(random.randint(1, edits)):
        _edit_bytes(found, random)
    return bytes(found)


def spoil_text(text: str, case: Case, pieces: Sequence[str] = ()) -> str:
    """Return a text with a few changes, among them pieces of its grammar and of its own."""
    if case.pristine:
        return text
    random, words = case.random, [*PIECES, *pieces]
    for _ in range(random.randint(1, 3)):
        at, length = random.randint(0, len(text)), random.choice((0, 0, 1, 2, 5, 20, 100))
        choice = random.random()
        new = random.choice(words) if choice < 0.6 else text[random.randint(0, len(text)) :][: random.randint(0, 200)]
        text = text[:at] + (new if choice < 0.9 else "") + text[at + length :]
    return text


def spoil_value(value: Any, case: Case, odd: Sequence[Any] = ()) -> Any:
    """Return a deep copy of plain values with a few of them replaced, dropped, repeated, renamed, moved or wrapped."""
    if case.pristine:
        return value
    root = [copy.deepcopy(value)]
    for _ in range(case.random.choice((1, 1, 1, 2, 3))):
        if positions := list(_positions(root)):
            _spoil_position(*case.random.choice(positions), positions, [*ODD, *odd], case.random)
    return root[0] if root else None


def spoil_settings(value: dict[str, Any], case: Case, odd: Sequence[Any] = ()) -> dict[str, Any]:
    """Return :func:`spoil_value` of settings where it is still a dictionary, else the settings."""
    found = spoil_value(value, case, odd)
    return found if isinstance(found, dict) else dict(value)


def json_of(value: Any, case: Case) -> bytes:
    """Return the JSON text of spoiled values, itself spoiled in a quarter of the cases."""
    text = json.dumps(value)
    if not case.pristine and case.random.random() < 0.25:
        text = spoil_text(text, case)
    return text.encode("utf-8", "surrogatepass")


def spoil_header(data: bytes, change: Callable[[dict[str, Any]], Any]) -> bytes:
    """Return a safetensors file with a changed header."""
    (length,) = struct.unpack("<Q", data[:8])
    text = json.dumps(change(json.loads(data[8 : 8 + length]))).encode("utf-8", "surrogatepass")
    return struct.pack("<Q", len(text)) + text + data[8 + length :]


def _position(length: int, random: Random) -> int:
    near = random.choice((length, length, min(length, 64), min(length, 2048), -min(length, 1024)))
    return random.randint(0, near) if near >= 0 else length + random.randint(near, 0)


def _edit_bytes(data: bytearray, random: Random) -> None:
    """Change a bit, a number or a block, or cut the end off."""
    at, kind = _position(len(data), random), random.randrange(11)
    length = random.choice((1, 4, 64, 1000))
    if kind < 2 and at < len(data):
        data[at] ^= 1 << random.randrange(8)
    elif kind < 4:
        size = random.choice("BHIQ")
        number = random.choice(NUMBERS) % (1 << 8 * struct.calcsize(f"<{size}"))
        new = struct.pack(random.choice("<>") + size, number)
        data[at : at + len(new)] = new
    elif kind == 4 and random.random() < 0.4:
        del data[at:]
    elif kind == 5:
        del data[at : at + length]
    elif kind == 6:
        data[at:at] = random.randbytes(length)
    elif kind == 7:
        data[at:at] = data[at : at + length] * random.choice((1, 2, 50))
    elif kind == 8:
        data[at : at + length] = bytes(len(data[at : at + length]))
    elif kind == 9:
        to = _position(len(data), random)
        data[to : to + 64] = data[at : at + 64]
    else:
        data[at : at + length] = random.randbytes(length)


def _positions(value: Any) -> Iterator[tuple[Any, Any]]:
    """Yield every position below a value: its container and key."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, inner in list(items):
        yield value, key
        if isinstance(inner, (dict, list)):
            yield from _positions(inner)


def _spoil_position(parent: Any, key: Any, positions: list[Any], odd: Sequence[Any], random: Random) -> None:
    kind = random.randrange(8)
    if kind == 0:
        del parent[key]
    elif kind == 1 and isinstance(parent, list):
        parent.insert(random.randint(0, len(parent)), copy.deepcopy(parent[key]))
    elif kind == 1:
        parent[random.choice(("", "x", f"{key}s", str(key).upper(), "\ud800", "a" * 3000))] = parent.pop(key)
    elif kind == 2:
        other, name = random.choice(positions)
        parent[key], other[name] = copy.deepcopy(other[name]), copy.deepcopy(parent[key])
    elif kind == 3:
        parent[key] = random.choice(([parent[key]], {"x": parent[key]}, [parent[key]] * 3, str(parent[key])))
    elif kind == 4 and isinstance(parent[key], (int, float)) and abs(parent[key]) < 1e300:
        parent[key] = parent[key] + random.choice((-1, 1, 0.5, 100, -1000, 2**40))
    else:
        parent[key] = copy.deepcopy(random.choice(odd))
