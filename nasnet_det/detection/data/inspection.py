"""The look at one data set: its entries, images, boxes and masks (:mod:`nasnet_det.detection.data.look`)."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from nasnet_det.detection.data.coco_format import boxes_of, category_labels
from nasnet_det.detection.data.coco_masks import is_mask, training_mask
from nasnet_det.detection.data.columns import Record
from nasnet_det.detection.data.look import EXAMPLES, CocoData, SetLook, Trouble
from nasnet_det.safe_io.files import exists
from nasnet_det.safe_io.images import ImageError, ImageHeader, read_header

#: detectron2's BoxMode.XYWH_ABS.
_XYWH = 1
#: Reading this many headers takes long enough for a progress bar.
_MANY = 2000
#: A box may end this many pixels past its image, as rounding makes it.
_ROUNDING = 1.0


def look_at(data: CocoData, training: bool, masks: str = "", keep_empty: bool = False) -> SetLook:
    """Check a data set and make detectron2's records of it.

    Useless parts of a training set are left out; a test set is kept whole, and parts that prevent evaluation are fatal.

    Args:
        data: its content checked with ``required=COMPLETE, sound=False``; the size of images whose width and height are
            exchanged is corrected in it.
        training: True for a training set, False for a test set.
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
        #: How far right and down the boxes of each image reach.
        self.reach = np.zeros((len(self.images), 2))
        with np.errstate(invalid="ignore", over="ignore"):
            np.maximum.at(self.reach, self.rows, self.boxes[:, :2] + self.boxes[:, 2:])
        self.used = np.ones(len(self.images), dtype=bool)
        self.kept = np.ones(len(self.annotations), dtype=bool)
        self.unturned: set[int] = set()
        self.masks: dict[int, Any] = {}
        self.names = [str(category.get("name", category["id"])) for category in data.categories]
        self.troubles = [replace(note, where=data.name) for note in data.notes]

    def run(self, masks: str, keep_empty: bool) -> SetLook:
        """Run all checks; each sees what the ones before it left."""
        self.check_entries()
        self.check_pictures()
        self.check_boxes()
        if masks:
            self.check_masks(masks)
        counts = self.count(masks)
        if self.training:
            self.check_objects(keep_empty)
        if not counts["images"]:
            self.troubles.append(Trouble(self.data.name, "no image is listed", 0, 0, [], "", True))
        elif not counts["boxes"] and "annotations" in self.data.content:
            done = "" if self.training else "All scores will be undefined"
            self.troubles.append(Trouble(self.data.name, "no image has an object", 0, 0, [], done, self.training))
        return SetLook(self.data, self.names, self.records(), counts, self.troubles)

    def note(
        self, what: str, found: Sequence[int] | np.ndarray, name: Callable[[int], str], done: str, fatal: bool = False
    ) -> None:
        """Add a trouble of the images or annotations of these numbers, if there are any."""
        whole = self.annotations if "box" in what or "annotation" in what else self.images
        self.add(what, [name(int(number)) for number in found[:EXAMPLES]], whole, done, fatal, len(found))

    def add(
        self, what: str, names: list[str], whole: Sequence[Any], done: str = "", fatal: bool = False, count: int = 0
    ) -> None:
        """Add a trouble of ``names`` out of ``whole``, if there are any."""
        if names:
            count = count or len(names)
            self.troubles.append(Trouble(self.data.name, what, count, len(whole), names[:EXAMPLES], done, fatal))

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
        negative = [number for number, entry in enumerate(self.annotations) if entry["area"] < 0]
        done = "It is not used" if self.training else "COCO's scores leave them out: correct or remove 'area'"
        self.note("annotations have a negative area", negative, self.box_name, done, fatal=not self.training)
        self.note("boxes repeat another of the same image and class", self.repeated(), self.box_name, "They are used")
        self.check_classes()

    def repeated(self) -> np.ndarray:
        """Return the annotations that equal an earlier one in image, class and box."""
        classes = np.array([entry["category_id"] for entry in self.annotations], dtype=np.float64)
        keys = np.column_stack([self.rows, classes, self.boxes])
        return np.setdiff1d(np.arange(len(keys)), np.unique(keys, axis=0, return_index=True)[1])

    def check_classes(self) -> None:
        """Look for classes whose names are equal, or differ in case and spaces only."""
        plain = ["".join(name.casefold().split()) for name in self.names]
        alike = [name for name, own in zip(self.names, plain, strict=True) if plain.count(own) > 1]
        self.add("classes have the name of another, or differ in case and spaces only", alike, self.names, "Kept apart")

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
        elif not turned:
            what = "images are turned or mirrored by EXIF, which their size does not show"
            self.note(what, unclear, self.image_name, "Their annotations are taken to be of the upright image")
        self.unturned = set(stored)
        self.note(
            "images are annotated without their EXIF orientation", stored, self.image_name, "They are read unturned"
        )
        for row in exchanged:
            self.images[row]["width"], self.images[row]["height"] = headers[row].size  # type: ignore[union-attr]
        done = "The images' own sizes are used"
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
        """Leave images out of training; in a test set they are kept, and count as without detections."""
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
            elif size == header.stored_size and (self.fits(row, size) or not self.fits(row, header.size)):
                stored.append(row)
            elif size == header.size[::-1] and self.fits(row, header.size):
                exchanged.append(row)
            else:
                other.append(row)
        return groups

    def fits(self, row: int, size: tuple[int, int]) -> bool:
        """Return True if all boxes of an image end within ``size``, width and height."""
        return bool((self.reach[row] <= np.asarray(size) + _ROUNDING).all())

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
        hint = self.box_format(past, small, size)
        self.note(
            "boxes reach past their image", np.flatnonzero(past), self.box_name, f"They are cut at its edges{hint}"
        )
        self.note("boxes are under a pixel wide or high", np.flatnonzero(small), self.box_name, f"They are used{hint}")

    def drop_boxes(self, what: str, bad: np.ndarray, done: str, fatal: bool = False) -> None:
        """Leave boxes out of the records; evaluation still sees them."""
        self.note(what, np.flatnonzero(bad), self.box_name, done, fatal=fatal)
        self.kept &= ~bad

    def box_format(self, past: np.ndarray, small: np.ndarray, size: np.ndarray) -> str:
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
        absent = [
            name
            for category, name in zip(self.data.categories, self.names, strict=True)
            if category["id"] not in of_class
        ]
        if of_class:
            self.add("classes have no box", absent, self.names)

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
        return counts | {
            f"  {label}": of_class[number] for number, label in sorted(category_labels(self.data.categories).items())
        }

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
        """Return the record of one image."""
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
    """Return the header of each image, or what is wrong with it."""
    with ThreadPoolExecutor(min(16, 2 * (os.cpu_count() or 1))) as threads:
        found = threads.map(_header, paths, chunksize=64)
        return list(tqdm(found, "looking at the images", len(paths), disable=True if len(paths) < _MANY else None))


def _header(path: Path) -> ImageHeader | OSError:
    try:
        return read_header(path)
    except ImageError as error:
        return error if exists(path) else FileNotFoundError(str(path))
