"""How inputs are spoiled: bytes, text, and plain values with regard to their structure. Each takes a case's own random
numbers; a pristine case gets its input back as it was."""

from __future__ import annotations

import copy
import json
import struct
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

from tests.fuzz.engine import Case

#: Numbers at which readers break.
NUMBERS = (0, 1, -1, 2, 3, 7, 127, 128, 255, 256, 2**15, 2**16, 2**31 - 1, 2**31, 2**32, 2**53 + 1, 2**63 - 1, 2**63)
#: Values that no reader expects where they stand.
ODD: tuple[Any, ...] = (
    *NUMBERS,
    *(-(2**31), -(2**63), 10**30, 10**400, 0.5, -0.0, 1e-320, 1e308, float("nan"), float("inf"), float("-inf")),
    *(None, True, False, "", " ", "x", "0", "1", "-1", "nan", "1e999", "null", "None", "\0", "\n", "\ud800", "ü" * 50),
    *("../../etc/passwd", "/dev/zero", "~", "http://127.0.0.1:9/x", "a" * 5000, "{}", "%s%n", "\u202e", "identity"),
    *([], {}, [[]], [None], {"": 0}, {"a": {"b": []}}, [0] * 1000, [[[[[]]]]]),
)
#: Pieces of text at which parsers break.
PIECES = (
    *(
        "{",
        "}",
        "[",
        "]",
        '"',
        "'",
        ",",
        ":",
        "\\",
        "\n",
        "\t",
        "\0",
        "#",
        "&a ",
        "*a",
        "!!python/name:os.system ",
        "- ",
    ),
    *(
        "NaN",
        "-Infinity",
        "1e999",
        "0x7f",
        "1_000",
        "\\ud800",
        "\ufeff",
        "null",
        "true",
        "<<: ",
        "---\n",
        "...\n",
        "? ",
    ),
    *("[" * 2000, "9" * 5000, "-" * 50, "a: " * 300, " " * 3000, "{" * 500, "!!binary x", "2001-01-01", "0o17", "1:30"),
)


def spoil_bytes(data: bytes, case: Case, edits: int = 4) -> bytes:
    """A few changes, most often in the first and last kilobytes, where formats keep what they say of themselves."""
    if case.pristine:
        return data
    random, found = case.random, bytearray(data)
    if random.random() < 0.02:
        return random.randbytes(random.choice((0, 1, 8, 100, 4000)))
    for _ in range(random.randint(1, edits)):
        random.choice(_BYTE_EDITS)(found, _place(len(found), random), random)
    return bytes(found)


def spoil_text(text: str, case: Case, pieces: Sequence[str] = ()) -> str:
    """A few changes of a text, with pieces of its grammar and of its own."""
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
    """A deep copy of plain values with a few of them replaced, dropped, repeated, renamed, moved or wrapped."""
    if case.pristine:
        return value
    random = case.random
    root = [copy.deepcopy(value)]
    for _ in range(random.choice((1, 1, 1, 2, 3))):
        positions = list(_places(root))
        if not positions:
            break
        parent, key = random.choice(positions)
        _spoil_place(parent, key, positions, [*ODD, *odd], random)
    return root[0] if root else None


def spoil_settings(value: dict[str, Any], case: Case, odd: Sequence[Any] = ()) -> dict[str, Any]:
    """The same of settings, which stay a dictionary of names."""
    found = spoil_value(value, case, odd)
    return found if isinstance(found, dict) else dict(value)


def json_of(value: Any, case: Case) -> bytes:
    """The JSON text of (spoiled) values; now and then spoiled as a text, too."""
    text = json.dumps(value)
    if not case.pristine and case.random.random() < 0.25:
        text = spoil_text(text, case)
    return text.encode("utf-8", "surrogatepass")


def _place(length: int, random: Random) -> int:
    near = random.choice((length, length, min(length, 64), min(length, 2048), -min(length, 1024)))
    return random.randint(0, near) if near >= 0 else length + random.randint(near, 0)


def _flip(data: bytearray, at: int, random: Random) -> None:
    if at < len(data):
        data[at] ^= 1 << random.randrange(8)


def _overwrite(data: bytearray, at: int, random: Random) -> None:
    new = random.randbytes(random.choice((1, 2, 4, 16, 200)))
    data[at : at + len(new)] = new


def _number(data: bytearray, at: int, random: Random) -> None:
    size, number = random.choice("BHIQ"), random.choice(NUMBERS)
    new = struct.pack(random.choice("<>") + size, number % (1 << 8 * struct.calcsize(f"<{size}")))
    data[at : at + len(new)] = new


def _truncate(data: bytearray, at: int, random: Random) -> None:
    if random.random() < 0.4:
        del data[at:]


def _remove(data: bytearray, at: int, random: Random) -> None:
    del data[at : at + random.choice((1, 4, 64, 1000))]


def _insert(data: bytearray, at: int, random: Random) -> None:
    data[at:at] = random.randbytes(random.choice((1, 4, 64, 1000)))


def _repeat(data: bytearray, at: int, random: Random) -> None:
    data[at:at] = data[at : at + random.choice((1, 16, 512))] * random.choice((1, 2, 50))


def _zero(data: bytearray, at: int, random: Random) -> None:
    end = min(len(data), at + random.choice((1, 8, 64, 4096)))
    data[at:end] = bytes(end - at)


def _move(data: bytearray, at: int, random: Random) -> None:
    block, to = data[at : at + 64], _place(len(data), random)
    data[to : to + len(block)] = block


_BYTE_EDITS: tuple[Callable[[bytearray, int, Random], None], ...] = (
    *(_flip, _flip, _overwrite, _number, _number, _truncate, _remove, _insert, _repeat, _zero, _move),
)


def _places(value: Any) -> Any:
    """Every place below a value: its container and key."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, inner in list(items):
        yield value, key
        if isinstance(inner, (dict, list)):
            yield from _places(inner)


def _spoil_place(parent: Any, key: Any, positions: list[Any], odd: Sequence[Any], random: Random) -> None:
    kind = random.randrange(8)
    if kind == 0:
        del parent[key]
    elif kind == 1 and isinstance(parent, list):
        parent.insert(random.randint(0, len(parent)), copy.deepcopy(parent[key]))
    elif kind == 1:
        parent[random.choice(("", "x", f"{key}s", str(key).upper(), "\ud800", "a" * 3000))] = parent.pop(key)
    elif kind == 2:
        other, name = random.choice(positions)
        try:
            parent[key], other[name] = copy.deepcopy(other[name]), copy.deepcopy(parent[key])
        except (KeyError, IndexError):  # one of them has just gone
            return
    elif kind == 3:
        parent[key] = random.choice(([parent[key]], {"x": parent[key]}, [parent[key]] * 3, str(parent[key])))
    elif kind == 4 and isinstance(parent[key], (int, float)) and abs(parent[key]) < 1e300:
        parent[key] = parent[key] + random.choice((-1, 1, 0.5, 100, -1000, 2**40))
    else:
        parent[key] = copy.deepcopy(random.choice(odd))
