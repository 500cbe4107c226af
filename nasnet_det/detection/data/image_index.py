"""Images of a command line matched with the entries of an annotation file."""

from __future__ import annotations

import logging
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import takewhile
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote

from nasnet_det.detection.data.columns import CocoFormatError, Record
from nasnet_det.detection.data.look import RENAMED
from nasnet_det.safe_io.copies import find_copies
from nasnet_det.safe_io.files import exists
from nasnet_det.safe_io.folders import bare_name, find_path
from nasnet_det.safe_io.images import read_header
from nasnet_det.safe_io.values import named

logger = logging.getLogger(__name__)


class ImageIndex:
    """Ids of images: numbered from 1, or those of an annotation file.

    An image belongs to the entry whose ``file_name`` its path ends with, the longest where there are several; else, of
    the entries that are left with its base name, to the one whose last folders are those of its path. What is left is
    matched once more by names without the ending of images, in any letter case, and as in addresses (``%20``). An
    entry whose ``file_name`` is that of another image, relative to a folder that the image is in, is not the image's.

    Args:
        paths: all images.
        annotations: checked COCO content, or None to number the images.

    Attributes:
        images: ``id``, ``file_name``, ``width`` and ``height`` of those added.
        known: the annotations.

    Raises:
        CocoFormatError: if two images belong to one entry, or an image to two.
    """

    def __init__(self, paths: Sequence[Path], annotations: dict[str, Any] | None) -> None:
        self.images: list[Record] = []
        self.known = annotations
        self._entries = {} if annotations is None else _match(paths, annotations["images"], _parts)
        near = {path: _listed_file(path, entry["file_name"]) for path, entry in self._entries.items()}
        self._others = {path: other for path, other in near.items() if other and not find_copies([path], [other])}
        self._entries = {path: entry for path, entry in self._entries.items() if path not in self._others}
        if annotations is not None:
            rest = [path for path in paths if path not in self._entries and path not in self._others]
            self._add_renamed(rest, annotations["images"])

    def is_upright(self, path: Path) -> bool:
        """Return False for an image whose size in the annotations is that without its EXIF orientation.

        Raises:
            ImageError: if the image cannot be read.
        """
        if path not in self._entries:
            return True
        header, entry = read_header(path), self._entries[path]
        annotated = entry.get("width"), entry.get("height")
        return annotated == header.size or annotated != header.stored_size

    def id_of(self, path: Path, size: tuple[int, int]) -> int:
        """Return the id of an image of ``size`` (width, height).

        Raises:
            KeyError: if the annotations lack it, or have it in another size.
        """
        if self.known is None:
            return len(self.images) + 1
        if path in self._others:
            raise KeyError(f"not in the annotations, whose image of this name is {self._others[path]}")
        if path not in self._entries:
            raise KeyError("not in the annotations")
        entry = self._entries[path]
        annotated = entry.get("width"), entry.get("height")
        if None not in annotated and set(annotated) != set(size):
            raise KeyError(f"{size[0]} x {size[1]} pixels, {annotated[0]} x {annotated[1]} in the annotations")
        return entry["id"]

    def _add_renamed(self, paths: Sequence[Path], entries: Sequence[Record]) -> None:
        """Match what is left of both by names in any letter case, without ending, and as in addresses."""
        taken = {entry["id"] for entry in self._entries.values()}
        rest = [entry for entry in entries if entry["id"] not in taken]
        renamed = _match(paths, rest, lambda name: tuple(map(bare_name, _parts(unquote(str(name))))))
        if renamed:
            listed = named([f"{entry['file_name']} as {path.name}" for path, entry in renamed.items()])
            logger.warning(f"{len(renamed)} {RENAMED}: {listed}")
        self._entries |= renamed

    def add(self, image_id: int, path: Path, size: tuple[int, int]) -> None:
        """Add an image that was predicted on."""
        self.images.append({"id": image_id, "file_name": str(path), "width": size[0], "height": size[1]})


def _match(
    paths: Sequence[Path], entries: Sequence[Record], split: Callable[[str | Path], tuple[str, ...]]
) -> dict[Path, Record]:
    """Return the entry of each image that has one; ``split`` returns the parts of a path to be compared."""
    by_name: dict[str, list[tuple[tuple[str, ...], Record]]] = {}
    for entry in entries:
        parts = split(entry["file_name"])[::-1]
        by_name.setdefault(parts[0], []).append((parts, entry))
    near: dict[Path, list[tuple[int, int, Record]]] = {}  # equal parts at the end, all parts of the entry, the entry
    for path in paths:
        whole = split(path.absolute())[::-1]
        near[path] = [(_equal(whole, parts), len(parts), entry) for parts, entry in by_name.get(whole[0], [])]
    found = {path: _nearest((n, entry) for n, of, entry in ends if n == of) for path, ends in near.items()}
    taken = {entry["id"] for matches in found.values() for entry in matches}
    rest = {
        path: _nearest((n, entry) for n, _, entry in near[path] if entry["id"] not in taken)
        for path, matches in found.items()
        if not matches
    }
    return _one_to_one(found | rest)


def _listed_file(path: Path, name: str) -> Path | None:
    """Return the file that an entry's ``file_name`` names, relative to the nearest folder above ``path`` with one."""
    folders = path.absolute().parents
    return next((found for folder in folders if exists(found := find_path(folder, name))), None)


def _equal(one: Sequence[str], other: Sequence[str]) -> int:
    """Return how many parts are equal, before the first that differ."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))


def _nearest(ends: Iterable[tuple[int, Record]]) -> list[Record]:
    """Return the entries with the largest of the numbers."""
    ends = list(ends)
    most = max((number for number, _ in ends), default=0)
    return [entry for number, entry in ends if number == most]


def _one_to_one(found: Mapping[Path, list[Record]]) -> dict[Path, Record]:
    owners: dict[int, Path] = {}
    for path, matches in found.items():
        if len(matches) > 1:
            names = named([f"{entry['file_name']} (id {entry['id']})" for entry in matches])
            raise CocoFormatError(
                f"image {path} may be any of {names} in the annotations: give paths that end with their file_name"
            )
        if matches and owners.setdefault(matches[0]["id"], path) is not path:
            raise CocoFormatError(
                f"images {owners[matches[0]['id']]} and {path} are both {matches[0]['file_name']} in the annotations: "
                "file_name must tell them apart, as camA/0001.jpg and camB/0001.jpg do"
            )
    return {path: matches[0] for path, matches in found.items() if matches}


def _parts(name: str | Path) -> tuple[str, ...]:
    parts = PurePosixPath(unicodedata.normalize("NFC", str(name)).replace("\\", "/")).parts
    return tuple(part for part in parts if part != ".") or ("",)
