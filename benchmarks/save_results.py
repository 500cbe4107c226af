"""Results kept as files: JSON where ``--json`` says, and the same rows as CSV beside it."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nasnet_det.safe_io.files import write_text


def keep(path: Path, content: Any) -> None:
    """Write ``content`` to ``path`` as JSON and its rows to the file of that name that ends in ``.csv``.

    Args:
        path: the JSON file.
        content: rows, each a mapping; or a mapping with such rows among its values, whose other values are repeated in
            every row; or a mapping that is a row itself.
    """
    write_text(path, json.dumps(content, indent=2) + "\n")
    rows = [_flat(row) for row in rows_of(content)]
    text = io.StringIO()
    writer = csv.DictWriter(text, list(dict.fromkeys(key for row in rows for key in row)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path.with_suffix(".csv"), text.getvalue())


def rows_of(content: Any) -> list[dict[str, Any]]:
    """The rows of what a benchmark found."""
    if not isinstance(content, Mapping):
        return [dict(row) for row in content]
    tables = [key for key, value in content.items() if isinstance(value, list) and value and _is_table(value)]
    shared = {key: value for key, value in content.items() if key not in tables}
    return [{**shared, **row} for key in tables for row in content[key]] or [shared]


def _is_table(value: list[Any]) -> bool:
    return all(isinstance(row, Mapping) for row in value)


def _flat(row: Mapping[str, Any], under: str = "") -> dict[str, Any]:
    """Return a row without mappings in it (``{"machine": {"torch": ...}}`` has a column ``machine.torch``); the numbers
    of a list are one column, separated by spaces."""
    found: dict[str, Any] = {}
    for key, value in row.items():
        if isinstance(value, Mapping):
            found.update(_flat(value, f"{under}{key}."))
        else:
            found[f"{under}{key}"] = " ".join(map(str, value)) if isinstance(value, list) else value
    return found
