"""Columns of records from a file: all values of one key checked, and brought into their plain form."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nasnet_det.safe_io.values import format_names, format_value

Record = dict[str, Any]
#: Beyond this COCO's tools, which count in doubles, confuse whole numbers.
_LARGEST = 2**53
_ABSENT: Any = object()


class CocoFormatError(ValueError):
    """A file that breaks COCO's format; names the first entry that does."""


@dataclass(frozen=True)
class Kind:
    """A kind of value.

    Args:
        expected: its description in an error.
        read: the plain form of one value; raises ValueError for a value of another kind.
    """

    expected: str
    read: Callable[[Any], Any]


def check_column(records: Sequence[Record], key: str, kind: Kind, where: str, default: Any = _ABSENT) -> list[Any]:
    """Return the values of ``key``, and replace them in the records by their plain form.

    Args:
        where: the list's name in errors.
        default: the value of records that lack the key; without it the key is required.

    Raises:
        CocoFormatError: naming the first entry that is wrong, its value and what was expected.
    """
    values, wrong = [], []
    for number, record in enumerate(records):
        if not isinstance(record, dict):
            raise CocoFormatError(f"{where}: entry {number} is {kind_of(record)}, not an object")
        try:
            record[key] = kind.read(record[key] if default is _ABSENT else record.get(key, default))
            values.append(record[key])
        except (KeyError, ValueError, TypeError, OverflowError):
            wrong.append(number)
    if wrong:
        raise _refused(records, wrong, key, kind.expected, where)
    return values


def entry_name(records: Sequence[Record], number: int) -> str:
    """Return what an error calls an entry: ``entry 3 (id 17)``."""
    name = records[number].get("id", _ABSENT)
    return f"entry {number}" + ("" if name is _ABSENT else f" (id {format_value(name)})")


def refuse_first(bad: np.ndarray, records: Sequence[Record], key: str, expected: str, where: str) -> None:
    """Refuse records of which ``bad`` marks any.

    Raises:
        CocoFormatError: naming the first of them.
    """
    if bad.any():
        raise _refused(records, np.flatnonzero(bad).tolist(), key, expected, where)


def _refused(records: Sequence[Record], wrong: list[int], key: str, expected: str, where: str) -> CocoFormatError:
    record, name = records[wrong[0]], f"{where}: {entry_name(records, wrong[0])}"
    others = f"; {len(wrong)} of {len(records)} entries are wrong" if len(wrong) > 1 else ""
    if key not in record:
        return CocoFormatError(f"{name} has no {key!r} (its keys: {format_names(record) or 'none'}){others}")
    return CocoFormatError(f"{name}: {key!r} must be {expected}, not {format_value(record[key])}{others}")


def kind_of(value: Any) -> str:
    """Return JSON's word for a value's type."""
    kinds = {dict: "an object", list: "a list", str: "a text", type(None): "null", bool: "a truth value"}
    return kinds.get(type(value), "a number")


def _whole(value: Any) -> int:
    """An int, or a float that is one, as tools that keep tables of floats write it."""
    if type(value) not in (int, float) or value != int(value) or abs(value) > _LARGEST:
        raise ValueError
    return int(value)


def _side(value: Any) -> int:
    if (found := _whole(value)) < 1:
        raise ValueError
    return found


def _flag(value: Any) -> int:
    """0 or 1; null and truth values as some tools write them."""
    if (value is not None and type(value) not in (int, float, bool)) or value not in (None, 0, 1):
        raise ValueError
    return int(value or 0)


def _number(value: Any) -> float:
    if type(value) not in (int, float) or not math.isfinite(value):
        raise ValueError
    return value


def _area(value: Any) -> float:
    if (found := _number(value)) < 0:
        raise ValueError
    return found


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError
    return value


def _box(value: Any) -> Sequence[float]:
    if not isinstance(value, (list, tuple)) or len(value) != 4:
        raise ValueError
    if not all(type(number) is float or (type(number) is int and abs(number) < sys.float_info.max) for number in value):
        raise ValueError
    return value


def _rle(value: Any) -> Record:
    if not isinstance(value, dict) or not isinstance(value.get("counts"), str):
        raise ValueError
    return value


WHOLE = Kind("a whole number below 2^53", _whole)
SIDE = Kind("a whole number of pixels, at least 1", _side)
FLAG = Kind("0 or 1", _flag)
NUMBER = Kind("a finite number", _number)
AREA = Kind("a finite number, at least 0", _area)
TEXT = Kind("a text that is not empty", _text)
BOX = Kind("[x, y, width, height] of four numbers", _box)
RLE = Kind("a compressed RLE, {'size', 'counts' as text}", _rle)
