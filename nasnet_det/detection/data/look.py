"""The look at a data set before it is used: images, boxes, ids, classes, sizes and masks, train and test together.

:func:`look_at` checks one set of annotated images and makes detectron2's records of what is of use; :func:`join`
compares the sets with each other and with the model. All that is wrong comes in one report. detectron2 is not needed.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from nasnet_det.detection.data.coco_format import boxes_of, named
from nasnet_det.detection.data.coco_masks import is_mask, training_mask
from nasnet_det.detection.data.columns import Record
from nasnet_det.safe_io.images import ImageError, ImageHeader, read_header
from nasnet_det.safe_io.values import format_names

#: detectron2's BoxMode.XYWH_ABS.
_XYWH = 1
#: So many examples of each trouble are kept.
_EXAMPLES = 20
#: Reading this many headers takes long enough for a progress bar.
_MANY = 2000
#: A box may end this many pixels past its image, as rounding makes it.
_ROUNDING = 1.0


class DatasetError(ValueError):
    """A data set that cannot be used; the message holds every fatal trouble."""


@dataclass(frozen=True)
class CocoData:
    """Annotated images.

    Args:
        name: the data set's name.
        content: checked ``images``, ``categories`` and, unless it is a test set without truth, ``annotations``.
        folder: the folder that the images' ``file_name`` is relative to.
        origin: what the annotations were read from, for messages.
    """

    name: str
    content: dict[str, Any]
    folder: Path
    origin: str

    @property
    def categories(self) -> list[Record]:
        """The categories by ascending id: the order of detectron2's classes."""
        return sorted(self.content["categories"], key=lambda category: category["id"])

    def path(self, image: Mapping[str, Any]) -> Path:
        """Return the file of an image; a Windows path is understood where its file is there."""
        path = self.folder / image["file_name"]
        if "\\" in image["file_name"] and not path.exists():
            return self.folder / image["file_name"].replace("\\", "/")
        return path


@dataclass(frozen=True)
class Trouble:
    """One kind of trouble in a data set.

    Args:
        where: the data set's name.
        what: the kind, such as ``boxes outside their image``.
        count: how many there are.
        total: of how many; 0 where that says nothing.
        examples: the first of them.
        done: what is done about it, or what to do.
        fatal: the data set cannot be used.
    """

    where: str
    what: str
    count: int
    total: int
    examples: list[str]
    done: str
    fatal: bool = False

    def __str__(self) -> str:
        count = f"{self.count} of {self.total} " if self.total else ""
        shown = self.examples + [""] * (self.count - len(self.examples))
        examples = f": {named(shown, 3)}" if self.examples else ""
        done = f". {self.done}" if self.done else ""
        return (f"data set {self.where}: " if self.where else "") + f"{count}{self.what}{examples}{done}"


@dataclass
class SetLook:
    """The result of a look at one data set.

    Args:
        data: the data set.
        classes: the names of its categories by ascending id.
        records: detectron2's records of the images, in the order of their ids; ``category_id`` counts ``classes``.
        counts: what the report's table shows.
        troubles: what is wrong.
    """

    data: CocoData
    classes: list[str]
    records: list[Record]
    counts: dict[str, int]
    troubles: list[Trouble]


@dataclass
class Look:
    """The result of a look at all data sets of a run.

    Args:
        classes: the model's class names in the order of its outputs.
        train: records to train on; ``category_id`` counts ``classes``.
        test: the records of each test set by its name.
        sets: the looks at the single sets.
        troubles: what is wrong, fatal troubles first.
    """

    classes: list[str]
    train: list[Record]
    test: dict[str, list[Record]]
    sets: list[SetLook]
    troubles: list[Trouble] = field(default_factory=list)

    def report(self) -> str:
        """Return a table of counts and every trouble with its first examples."""
        return "\n".join([count_table(self.sets), *(f"- {trouble}" for trouble in self.troubles)])

    def refuse_fatal(self) -> None:
        """Refuse data that cannot be used.

        Raises:
            DatasetError: with every fatal trouble.
        """
        if fatal := [str(trouble) for trouble in self.troubles if trouble.fatal]:
            raise DatasetError("\n".join(fatal))


