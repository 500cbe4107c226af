"""Walks through folders of images, and searches for files by name; hidden files are left out, links are followed."""

from __future__ import annotations

import contextlib
import os
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote

from nasnet_det.safe_io.files import FileKey, exists, file_key

#: The endings of files that are taken for images in a folder, in lower case; Pillow reads the last with plugins only.
IMAGE_SUFFIXES = (
    *(".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".ppm", ".pgm"),
    *(".jpe", ".jfif", ".jp2", ".mpo", ".apng", ".pnm", ".avif", ".heic", ".heif"),
)
#: So many folders in each other are looked for at the end of a path.
_DEEPEST = 50
#: What the files begin with that mark the folder of a run, and that of predictions.
_MARKS = {"run.json": b'"format": "nasnet_det.', "images.json": b"written by nasnet-det predict"}


def is_hidden(name: str) -> bool:
    """Return True for the name of a hidden file or folder, and for macOS's ``__MACOSX``."""
    return name.startswith(".") or name == "__MACOSX"


def is_vacant(path: Path) -> bool:
    """Return True for a path without a file, and for a folder without other than hidden files.

    These are of the system (``.DS_Store``, ``.gitkeep``), or what a killed process was writing.
    """
    return not exists(path) or (path.is_dir() and all(is_hidden(entry.name) for entry in path.iterdir()))


def is_picture(path: Path) -> bool:
    """Return True for a path that ends as an image's does and is not hidden."""
    return path.suffix.lower() in IMAGE_SUFFIXES and not is_hidden(path.name)


def walk(folder: Path, above: frozenset[FileKey] = frozenset()) -> Iterator[tuple[Path, list[str]]]:
    """Yield a folder and each one below it, with the names of its files; hidden ones are left out.

    Links to folders are followed, except back to a folder that they are in: links may form a circle. Folders of runs
    and predictions below the first are left out: the pictures in them are drawn.

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
                is_folder = Path(entry).is_dir() if entry.is_symlink() else entry.is_dir()
                (inner if is_folder else names).append(entry.name)
    if above and _is_output(folder, names):
        return
    yield folder, names
    for name in inner:
        yield from walk(folder / name, above | {here})


def _is_output(folder: Path, names: Sequence[str]) -> bool:
    """Return True for a folder of files that this package has written, whose pictures end in ``.jpg``."""
    for name in _MARKS:
        if name in names:
            with contextlib.suppress(OSError), (folder / name).open("rb") as file:
                if _MARKS[name] in file.read(100):
                    return all(other.endswith(".jpg") for other in names if is_picture(Path(other)))
    return False


def find_files(folder: Path) -> list[Path]:
    """Return the files below a folder, sorted: see :func:`walk`."""
    return sorted(parent / name for parent, names in walk(folder) for name in names)


def find_pictures(folder: Path) -> list[Path]:
    """Return the images below a folder, sorted: see :func:`walk`."""
    return [path for path in find_files(folder) if is_picture(path)]


def find_path(folder: Path, name: str) -> Path:
    """Return the path of a file that an annotation file or a list names.

    The name may be of another system: backslashes are separators, accents written in another form of Unicode, and other
    characters as in addresses (``%20``), if a file of that name exists.
    """
    names = [name]
    if not name.isascii() or "\\" in name or "%" in name:
        plain = name.replace("\\", "/")
        names += [plain, *(unicodedata.normalize(form, plain) for form in ("NFC", "NFD")), unquote(plain)]
        names = [other for other in names if exists(folder / other)] or names
    return folder / names[0]


def path_ends(folder: Path, name: str) -> Iterator[str]:
    """Yield the ends of a path, the longest first, up to the one that begins with something in a folder.

    The parts before it may be those of another machine or folder, where the path was written.
    """
    parts = name.replace("\\", "/").split("/")[-_DEEPEST:]
    while len(parts) > 1 and (parts[0] in ("", ".", "..") or not exists(folder / parts[0])):
        parts = parts[1:]
        yield "/".join(parts)


def subfolders(folder: Path) -> list[Path]:
    """Return the folders directly in a folder, sorted, without hidden ones."""
    return sorted(path for path in folder.iterdir() if path.is_dir() and not is_hidden(path.name))


def bare_name(name: str) -> str:
    """Return a file's name without the ending of an image, equal for all letter cases and forms of Unicode."""
    stem, _, ending = name.rpartition(".")
    is_image = f".{ending.lower()}" in IMAGE_SUFFIXES
    return unicodedata.normalize("NFC", stem if is_image else name).casefold()


class Listings:
    """The names in folders, each read once, for a search for files whose names are not written exactly."""

    def __init__(self) -> None:
        self._names: dict[Path, dict[str, list[str]]] = {}

    def has(self, path: Path) -> bool:
        """Return True if a path exists."""
        return path.name in self._like(path) or exists(path)

    def fitting(self, path: Path) -> list[Path]:
        """Return the files whose paths differ from ``path`` in letter case only, or in the ending of an image."""
        path = Path(str(path).replace("\\", "/"))
        folders = [Path(path.anchor)]
        for part in path.relative_to(path.anchor).parts[:-1]:
            exact = [folder / part for folder in folders if exists(folder / part)]
            folders = exact or [folder / name for folder in folders for name in self._like(folder / part)]
        found = [folder / name for folder in folders for name in self._like(folder / path.name)]
        return sorted(file for file in found if is_picture(file) or file.suffix.lower() == path.suffix.lower() != "")

    def _like(self, path: Path) -> list[str]:
        """Return the names in the folder of ``path`` that have its bare name."""
        folder = path.parent
        if folder not in self._names:
            names = self._names[folder] = {}
            with contextlib.suppress(OSError, ValueError), os.scandir(folder) as entries:
                for entry in entries:
                    if not entry.is_symlink() or exists(entry.path):
                        names.setdefault(bare_name(entry.name), []).append(entry.name)
        return self._names[folder].get(bare_name(path.name), [])


class FoundFiles(NamedTuple):
    """The images, or other files, that an annotation file or a list names.

    Args:
        paths: of each name; as named for one that is not found.
        missing: True for each that is not found.
        renamed: True for each that is found under another name.
        fitting: for each name without a file, those that may be meant: see :func:`find_named`.
    """

    paths: list[Path]
    missing: list[bool]
    renamed: list[bool]
    fitting: list[list[Path]]


def find_named(folder: Path, names: Sequence[str]) -> FoundFiles:
    """Find the images, or other files, that an annotation file or a list names, relative to a folder.

    Without such a file, one in another letter case or with another ending of images is its path if it is the
    only one and not the file of another name, too; in a folder also one at the end of a path of another machine.
    """
    listings, paths = Listings(), {name: find_path(folder, name) for name in names}
    fitting = {path: _fitting(listings, folder, name) for name, path in paths.items() if not listings.has(path)}
    claims = Counter({*paths.values()} - {*fitting}) + Counter(file for files in fitting.values() for file in files)
    only = {path: files[0] for path, files in fitting.items() if len(files) == 1 and claims[files[0]] == 1}
    listed = [paths[name] for name in names]
    return FoundFiles(
        paths=[only.get(path, path) for path in listed],
        missing=[path in fitting and path not in only for path in listed],
        renamed=[path in only for path in listed],
        fitting=[fitting.get(path, []) for path in listed],
    )


def _fitting(listings: Listings, folder: Path, name: str) -> list[Path]:
    """Return the files that a name without a file may mean."""
    for other in (name, *(path_ends(folder, name) if folder != Path() else ())):
        path = find_path(folder, other)
        if found := [path] if listings.has(path) else listings.fitting(path):
            return found
    return []
