"""A run's folder: new, or marked as a run of the same kind; never somebody else's files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nasnet_det.safe_io.files import write_text
from nasnet_det.safe_io.values import format_value, parse_json

#: The file that marks a run's folder and describes the run.
RUN = "run.json"


class RunFolderError(ValueError):
    """A folder that cannot be used for a run: names it, what it holds and what to do."""


def read_run(folder: Path, kind: str) -> dict[str, Any] | None:
    """Return the description of the run in a folder, or None for a folder that is absent or empty.

    Args:
        folder: the output folder of a command.
        kind: ``finetune`` or ``demo``.

    Raises:
        RunFolderError: if it holds other files, or a run of another kind.
    """
    path = folder / RUN
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return None
    if not path.is_file():
        raise RunFolderError(f"{folder} holds other files and no run: give a new folder as --output")
    try:
        run = parse_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunFolderError(f"{path} cannot be read ({error}): give another --output") from None
    if not isinstance(run, dict) or run.get("format") != f"nasnet_det.{kind}":
        found = run.get("format") if isinstance(run, dict) else run
        raise RunFolderError(f"{folder} holds no {kind} but {format_value(found)}: give another --output")
    return run


def split_of(folder: Path) -> dict[str, Any]:
    """Return ``val_share`` and ``seed`` with which the fine-tuning in a folder divided its data, as far as recorded."""
    if not (folder / RUN).is_file():
        return {}
    kept = (read_run(folder, "finetune") or {}).get("options", {})
    return {name: kept[name] or 0 for name in ("val_share", "seed") if name in kept}


def mark_run(folder: Path, kind: str, description: Mapping[str, Any]) -> None:
    """Mark a folder as that of a run and describe it in plain values."""
    write_text(folder / RUN, json.dumps({"format": f"nasnet_det.{kind}", **description}, indent=2) + "\n")
