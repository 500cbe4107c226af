"""Columns of records from a file: all values of one key checked, and brought into one form within the records.

Own code, as pydantic would copy every record and describe every wrong one of a million.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from nasnet_det.safe_io.values import format_names, format_value

Record = dict[str, Any]


class CocoFormatError(ValueError):
    """A file that breaks COCO's format; names the first entry that does."""


@dataclass(frozen=True)
class Kind:
    """A kind of value.

    Args:
        expected: its description in an error.
        types: the types of its values.
        allows: tells them from other values of these types; for those it may raise ValueError or OverflowError.
        form: returns the one form of a value.
    """

    expected: str
    types: tuple[type, ...]
    allows: Callable[[Any], Any]
    form: Callable[[Any], Any] = lambda value: value


def check_column(records: Sequence[Record], key: str, kind: Kind, where: str, required: bool = True) -> list[Any]:
    """Return the values of ``key``, and replace them in the records by their one form.

    Args:
        where: the list's name in errors.
        required: False to skip records that lack the key.

    Raises:
        CocoFormatError: naming the first entry that is wrong, its value and what was expected.
    """
    values, wrong = [], []
    for number, record in enumerate(records):
        try:
            if not required and key not in record:
                continue
            value = record[key]
            if type(value) not in kind.types or not kind.allows(value):
                raise ValueError
            record[key] = kind.form(value)
            values.append(record[key])
        except (KeyError, ValueError, TypeError, OverflowError):
            wrong.append(number)
    if wrong:
        raise _refusal(records, wrong, key, kind.expected, where)
    return values


def entry_name(records: Sequence[Record], number: int) -> str:
    """Return what an error calls an entry: ``entry 3 (id 17)``."""
    record = records[number]
    has_id = isinstance(record, dict) and "id" in record
    return f"entry {number}" + (f" (id {format_value(record['id'])})" if has_id else "")


def _refusal(records: Sequence[Record], wrong: list[int], key: str, expected: str, where: str) -> CocoFormatError:
    record, text = records[wrong[0]], f"{where}: {entry_name(records, wrong[0])}"
    if not isinstance(record, dict):
        text += f": expected an object, not {format_value(record)}"
    elif key not in record:
        text += f" has no {key!r} (its keys: {format_names(record) or 'none'})"
    else:
        text += f": {key!r} must be {expected}, not {format_value(record[key])}"
    others = f"; {len(wrong)} of {len(records)} entries are wrong" if len(wrong) > 1 else ""
    return CocoFormatError(text + others)
