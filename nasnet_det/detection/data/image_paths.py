"""The image files that a command line names."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from nasnet_det.safe_io.files import exists
from nasnet_det.safe_io.folders import is_hidden, is_picture, walk


def find_images(inputs: Sequence[str]) -> list[Path]:
    """Return the image files that paths, folders (not those below them) and globs name, in order, each once.

    Raises:
        FileNotFoundError: for an input that names no image.
    """
    found: dict[str, Path] = {}
    for name in inputs:
        path = Path(name).expanduser()
        if exists(path) and path.is_dir():
            files = sorted(file for file in path.iterdir() if is_picture(file))
        else:
            parts = path.relative_to(path.anchor).parts
            files = [file for file in _matching(Path(path.anchor), parts) if file.is_file()]
        if not files:
            raise FileNotFoundError(f"{name} names no image: neither a file, nor a folder or glob with images")
        for file in files:
            found.setdefault(os.path.realpath(file), file)  # Path.resolve fails for a link to itself
    return list(found.values())


def _matching(folder: Path, parts: Sequence[str]) -> list[Path]:
    """Return the paths below a folder that match the parts of a glob, in order; ``**`` is any number of folders."""
    if not parts:
        return [folder]
    if exists(folder / parts[0]):
        found = [folder / parts[0]]
    elif parts[0] == "**":
        found = sorted(place for place, _ in walk(folder))
    elif set(parts[0]) & set("*?["):
        found = sorted(path for path in folder.glob(parts[0]) if not is_hidden(path.name))
    else:
        found = []
    return [path for start in found for path in _matching(start, parts[1:])]