def count_table(sets: Sequence[SetLook]) -> str:
    """Return the counts of each data set and of each of its classes as a text table."""
    rows = list(dict.fromkeys(name for found in sets for name in found.counts))
    lines = [["", *(found.data.name for found in sets)]]
    lines += [[name, *(str(found.counts.get(name, "-")) for found in sets)] for name in rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return "\n".join(
        line[0].ljust(widths[0])
        + "".join(f"  {cell:>{width}}" for cell, width in zip(line[1:], widths[1:], strict=True))
        for line in lines
    )


def look_at(data: CocoData, training: bool, masks: str = "", keep_empty: bool = False) -> SetLook:
    """Check a data set and make detectron2's records of it.

    In a training set what is of no use is left out; a test set stays whole, and what cannot be judged is fatal.

    Args:
        data: its content checked with ``complete=True, sound=False``; the size of images whose width and height are
            exchanged is corrected in it.
        training: whether it is to be learned, or to be judged on.
        masks: detectron2's ``INPUT.MASK_FORMAT`` if masks are used.
        keep_empty: keep training images without objects.
    """
    return _Inspection(data, training).run(masks, keep_empty)


class _Inspection:
    """One look at one data set; ``kept`` and ``used`` mark the annotations and images that become records."""

    def __init__(self, data: CocoData, training: bool) -> None:
        self.data, self.training = data, training
        self.images = data.content["images"]
        self.annotations = data.content.get("annotations", [])
        self.boxes = boxes_of(self.annotations, data.origin, sound=False)
        rows = {image["id"]: row for row, image in enumerate(self.images)}
        self.rows = np.array([rows[entry["image_id"]] for entry in self.annotations], dtype=np.int64)
        self.crowd = np.array([bool(entry["iscrowd"]) for entry in self.annotations], dtype=bool)
        self.used = np.ones(len(self.images), dtype=bool)
        self.kept = np.ones(len(self.annotations), dtype=bool)
        self.unturned: set[int] = set()
        self.masks: dict[int, Any] = {}
        self.troubles: list[Trouble] = []

    def run(self, masks: str, keep_empty: bool) -> SetLook:
        """Make every check, in an order in which each sees what the ones before it left."""
        self.check_entries()
        self.check_pictures()
        self.check_boxes()
        if masks:
            self.check_masks(masks)
        counts = self.count(masks)
        if self.training:
            self.check_objects(keep_empty)
        names = [str(category.get("name", category["id"])) for category in self.data.categories]
        return SetLook(self.data, names, self.records(), counts, self.troubles)

    def note(
        self, what: str, found: Sequence[int] | np.ndarray, name: Callable[[int], str], done: str, **more: Any
    ) -> None:
        """Add a trouble of the images or annotations of these numbers, if there are any."""
        if len(found):
            total = len(self.annotations if "box" in what or "annotation" in what else self.images)
            examples = [name(int(number)) for number in found[:_EXAMPLES]]
            self.troubles.append(Trouble(self.data.name, what, len(found), total, examples, done, **more))

    def check_entries(self) -> None:
        """Look for images listed twice and for marks that detectron2 does not know."""
        paths = Counter(image["file_name"] for image in self.images)
        twice = [row for row, image in enumerate(self.images) if paths[image["file_name"]] > 1]
        self.note(
            "images are listed more than once, under several ids", twice, self.image_name, "Each is used as listed"
        )
        ignored = [number for number, entry in enumerate(self.annotations) if entry.get("ignore")]
        done = "COCO's format has no such mark: set iscrowd to 1, or remove the annotations"
        self.note("annotations set 'ignore'", ignored, self.box_name, done, fatal=True)

    def check_pictures(self) -> None:
        """Compare the images with their files: there, readable, of the annotated size, turned by EXIF or not."""
        headers = read_headers([self.data.path(image) for image in self.images])
        missing = [row for row, header in enumerate(headers) if isinstance(header, FileNotFoundError)]
        self.note("images are missing", missing, self.path_name, "Check the folder and the names", fatal=True)
        damaged = [row for row, header in enumerate(headers) if isinstance(header, ImageError)]
        self.drop_images("images cannot be read", damaged, lambda row: str(headers[row]))
        stored, exchanged, other, turned, unclear = self.sort_by_size(headers)
        if len(stored) > len(turned):
            stored += unclear
        self.unturned = set(stored)
        self.note(
            "images are annotated without their EXIF orientation", stored, self.image_name, "They are read unturned"
        )
        for row in exchanged:
            self.images[row]["width"], self.images[row]["height"] = headers[row].size  # type: ignore[union-attr]
        done = "The pictures' own sizes are used"
        self.note("images have width and height exchanged", exchanged, self.image_name, done)
        self.drop_images(
            "images are of another size than annotated",
            other,
            lambda row: (
                f"{self.image_name(row)} is {_size(headers[row].size)}, "  # type: ignore[union-attr]
                f"annotated as {_size(self.annotated_size(row))}"
            ),
        )

    def drop_images(self, what: str, rows: list[int], name: Callable[[int], str]) -> None:
        """Leave images out of training; in a test set they stay, to be counted as without detections."""
        done = "They are left out" if self.training else "They count as without detections"
        fatal = 2 * len(rows) > len(self.images)
        self.note(what, rows, name, "Too many to go without: correct them" if fatal else done, fatal=fatal)
        if self.training:
            self.used[rows] = False

    def sort_by_size(self, headers: Sequence[ImageHeader | OSError]) -> tuple[list[int], ...]:
        """Return the images annotated as stored, with exchanged sides, of another size, turned, and turned or not."""
        groups: tuple[list[int], ...] = ([], [], [], [], [])
        stored, exchanged, other, turned, unclear = groups
        for row, header in enumerate(headers):
            if not isinstance(header, ImageHeader):
                continue
            size = self.annotated_size(row)
            if size == header.size:
                if header.orientation > 1:
                    (turned if header.size != header.stored_size else unclear).append(row)
            elif size == header.stored_size and self.fits(row, size):
                stored.append(row)
            elif size == header.size[::-1] and self.fits(row, header.size):
                exchanged.append(row)
            else:
                other.append(row)
        return groups

    def fits(self, row: int, size: tuple[int, int]) -> bool:
        """Whether all boxes of an image end within ``size``, width and height."""
        boxes = self.boxes[self.rows == row]
        return bool((boxes[:, :2] + boxes[:, 2:] <= np.asarray(size) + _ROUNDING).all())

    def check_boxes(self) -> None:
        """Look for boxes that show nothing, and for signs of another box format."""
        sizes = np.array([self.annotated_size(row) for row in range(len(self.images))], dtype=np.float64).reshape(-1, 2)
        size, corner, extent = sizes[self.rows], self.boxes[:, :2], self.boxes[:, 2:]
        with np.errstate(invalid="ignore", over="ignore"):
            end = corner + extent
            unsound = ~np.isfinite(self.boxes).all(axis=1) | (extent < 0).any(axis=1)
            empty = ~unsound & (extent == 0).any(axis=1)
            outside = ~unsound & ~empty & (np.minimum(end, size) <= np.maximum(corner, 0)).any(axis=1)
            past = ~unsound & ~outside & ((end > size + _ROUNDING) | (corner < -_ROUNDING)).any(axis=1)
            small = ~unsound & ~empty & (extent < 1).any(axis=1)
        done = "They are left out" if self.training else "Correct or remove them"
        self.drop_boxes("boxes are of negative size or not finite", unsound, done, fatal=not self.training)
        done = "They are left out" if self.training else "They stay, and count as missed"
        self.drop_boxes("boxes are without area", empty, done)
        self.drop_boxes("boxes are outside their image", outside, done)
        hint = self.box_format(past, small, end, size)
        self.note(
            "boxes reach past their image", np.flatnonzero(past), self.box_name, f"They are cut at its edges{hint}"
        )
        self.note("boxes are under a pixel wide or high", np.flatnonzero(small), self.box_name, f"They are used{hint}")

    def drop_boxes(self, what: str, bad: np.ndarray, done: str, fatal: bool = False) -> None:
        """Leave boxes out of the records; evaluation still sees them."""
        self.note(what, np.flatnonzero(bad), self.box_name, done, fatal=fatal)
        self.kept &= ~bad

    def box_format(self, past: np.ndarray, small: np.ndarray, end: np.ndarray, size: np.ndarray) -> str:
        """Return a question where nearly all boxes make sense in another format only."""
        with np.errstate(invalid="ignore"):
            ordered = (self.boxes[:, 2:] >= self.boxes[:, :2]).all(axis=1) & (self.boxes[:, 2:] <= size + 1).all(axis=1)
            in_unit = (self.boxes >= 0).all(axis=1) & (self.boxes <= 1).all(axis=1)
        if small.any() and in_unit.mean() > 0.9:
            return "; are they given in shares of the image, 0 to 1? COCO's are in pixels"
        if past.any() and past.mean() > 0.1 and ordered.mean() > 0.95:
            return "; are they given as x0, y0, x1, y1? COCO's are x, y, width, height"
        return ""

    def check_masks(self, masks: str) -> None:
        """Look for masks that are absent, damaged, or of a form that the mask format cannot have."""
        judged = np.flatnonzero(self.kept & ~self.crowd) if self.training else np.arange(len(self.annotations))
        for number in judged.tolist():
            mask, row = self.annotations[number].get("segmentation"), self.rows[number]
            found = training_mask(mask, self.height_width(row))
            if found is not None and (self.training or is_mask(mask, self.height_width(row))):
                self.masks[number] = found
        without = [number for number in judged.tolist() if number not in self.masks]
        if not self.masks:
            done, fatal = "Set MODEL.MASK_ON False, or add 'segmentation'", True
        else:
            done, fatal = ("They are left out", False) if self.training else ("Correct or remove them", True)
        self.note("annotations have no usable mask", without, self.box_name, done, fatal=fatal)
        self.kept[without] = False
        if masks == "polygon" and self.training:
            runs = [number for number, mask in self.masks.items() if isinstance(mask, dict)]
            done = "Set INPUT.MASK_FORMAT bitmask"
            self.note("annotations have their mask as RLE", runs, self.box_name, done, fatal=True)

    def check_objects(self, keep_empty: bool) -> None:
        """Leave out images without an object to learn, and look for classes without one."""
        objects = np.bincount(self.rows[self.kept & ~self.crowd], minlength=len(self.images))
        empty = np.flatnonzero(self.used & (objects == 0))
        if not keep_empty:
            self.note("images are without objects", empty, self.image_name, "They are left out")
            self.used[empty] = False
        of_class = {self.annotations[number]["category_id"] for number in np.flatnonzero(self.kept & ~self.crowd)}
        absent = [category["name"] for category in self.data.categories if category["id"] not in of_class]
        if absent and of_class:
            total, what = len(self.data.categories), "classes have no box"
            self.troubles.append(Trouble(self.data.name, what, len(absent), total, absent[:_EXAMPLES], ""))
        if not objects[self.used].sum():
            self.troubles.append(Trouble(self.data.name, "no image has an object to learn", 0, 0, [], "", True))

    def count(self, masks: str) -> dict[str, int]:
        """Return the counts of the table: images, boxes, crowds, masks, and the boxes of each class."""
        objects = self.kept & ~self.crowd & self.used[self.rows]
        counts = {
            "images": len(self.images),
            "images with objects": len(np.unique(self.rows[objects])),
            "boxes": int(objects.sum()),
            "crowds": int(self.crowd.sum()),
        }
        if masks:
            counts["masks"] = counts["boxes"]
        of_class = Counter(entry["category_id"] for entry, ok in zip(self.annotations, objects, strict=True) if ok)
        for category in self.data.categories:
            counts[f"  {category.get('name', category['id'])}"] = of_class[category["id"]]
        return counts

    def records(self) -> list[Record]:
        """Return detectron2's records, in the order of the image ids as detectron2 has them."""
        position = {category["id"]: number for number, category in enumerate(self.data.categories)}
        objects: list[list[Record]] = [[] for _ in self.images]
        for number in np.flatnonzero(self.kept):
            entry = self.annotations[number]
            made = {"bbox": entry["bbox"], "bbox_mode": _XYWH, "iscrowd": entry["iscrowd"]}
            made["category_id"] = position[entry["category_id"]]
            if number in self.masks:
                made["segmentation"] = self.masks[int(number)]
            objects[self.rows[number]].append(made)
        rows = sorted(np.flatnonzero(self.used).tolist(), key=lambda row: self.images[row]["id"])
        return [self.record(row, objects[row]) for row in rows]

    def record(self, row: int, objects: list[Record]) -> Record:
        image = self.images[row]
        made = {"file_name": str(self.data.path(image)), "image_id": image["id"], "annotations": objects}
        made |= {"width": image["width"], "height": image["height"]}
        return made | ({"turn": False} if row in self.unturned else {})

    def annotated_size(self, row: int) -> tuple[int, int]:
        return self.images[row]["width"], self.images[row]["height"]

    def height_width(self, row: int) -> list[int]:
        return [self.images[row]["height"], self.images[row]["width"]]

    def image_name(self, row: int) -> str:
        return str(self.images[row]["file_name"])

    def path_name(self, row: int) -> str:
        return str(self.data.path(self.images[row]))

    def box_name(self, number: int) -> str:
        row = self.rows[number]
        size = _size(self.annotated_size(row))
        return f"{self.annotations[number]['bbox']} in {self.image_name(row)} ({size})"


def _size(size: Iterable[int]) -> str:
    return " x ".join(map(str, size))


def read_headers(paths: Sequence[Path]) -> list[ImageHeader | OSError]:
    """Return the header of each picture, or what is wrong with it."""
    with ThreadPoolExecutor(min(16, 2 * (os.cpu_count() or 1))) as threads:
        found = threads.map(_header, paths, chunksize=64)
        return list(tqdm(found, "looking at the pictures", len(paths), disable=True if len(paths) < _MANY else None))


def _header(path: Path) -> ImageHeader | OSError:
    try:
        return read_header(path)
    except ImageError as error:
        return error if path.is_file() else FileNotFoundError(str(path))


def join(
    train: Sequence[SetLook],
    test: Sequence[SetLook],
    num_classes: int | None = None,
    classes: Sequence[str] | None = None,
    key: str = "MODEL.ROI_HEADS.NUM_CLASSES",
) -> Look:
    """Compare data sets with each other and with the model.

    Classes are matched by name: a set may number or order them in its own way, and a test set may have some only.

    Args:
        train, test: looks at single sets.
        num_classes: how many classes the model has, if that is known.
        classes: the model's class names, if they are known; else those of the first training set.
        key: the config key of ``num_classes``, for messages.
    """
    sets = [*train, *test]
    known = list(classes or next((found.classes for found in sets), []))
    troubles = [trouble for found in sets for trouble in found.troubles]
    if sets and num_classes is not None and len(known) != num_classes:
        what = f"it has {len(known)} classes ({format_names(known)}), the model {num_classes}"
        name = sets[0].data.name if not classes else "that the model was trained on"
        troubles.append(Trouble(name, what, 0, 0, [], f"Set {key} to {len(known)}", True))
    matched = [matching_records(found, known, troubles) for found in sets]
    learned = [record for records in matched[: len(train)] for record in records]
    judged = {found.data.name: records for found, records in zip(test, matched[len(train) :], strict=True)}
    seen = {record["file_name"] for record in learned}
    for name, records in judged.items():
        both = [record["file_name"] for record in records if record["file_name"] in seen]
        if both and {*(found.data.name for found in train)} != {name}:
            what = "images are in the training set, too"
            done = "Scores on them say nothing about other images"
            troubles.append(Trouble(name, what, len(both), len(records), both[:_EXAMPLES], done))
    return Look(known, learned, judged, sets, sorted(troubles, key=lambda trouble: not trouble.fatal))


def matching_records(found: SetLook, classes: Sequence[str], troubles: list[Trouble]) -> list[Record]:
    """Return a set's records with ``category_id`` counting ``classes``; adds a trouble if names differ."""
    if found.classes == list(classes):
        return found.records
    try:
        ids = match_categories(classes, found.data.categories, "")
    except DatasetError as error:
        troubles.append(Trouble(found.data.name, str(error).removeprefix(": "), 0, 0, [], "", True))
        return found.records
    position = [ids.index(category["id"]) for category in found.data.categories]
    return [
        {**record, "annotations": [{**a, "category_id": position[a["category_id"]]} for a in record["annotations"]]}
        for record in found.records
    ]


def match_categories(classes: Sequence[str], categories: Sequence[Record], where: str) -> list[int | None]:
    """Return the category id of each class of a model, matched by name; None for a class without a category.

    Args:
        classes: the model's class names in the order of its outputs.
        categories: ``id`` and ``name`` of an annotation file's categories.
        where: the annotations' name in errors.

    Raises:
        DatasetError: if a category is not among the classes, or names do not tell them apart.
    """
    ordered = sorted(categories, key=lambda category: category["id"])
    names = [str(category.get("name", category["id"])) for category in ordered]
    if names == list(classes):
        return [category["id"] for category in ordered]
    if not set(names) <= set(classes) or len(set(classes)) < len(classes) or len(set(names)) < len(names):
        raise DatasetError(
            f"{where}: its classes are {format_names(names)}; the model's are {format_names(classes)}: give both the "
            "same names"
        )
    ids = {name: category["id"] for name, category in zip(names, ordered, strict=True)}
    return [ids.get(name) for name in classes]
