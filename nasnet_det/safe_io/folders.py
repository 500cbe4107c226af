"""Walks through folders of images: links to folders are followed, hidden files are left out."""

from __future__ import annotations

import contextlib
import os
import unicodedata
from collections.abc import Iterator
from pathlib import Path

from nasnet_det.safe_io.files import FileKey, exists, file_key

#: The endings of files that are taken for images in a folder, in lower case; Pillow reads the last with plugins only.
IMAGE_SUFFIXES = (
    *(".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".ppm", ".pgm"),
    *(".jpe", ".jfif", ".jp2", ".avif", ".heic", ".heif"),
)


def is_hidden(name: str) -> bool:
    """Return True for the name of a hidden file or folder, and for macOS's ``__MACOSX``."""
    return name.startswith(".") or name == "__MACOSX"


def is_picture(path: Path) -> bool:
    """Return True for a path that ends as an image's does and is not hidden."""
    return path.suffix.lower() in IMAGE_SUFFIXES and not is_hidden(path.name)


def walk(folder: Path, above: frozenset[FileKey] = frozenset()) -> Iterator[tuple[Path, list[str]]]:
    """Yield a folder and each one below it, with the names of its files; hidden ones are left out.

    Links to folders are followed, except back to a folder that they are in: links may form a circle.

    Args:
        folder: where to begin.
        above: the folders that it is in, as far as they were walked through.
    """
    here = file_key(folder)
    if here is None or here in above:
        return
    names: list[str] = []
    inner: list[str] = []
    with contextlib.suppress(PermissionError), os.scandir(folder) as entries:  # such as lost+found
        for entry in entries:
            if not is_hidden(entry.name):
                (inner if entry.is_dir() else names).append(entry.name)
    yield folder, names
    for name in inner:
        yield from walk(folder / name, above | {here})


def find_files(folder: Path) -> list[Path]:
    """Return the files below a folder, sorted: see :func:`walk`."""
    return sorted(parent / name for parent, names in walk(folder) for name in names)


def find_pictures(folder: Path) -> list[Path]:
    """Return the images below a folder, sorted: see :func:`walk`."""
    return [path for path in find_files(folder) if is_picture(path)]


def find_path(folder: Path, name: str) -> Path:
    """Return the path of a file that an annotation file or a list names.

    The name may be of another system: backslashes are separators, and accents written in another form of Unicode, if
    a file of that name exists.
    """
    names = [name]
    if not name.isascii() or "\\" in name:
        plain = name.replace("\\", "/")
        names += [plain, *(unicodedata.normalize(form, plain) for form in ("NFC", "NFD"))]
        names = [other for other in names if exists(folder / other)] or names
    return folder / names[0]


def subfolders(folder: Path) -> list[Path]:
    """Return the folders directly in a folder, sorted, without hidden ones."""
    return sorted(path for path in folder.iterdir() if path.is_dir() and not is_hidden(path.name))
