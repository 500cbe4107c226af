"""Data sets in YOLO's form: ``data.yaml`` or a list of class names, and a label file for each image."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nasnet_det.detection.data.columns import CocoFormatError
from nasnet_det.detection.data.labelled import (
    BARE,
    SPLITS,
    Labelled,
    Object,
    add_notes,
    as_coco,
    match_files,
    note_other_copy,
    read_lines,
    read_text,
)
from nasnet_det.detection.data.look import TURNED, CocoData, Trouble, note
from nasnet_det.safe_io.extras import refuse_outdated
from nasnet_det.safe_io.files import exists
from nasnet_det.safe_io.folders import FoundFiles, find_files, find_named, find_path, find_pictures, path_ends
from nasnet_det.safe_io.images import ImageError, read_header
from nasnet_det.safe_io.values import format_names, format_value, parse_yaml

#: A line of a label file: the number of the class, the numbers that follow, and the line.
Row = tuple[int, list[float], str]
#: The lists of class names of Darknet, CVAT, Label Studio, Roboflow and LabelImg.
_LISTS = ("obj.names", "classes.txt", "_darknet.labels", "labels/classes.txt", "labels/*/classes.txt")
#: What the folders of splits are called.
_SPLIT_NAMES = {*SPLITS["train"], *SPLITS["val"], "test"}
#: Coordinates of so many sides of the image are in pixels, or no coordinates.
_FARTHEST = 2.0


def read_yolo(folder: Path, root: Path) -> dict[str, CocoData]:
    """Return the sets of a folder in YOLO's form; none if it is in another.

    Args:
        folder: the folder.
        root: the same, or the file in it that describes the data.

    Raises:
        CocoFormatError: naming the file that is wrong.
    """
    files = [root] if root.is_file() else match_files(folder, "data.yaml", "*.yaml", "*.yml")
    found = {path: _settings(path) for path in files if path.suffix.lower() in (".yaml", ".yml")}
    described = [path for path, settings in found.items() if settings]
    if not described:
        return _without_settings(folder) if root.is_dir() else {}
    path, *others = described
    sets, names = _sets(path, found[path]), _class_names(path, found[path])
    lists = [other for other in match_files(folder, *_LISTS) if not _begins(other, names)]
    notes = note("lists of class names are not those of the YAML file", lists, "Unused")
    return add_notes(sets, [*note("YAML files describe the data, too", others, "Unused"), *notes])


def _begins(path: Path, names: Sequence[str]) -> bool:
    """Return whether class names begin with those of a list, or the list cannot be read."""
    with contextlib.suppress(CocoFormatError):
        listed = read_lines(path)
        return listed == names[: len(listed)]
    return True


def _settings(path: Path) -> dict[str, Any]:
    """Return the content of a YAML file with class names; of another one nothing, unless it is data.yaml."""
    needed = path.name == "data.yaml"
    try:
        settings = parse_yaml(read_text(path))
    except ValueError as error:
        if not needed:
            return {}
        raise error if isinstance(error, CocoFormatError) else CocoFormatError(f"{path} is not YAML: {error}") from None
    if isinstance(settings, dict) and "names" in settings:
        return settings
    if needed:
        raise CocoFormatError(f"{path}: expected 'names', 'train' and 'val' in it, not {format_value(settings)}")
    return {}


def _without_settings(folder: Path) -> dict[str, CocoData]:
    """Return the sets of a folder with a list of class names only, as Darknet, CVAT, LabelImg and Label Studio have it;
    none where no image has a label file."""
    found = match_files(folder, *_LISTS)
    pictures = find_pictures(folder) if found else []
    if not any(_label_file(image).is_file() for image in pictures):
        if found and (labels := match_files(folder, "labels/*.txt", "labels/*/*.txt", "obj_*_data/*.txt")):
            absent = "images with their names" if pictures else "images"
            place = labels[0].parent if labels[0].parent.name.startswith("obj_") else folder / "images"
            raise CocoFormatError(f"{folder} has label files, but no {absent}: put these into {place}")
        return {}
    path, names = _longest_list(found)
    base = "" if path.parent == folder else folder.absolute()  # LabelImg's list is among the label files
    return _sets(path, {"names": names, "path": base})


def _longest_list(paths: Sequence[Path]) -> tuple[Path, list[str]]:
    """Return the longest list of class names and its path: LabelImg writes one to each folder of label files.

    Raises:
        CocoFormatError: if another list does not begin as it does, so that a class has two numbers.
    """
    lists = {path: read_lines(path) for path in paths}
    longest = max(paths, key=lambda path: len(lists[path]))
    for path, names in lists.items():
        if names != lists[longest][: len(names)]:
            raise CocoFormatError(
                f"{path} lists {format_names(names)}, but {longest} {format_names(lists[longest])}: which class has "
                "which number? Write both alike, and the numbers in the label files; or remove the wrong list"
            )
    return longest, lists[longest]


def _usual_entries(folder: Path) -> dict[str, str]:
    """Return the lists or folders of the splits that have the usual names."""
    names = [name for names in SPLITS.values() for name in names]
    entries = {name: (f"{name}.txt", f"autosplit_{name}.txt", f"images/{name}", name) for name in names}
    there = {name: [entry for entry in those if exists(folder / entry)] for name, those in entries.items()}
    return {name: those[0] for name, those in there.items() if those}


def _sets(path: Path, settings: dict[str, Any]) -> dict[str, CocoData]:
    classes, keypoints = _class_names(path, settings), settings.get("kpt_shape") or [0, 0]
    if not isinstance(keypoints, list) or len(keypoints) != 2 or not all(type(n) is int and n >= 0 for n in keypoints):
        raise CocoFormatError(
            f"{path}: 'kpt_shape' must be [number of keypoints, numbers of each], not {format_value(keypoints)}"
        )
    base = path.parent / str(settings.get("path") or "")
    if not base.is_dir():  # of the machine that wrote it
        base = path.parent
    usual = _usual_entries(base)
    if not any(settings.get(name) for names in SPLITS.values() for name in names):  # as supervision's
        settings = settings | usual
    found: dict[str, list[Path]] = {}
    for key, names in SPLITS.items():
        given: Any = next((settings[name] for name in names if settings.get(name)), [])
        for entry in given if isinstance(given, list) else [given]:
            found.setdefault(key, []).extend(_images_of(base, str(entry), path))
    if not found:
        found["all"] = find_pictures(base / "images" if (base / "images").is_dir() else base)
    if not any(found.values()):
        raise CocoFormatError(f"{path} names no folder with images")
    known: set[Path] = set()
    sets = {key: _set(list(dict.fromkeys(images)), classes, keypoints, path, known) for key, images in found.items()}
    lacking = [name for key, names in SPLITS.items() if key not in found for name in names if name in usual]
    unnamed = [base / usual[name] for name in lacking]
    return add_notes(sets, note("folders or lists of splits are not named by the YAML file", unnamed, "Unused"))


def _set(
    listed: Sequence[Path], classes: Sequence[str], keypoints: Sequence[int], origin: Path, known: set[Path]
) -> CocoData:
    """Return a data set of images; ``known`` gets the label files that were looked at for it."""
    images = find_named(Path(), list(map(str, listed))).paths
    labels = find_named(Path(), [str(_label_file(image)) for image in images])
    rows = [_rows(file, classes) for file in labels.paths]
    notes = [*note_other_copy(images, origin.parent, origin), *_notes(images, labels, known)]
    numbers = [values for of_image in rows for _, values, _ in of_image]
    if not any(keypoints):
        keypoints, told = find_keypoints(numbers)
        notes += told
    lengths = {4 + math.prod(keypoints), *_more_than_boxes(numbers)}
    turned = [file for file, of_image in zip(labels.paths, rows, strict=True) if any(map(_has_angle, of_image))]
    notes += note("label files have rotated boxes (a fifth number)", turned, TURNED, len(rows))
    labelled = [
        _labelled(image, file, of_image, classes, lengths)._replace(named=path)
        for image, file, of_image, path in zip(images, labels.paths, rows, listed, strict=True)
    ]
    return as_coco(labelled, classes, origin, notes)


def _more_than_boxes(rows: Sequence[Sequence[float]]) -> list[int]:
    """Return how many numbers the lines of boxes have that end in the id of a track or in a score, or in both.

    CVAT writes the id of a track after a box, ultralytics a score, or a score and the id. Six numbers may also be a
    triangle, whose last is a share of the image.
    """
    last = [row[5] for row in rows if len(row) == 6]
    is_tracked = any(number >= _FARTHEST for number in last) and all(number.is_integer() for number in last)
    return [5, 6] if is_tracked else [5]


def _has_angle(row: Row) -> bool:
    """Return True for a box with a fifth number that is neither a score nor the id of a track."""
    return len(row[1]) == 5 and not (0 <= row[1][4] <= 1 or row[1][4].is_integer())


def find_keypoints(rows: Sequence[Sequence[float]]) -> tuple[Sequence[int], list[Trouble]]:
    """Return the ``kpt_shape`` that label files show where the settings have none, and the trouble of it.

    Points with a visibility of 0, 1 or 2 are keypoints. Points without may be polygons: they are asked about where,
    on every line, they fill a box that their first four numbers are centre and size of, as corners of objects do not.

    Args:
        rows: the numbers of each object.
    """
    length = len(rows[0]) if rows else 0
    if length < 7 or any(len(row) != length for row in rows):
        return (0, 0), []
    values = np.array(rows)
    centre, extent, points = values[:, None, :2], values[:, None, 2:4], values[:, 4:]
    if (extent <= 0).any() or (centre - extent / 2).min() < -0.1 or (centre + extent / 2).max() > 1.1:
        return (0, 0), []
    of_all, advice = f"objects have {length} numbers each", "in the YAML file"
    if points.shape[1] % 3 == 0 and np.isin(points[:, 2::3], (0, 1, 2)).all():
        shape = (points.shape[1] // 3, 3)
        done = f"They are taken for boxes with keypoints, which are unused: give kpt_shape {[*shape]} {advice}"
        return shape, [Trouble("", of_all, len(rows), done=done)]
    points = points[:, : points.shape[1] // 2 * 2].reshape(len(rows), -1, 2)
    inside = (np.abs(points - centre) <= 0.55 * extent) | (points == 0)
    filled = np.median((np.ptp(points, axis=1) / extent[:, 0]).max(axis=1))
    if len(rows) < 5 or length % 2 or not inside.all() or filled < 0.3:
        return (0, 0), []
    done = (
        f"They are taken for polygons: if they are boxes with keypoints, give kpt_shape {[points.shape[1], 2]} {advice}"
    )
    return (0, 0), [Trouble("", of_all, len(rows), done=done)]


def _notes(images: Sequence[Path], found: FoundFiles, known: set[Path]) -> list[Trouble]:
    """Return the images and label files without exactly one partner, or with one in another letter case."""
    users: dict[Path, list[Path]] = {}
    for image, file in zip(images, found.paths, strict=True):
        users.setdefault(file, []).append(image)
    bare = [image for image, is_missing in zip(images, found.missing, strict=True) if is_missing]
    renamed = [file for file, is_renamed in zip(found.paths, found.renamed, strict=True) if is_renamed]
    shared = [image for file, those in users.items() if file.is_file() and len(those) > 1 for image in those]
    pictures = {image for folder in {image.parent for image in images} for image in find_pictures(folder)}
    partners = {_label_file(image) for image in pictures}
    folders = {file.parent for file in {*partners, *found.paths} if file.parent.is_dir()}
    labels = {file for folder in folders for file in find_files(folder) if file.suffix.lower() == ".txt"}
    lone = [file for file in labels - known - partners - {*found.paths} if not _is_other_text(file)]
    known |= labels
    return [
        *note("images have no label file beside them, or in 'labels' for 'images'", bare, BARE, len(images)),
        *note("images share a label file with another", shared, "Each has all its objects", len(images)),
        *note("label files are named in another letter case than their images", renamed, "They are used"),
        *note("label files have no image", lone, "Unused"),
    ]


def _class_names(path: Path, settings: dict[str, Any]) -> list[str]:
    names = settings["names"]
    if isinstance(names, dict):
        numbered = {str(number): name for number, name in names.items()}
        numbers = [str(number) for number in range(len(names))]
        if set(numbered) != set(numbers):
            raise CocoFormatError(
                f"{path}: the keys of 'names' must be 0 to {len(names) - 1}, not {format_names(names)}: number the "
                "classes from 0, in the label files, too"
            )
        names = [numbered[number] for number in numbers]
    if not isinstance(names, list) or not names or not all(type(name) in (str, int) for name in names):
        raise CocoFormatError(
            f"{path}: 'names' must be a list of class names, or a mapping from numbers to names, not "
            f"{format_value(names)} (names such as no and yes need quotes)"
        )
    names = list(map(str, names))
    if repeated := {name for name in names if names.count(name) > 1}:
        raise CocoFormatError(f"{path}: 'names' has {format_names(sorted(repeated))} more than once")
    if settings.get("nc", len(names)) != len(names):
        raise CocoFormatError(f"{path}: 'nc' is {format_value(settings['nc'])}, but 'names' has {len(names)}")
    return names


def _images_of(base: Path, entry: str, path: Path) -> list[Path]:
    """Return the images of an entry of ``data.yaml``: a folder, or a list of files; Roboflow's begin with ``../``.

    Folders at its beginning may be absent, but not the one that it is called a split by, as ``images`` is all of them.
    """
    parts = entry.replace("\\", "/").lower().split("/")[::-1]
    least = next((number for number, part in enumerate(parts) if part in _SPLIT_NAMES), 0)
    ends = [(folder, name) for folder in (base, path.parent) for name in path_ends(folder, entry)]
    named = [(base, entry), *(end for end in ends if end[1].count("/") >= least)]
    place = next(filter(exists, (find_path(*pair) for pair in [*named, (path.parent, entry)])), None)
    if place is None:
        raise CocoFormatError(f"{path} names {entry}, which is not in {base}")
    if place.is_dir():
        return find_pictures(place)
    lines = read_lines(place)
    listed = [find_path(place.parent, line) for line in lines]
    found = find_named(place.parent, lines).paths
    return [path if exists(path.parent) else other for path, other in zip(listed, found, strict=True)]


def _rows(labels: Path, classes: Sequence[str]) -> list[Row]:
    """Return the lines of a label file, if there is one: the number of the class, and the numbers that follow."""
    from supervision.dataset.formats.yolo import yolo_annotations_to_detections

    refuse_outdated("supervision")
    lines = read_lines(labels) if labels.is_file() else []
    try:
        found = yolo_annotations_to_detections(lines, (1, 1), with_masks=False)
    except (ValueError, OverflowError) as error:
        raise CocoFormatError(
            f"{labels}: {error} (expected lines of CLASS X Y WIDTH HEIGHT: the number of the class, then the centre "
            "and the size of a box in shares of the image)"
        ) from error
    numbers: list[int] = [] if found.class_id is None else found.class_id.tolist()
    if wrong := [number for number in numbers if not 0 <= number < len(classes)]:
        raise CocoFormatError(
            f"{labels}: class {wrong[0]} is not one of the data's, 0 to {len(classes) - 1}: label files count the "
            "class names from 0"
        )
    return [(number, list(map(float, line.split()[1:])), line) for number, line in zip(numbers, lines, strict=True)]


def _labelled(
    image: Path, labels: Path, rows: Sequence[Row], classes: Sequence[str], boxes: Collection[int]
) -> Labelled:
    """Return an image with the objects of its label file; lines of as many numbers as ``boxes`` has begin with one."""
    try:
        size = read_header(image).size
    except ImageError:
        return Labelled(image, [], None)  # which the look at the images reports
    objects: list[Object] = []
    for number, values, line in rows:
        values = values[:4] if len(values) in boxes else values
        if max(values) >= _FARTHEST:
            raise CocoFormatError(
                f"{labels}: {line!r}: expected shares of the image, 0 to 1, not pixels; keypoints need 'kpt_shape'"
            )
        corners, polygons = _outline(values, np.array(size, dtype=np.float64))
        low, high = corners.min(axis=0), corners.max(axis=0)
        objects.append((classes[number], [*low, *(high - low)], polygons))
    return Labelled(image, objects, size)


def _outline(numbers: Sequence[float], size: np.ndarray) -> tuple[np.ndarray, list[list[float]]]:
    """Return corners ``(N, 2)`` and polygons, in pixels, of the numbers of a line: box or polygon, perhaps a score."""
    if len(numbers) < 6:
        centre, extent = np.array(numbers[:2]), np.array(numbers[2:4])
        return np.stack([centre - extent / 2, centre + extent / 2]) * size, []
    polygon = np.array(numbers[: len(numbers) // 2 * 2]).reshape(-1, 2) * size
    return polygon, [polygon.ravel().tolist()]


def _label_file(image: Path) -> Path:
    """Return the label file of an image: beside it, or in ``labels`` where its path has ``images``."""
    parts = list(image.with_suffix(".txt").parts)
    number = max((number for number, part in enumerate(parts[:-1]) if part.lower() == "images"), default=None)
    if number is not None:
        parts[number] = "labels"
    return Path(*parts)


def _is_other_text(path: Path) -> bool:
    """Return True for a text file that is known not to be of one image: class names, notes, lists of a split."""
    name = path.stem.lower()
    return name.startswith(("classes", "readme", "notes")) or name in (
        "test",
        *(n for v in SPLITS.values() for n in v),
    )
