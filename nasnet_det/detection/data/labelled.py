"""Shared by the readers of YOLO's and Pascal VOC's form: files of a folder, labelled images as COCO's content."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from nasnet_det.detection.data.coco_format import COMPLETE, check_annotations
from nasnet_det.detection.data.columns import CocoFormatError, Record
from nasnet_det.detection.data.look import CocoData, Trouble, note
from nasnet_det.safe_io.files import exists, protect
from nasnet_det.safe_io.folders import is_hidden, path_ends
from nasnet_det.safe_io.images import ImageError, read_header

#: What splits are called, in folders, files and keys.
SPLITS = {"train": ("train", "training"), "val": ("val", "valid", "validation", "minival")}
#: How an image without a label file is handled.
BARE = "They are used as images without objects"
#: An object's class, its box as x, y, width, height, and its polygons.
Object = tuple[str, list[float], list[list[float]]]


class Labelled(NamedTuple):
    """An image with its objects.

    Args:
        image: its file.
        objects: its objects.
        size: the width and height that it is annotated with, if known.
        named: its path in the list of images, if that differs from its file's.
        is_turned: True if a box of it has an angle.
        first_pixel: the number of the first pixel in a row or column, 0 or 1, if the file shows it.
    """

    image: Path
    objects: list[Object]
    size: tuple[int, int] | None
    named: Path | None = None
    is_turned: bool = False
    first_pixel: int | None = None


def split_of(name: str) -> str:
    """Return ``train`` or ``val`` for a name such as ``instances_train2017``; an empty text for others."""
    words = "".join(c if c.isalpha() else " " for c in name.lower()).split()
    return next((key for key, names in SPLITS.items() if set(words) & set(names)), "")


def match_files(folder: Path, *patterns: str) -> list[Path]:
    """Return the files of a folder that match glob patterns, in the patterns' order; hidden ones are left out."""
    found = [path for pattern in patterns for path in sorted(folder.glob(pattern))]
    return [path for path in dict.fromkeys(found) if not any(map(is_hidden, path.relative_to(folder).parts))]


def note_other_copy(images: Iterable[Path], home: Path, origin: Path) -> list[Trouble]:
    """Return the trouble of images outside the folder of the data, which has folders of the same names.

    Of two copies of the data one then uses the images of the other, as files with whole paths do.

    Args:
        images: the images.
        home: the folder of the data.
        origin: the file that names the images.
    """
    here = {home.absolute(), home.resolve()}
    places = {image.parent for image in images}
    outside = [
        place
        for place in places
        if not here & {path for form in (place.absolute(), place.resolve()) for path in (form, *form.parents)}
    ]
    copies = [place for place in outside if any(exists(home / end) for end in path_ends(home, place.as_posix()))]
    return note(
        f"folders of images are not those of {home}, but of the same name", copies, f"{origin.name} names these"
    )


def add_notes(sets: Mapping[str, CocoData], notes: Iterable[Trouble]) -> dict[str, CocoData]:
    """Return the sets of a folder with the troubles of all of it, which are told with the set to train on."""
    key = next(key for key in ("train", "all", "val") if key in sets)
    return {**sets, key: replace(sets[key], notes=(*sets[key].notes, *notes))}


def read_text(path: Path) -> str:
    """Return the text of a file of the data.

    Raises:
        CocoFormatError: if it cannot be read.
    """
    protect([path])
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise CocoFormatError(f"{path} cannot be read: {error}") from error
    except ValueError as error:
        raise CocoFormatError(f"{path} cannot be read: {error}; save it as text in UTF-8") from error


def read_lines(path: Path) -> list[str]:
    """Return the lines of a file of the data that are not blank, without spaces around them."""
    return [line.strip() for line in read_text(path).splitlines() if line.strip()]


def as_coco(
    labelled: Iterable[Labelled], classes: Sequence[str], origin: Path, notes: Iterable[Trouble] = ()
) -> CocoData:
    """Return labelled images as a data set; their paths are kept whole, so its folder is empty.

    Args:
        labelled: the images.
        classes: the classes by ascending id.
        origin: the file or folder that they were read from.
        notes: troubles found in reading.
    """
    images: list[Record] = []
    annotations: list[Record] = []
    ids = {name: number for number, name in enumerate(classes, start=1)}
    for number, (path, objects, size, listed, *_) in enumerate(labelled, start=1):
        try:
            width, height = size or read_header(path).size
        except ImageError:  # which the look at the images reports
            width = height = 1
        images.append({"id": number, "file_name": str(listed or path), "width": width, "height": height})
        for name, box, polygons in objects:
            entry = {
                "id": len(annotations) + 1,
                "image_id": number,
                "category_id": ids[name],
                "bbox": list(map(float, box)),
            }
            annotations.append(entry | ({"segmentation": polygons} if polygons else {}))
    content = {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": ids[name], "name": name} for name in classes],
    }
    check_annotations(content, str(origin), required=COMPLETE, sound=False)
    return CocoData("", content, Path(), str(origin), tuple(notes))
