"""The look at one data set: its entries, images, boxes and masks (:mod:`nasnet_det.detection.data.look`)."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from nasnet_det.detection.data.boxes import ROUNDING, find_odd_boxes
from nasnet_det.detection.data.coco_format import category_labels, unknown_marks, visible
from nasnet_det.detection.data.coco_masks import box_of_mask, is_mask, training_mask
from nasnet_det.detection.data.columns import Record
from nasnet_det.detection.data.look import (
    CORRECT,
    EXAMPLES,
    LEFT_OUT,
    RENAMED,
    STAY,
    TURNED,
    CocoData,
    Fatal,
    SetLook,
    Trouble,
)
from nasnet_det.safe_io.files import protect
from nasnet_det.safe_io.images import ImageHeader, read_headers
from nasnet_det.safe_io.values import format_value, named

#: A function from the number of an entry to its description in the report.
Namer = Callable[[int], object]
#: detectron2's BoxMode.XYWH_ABS.
_XYWH = 1
#: Marks of tools for the angle of a box.
_ANGLES = ("rotation", "angle", "theta")
#: Of all boxes no larger share is of crowds: in COCO one in a hundred.
_CROWDS = 0.1
#: In place of the header of an image that cannot be read.
_UNKNOWN = ImageHeader((0, 0))
#: A box times this is its centre.
_CENTRE = np.array([[1, 0], [0, 1], [0.5, 0], [0, 0.5]])


def look_at(data: CocoData, training: bool, masks: str = "", keep_empty: bool = False, decode: bool = False) -> SetLook:
    """Check a data set and make detectron2's records of it.

    Useless parts of a training set are left out; a test set is kept whole, and parts that prevent evaluation are fatal.

    Args:
        data: its content checked with ``required=COMPLETE, sound=False``; the size of images whose width and height are
            exchanged is corrected in it.
        training: True for a training set, False for a test set.
        masks: detectron2's ``INPUT.MASK_FORMAT`` if masks are used.
        keep_empty: keep training images without objects.
        decode: decode every image, not only its header.
    """
    look = _Inspection(data, training)
    look.check_entries()
    look.check_pictures(decode)
    look.check_boxes()
    if masks:
        look.check_masks(masks)
    look.check_objects(keep_empty)
    return SetLook(data, look.records(), look.counts(bool(masks)), look.troubles)


class _Inspection:
    """One look at one data set; ``kept`` and ``used`` mark the annotations and images that become records."""

    def __init__(self, data: CocoData, training: bool) -> None:
        self.data, self.training = data, training
        self.images, self.annotations = data.content["images"], data.content.get("annotations", [])
        self.found = data.find_images()
        self.paths = self.found.paths
        protect(self.paths)
        self.sizes = _columns(((image["width"], image["height"]) for image in self.images), 2, np.int64)
        self.boxes = _columns((entry["bbox"] for entry in self.annotations), 4)
        self.crowd = np.array([entry["iscrowd"] for entry in self.annotations], dtype=bool)
        self.rows = self.positions("image_id", self.images)
        self.classes = self.positions("category_id", data.categories)
        self.used, self.kept = np.ones(len(self.images), dtype=bool), np.ones(len(self.annotations), dtype=bool)
        self.unturned = np.zeros(len(self.images), dtype=bool)
        self.masks: dict[int, Any] = {}
        self.troubles = [replace(note, where=data.name) for note in data.notes]

    def positions(self, key: str, entries: Sequence[Record]) -> np.ndarray:
        """Return the position in ``entries`` of the id that each annotation names in ``key``."""
        position = {entry["id"]: number for number, entry in enumerate(entries)}
        return np.array([position[entry[key]] for entry in self.annotations], dtype=np.int64)

    def note(
        self, what: str, marks: ArrayLike, training: str, test: str | None = None, name: Namer | None = None
    ) -> None:
        """Report trouble, if there is any; what is unusable or to be left out of training is no longer kept or used.

        Args:
            what: its kind, which begins with the list that it is of: images, annotations, boxes or masks, or classes.
            marks: True for each entry of this list that is concerned.
            training, test: how it is handled in a training set, and in a test set where that differs.
            name: returns the description of an entry in the report.
        """
        marks = np.asarray(marks, dtype=bool)
        numbers = np.flatnonzero(marks).tolist()
        if not numbers:
            return
        of = what.split()[0]
        if training == LEFT_OUT or isinstance(training, Fatal):
            if of != "images":
                self.kept &= ~marks
            elif self.training:
                self.used &= ~marks
        names: dict[str, Namer] = {"images": self.image_name, "classes": self.data.names.__getitem__}
        name = name or names.get(of, self.box_name)
        examples = [str(name(number)) for number in numbers[:EXAMPLES]]
        done = training if self.training or test is None else test
        self.troubles.append(Trouble(self.data.name, what, len(numbers), len(marks), examples, done))

    def check_entries(self) -> None:
        """Look for repeated entries, for marks that detectron2 does not know, and for classes that look alike."""
        self.note("images are listed more than once, under several ids", _shared(self.paths), "Each is used as listed")
        marks = [*map(unknown_marks, self.annotations)]
        ignored = np.array([bool(given) for given in marks], dtype=bool) & ~self.crowd
        hint = Fatal("COCO's format has no such mark: set iscrowd to 1, or remove the annotations")
        given = dict.fromkeys(mark for number in np.flatnonzero(ignored) for mark in marks[number])
        self.note(f"annotations set {' or '.join(map(repr, given))}", ignored, hint)
        formats = [entry.get("bbox_mode", entry.get("bbox_format")) for entry in self.annotations]
        hint = Fatal("COCO's boxes are x, y, width, height: convert them, and remove the mark")
        sound = re.compile(r"(?i)None|1|(.*\W)?xywh(_abs)?|coco")
        others = [not sound.fullmatch(str(given)) for given in formats]
        self.note("boxes are marked as of another format ('bbox_mode', 'bbox_format')", others, hint)
        areas = np.array([entry["area"] for entry in self.annotations])
        hint = Fatal("COCO's scores leave them out: correct or remove 'area'")
        self.note("annotations have a negative area", areas < 0, "It is not used", hint)
        with np.errstate(invalid="ignore", over="ignore"):
            extents = self.boxes[:, 2] * self.boxes[:, 3]
            odd = (extents > 0) & ((areas == 0) | (areas > 2 * extents + 1))
        scored = "APs, APm and APl go by it; without 'area' that of the box is taken"
        self.note("annotations have an area of 0, or larger than their box", odd, "It is not used", scored)
        crowds = self.crowd & (self.crowd.sum() > _CROWDS * len(self.crowd))
        question = (
            "They are neither learnt nor counted; are they single objects, whose masks CVAT and Datumaro mark so?"
        )
        self.note("boxes are crowds (iscrowd)", crowds, question)
        turned = [_has_angle(entry) or _has_angle(entry.get("attributes")) for entry in self.annotations]
        self.note("boxes are rotated ('attributes', 'rotation')", turned, TURNED)
        if not self.training:
            partly = ["neg_category_ids" in image for image in self.images]
            done = "COCO's scores count right detections of other classes as wrong, LVIS's do not"
            self.note("images were annotated for some classes only ('neg_category_ids')", partly, done)
        keys = np.column_stack([self.rows, self.classes, self.boxes])
        repeated = np.ones(len(keys), dtype=bool)
        repeated[np.unique(keys, axis=0, return_index=True)[1]] = False
        self.note("boxes repeat another of the same image and class", repeated, "They are used")
        alike = _shared([visible(name.casefold()) for name in self.data.names])
        self.note(
            "classes have the name of another, or differ in case, spaces and what is invisible only",
            alike,
            "Kept apart",
        )

    def check_pictures(self, decode: bool) -> None:
        """Compare the images with their files: there, readable, of the annotated size, turned by EXIF or not."""
        headers = read_headers(self.paths, decode)
        known = [header if isinstance(header, ImageHeader) else _UNKNOWN for header in headers]
        upright = _columns((header.size for header in known), 2, np.int64)
        stored = _columns((header.stored_size for header in known), 2, np.int64)
        oriented = np.array([header.orientation != 1 for header in known], dtype=bool)
        damaged = np.array([header is _UNKNOWN for header in known], dtype=bool)
        with np.errstate(invalid="ignore", over="ignore"):
            reach = np.zeros(upright.shape)  # of the boxes of each image to the right and down
            np.maximum.at(reach, self.rows, self.boxes[:, :2] + self.boxes[:, 2:])
        fits_listed, fits_upright = ((reach <= sides + ROUNDING).all(axis=1) for sides in (self.sizes, upright))
        is_upright, is_stored = ((self.sizes == sides).all(axis=1) for sides in (upright, stored))
        shows = (upright != stored).any(axis=1)  # the size tells whether an image was annotated upright
        unturned = is_stored & ~is_upright & (fits_listed | ~fits_upright)
        exchanged = (self.sizes == upright[:, ::-1]).all(axis=1) & ~is_upright & ~unturned & fits_upright
        other = ~(damaged | is_upright | unturned | exchanged)
        turned, unclear = is_upright & oriented & shows, is_upright & oriented & ~shows

        def sizes(row: int) -> str:
            return f"{self.image_name(row)} is {_format(upright[row])}, annotated as {_format(self.sizes[row])}"

        def candidates(row: int) -> str:
            files = named([path.name for path in self.found.fitting[row]])
            return f"{self.paths[row]}" + (f" (is it {files}?)" if files else "")

        def other_name(row: int) -> str:
            return f"{self.image_name(row)} as {self.paths[row].name}"

        missing = np.array(self.found.missing, dtype=bool)
        self.note("images are missing", missing, Fatal("Check the folder and the names"), name=candidates)
        self.note(RENAMED, self.found.renamed, "They are used", name=other_name)
        self.leave_out("images cannot be read", damaged & ~missing, headers.__getitem__)
        if unturned.sum() > turned.sum():
            unturned |= unclear
        elif not turned.any():
            what = "images are turned or mirrored by EXIF, which their size does not show"
            self.note(what, unclear, "Their annotations are taken to be of the upright image")
        self.unturned = unturned
        self.note("images are annotated without their EXIF orientation", unturned, "They are read as stored")
        self.note("images have width and height exchanged", exchanged, "The images' own sizes are used")
        self.sizes[exchanged] = upright[exchanged]
        for row in np.flatnonzero(exchanged).tolist():
            self.images[row]["width"], self.images[row]["height"] = known[row].size
        self.leave_out("images are of another size than annotated", other, sizes)

    def leave_out(self, what: str, marks: np.ndarray, name: Namer) -> None:
        """Leave images out of training; in a test set they are kept, and count as without detections."""
        too_many = Fatal("Too many to go without: correct them") if 2 * marks.sum() > len(marks) else None
        self.note(what, marks, too_many or LEFT_OUT, too_many or "They count as without detections", name)

    def check_boxes(self) -> None:
        """Look for boxes that show nothing, and for signs of another box format."""
        odd, _ = find_odd_boxes(self.boxes, self.sizes[self.rows])
        for trouble in odd:
            self.note(*trouble)

    def check_masks(self, masks: str) -> None:
        """Look for masks that are absent, damaged, or of a form that the mask format cannot have."""
        shapes = self.sizes[:, ::-1].tolist()
        without = self.kept & ~self.crowd if self.training else np.ones_like(self.kept)
        for number in np.flatnonzero(without).tolist():
            mask, shape = self.annotations[number].get("segmentation"), shapes[self.rows[number]]
            found = training_mask(mask, shape) if self.training or is_mask(mask, shape) else None
            if found is not None:
                self.masks[number] = found
        without[[*self.masks]] = False
        none = None if self.masks else Fatal("Set MODEL.MASK_ON False or --iou-types bbox, or add 'segmentation'")

        def with_mask(number: int) -> str:
            return f"{self.box_name(number)} with {format_value(self.annotations[number].get('segmentation'))}"

        self.note("annotations have no usable mask", without, none or LEFT_OUT, none or CORRECT, with_mask)
        around = np.full_like(self.boxes, np.nan)
        around[[*self.masks]] = _columns(map(box_of_mask, self.masks.values()), 4)
        empty = (around[:, 2:] <= 0).any(axis=1)
        self.note("masks are without area", empty, LEFT_OUT, STAY, with_mask)
        with np.errstate(invalid="ignore"):
            apart = 2 * np.abs((self.boxes - around) @ _CENTRE) > self.boxes[:, 2:]
        question = "They are used; are they in pixels of the upright image, as the boxes are?"
        elsewhere = apart.any(axis=1) & ~empty
        self.note("masks have their centre outside of their boxes", elsewhere, question, name=with_mask)
        if masks == "polygon" and self.training:
            runs = [isinstance(self.masks.get(number), dict) for number in range(len(self.annotations))]
            self.note("annotations have their mask as RLE", runs, Fatal("Set INPUT.MASK_FORMAT bitmask"))

    @property
    def objects(self) -> np.ndarray:
        """True for the annotations to learn or to find."""
        return self.kept & ~self.crowd & self.used[self.rows]

    def check_objects(self, keep_empty: bool) -> None:
        """Look for images and classes without objects; training leaves such images out unless they are wanted."""
        objects = self.objects
        if not self.images:
            self.troubles.append(Trouble(self.data.name, "no image is listed", done=Fatal()))
        elif not objects.any():
            expected = self.training or "annotations" in self.data.content
            if expected and not any(trouble.fatal for trouble in self.troubles):  # else those are the reason
                reasons = [f"{trouble.count or ''} {trouble.what}".strip() for trouble in self.troubles]
                few = 0 < self.crowd.sum() <= _CROWDS * len(self.crowd)  # more are among the troubles
                reasons += [f"{self.crowd.sum()} boxes are crowds"] if few else []
                done = Fatal("; ".join(reasons)) if self.training else "All scores will be undefined"
                self.troubles.append(Trouble(self.data.name, "no image has an object", done=done))
        elif self.training:
            self.note("classes have no box", ~np.isin(np.arange(len(self.data.names)), self.classes[objects]), "")
            empty = self.used & ~np.isin(np.arange(len(self.images)), self.rows[objects])
            if not keep_empty:
                self.note("images are without objects", empty, LEFT_OUT)

    def counts(self, masks: bool) -> dict[str, int]:
        """Return the rows of the table: images, boxes, crowds, masks, and the boxes of each class."""
        rows, classes = self.rows[self.objects], self.classes[self.objects]
        counts = {"images": len(self.images), "images with objects": len(np.unique(rows)), "boxes": len(rows)}
        counts |= {"crowds": int(self.crowd.sum())} | ({"masks": len(rows)} if masks else {})
        labels = [f"  {label}" for label in category_labels(self.data.categories).values()]
        return counts | dict(zip(labels, np.bincount(classes, minlength=len(labels)).tolist(), strict=True))

    def records(self) -> list[Record]:
        """Return detectron2's records, in the order of the image ids as detectron2 has them."""
        records: list[Record] = []
        for image, path, unturned in zip(self.images, self.paths, self.unturned, strict=True):
            made = {"file_name": str(path), "image_id": image["id"], "annotations": []}
            made |= {"width": image["width"], "height": image["height"]}
            records.append(made | ({"turn": False} if unturned else {}))
        for number in np.flatnonzero(self.kept).tolist():
            entry = self.annotations[number]
            made = {"bbox": entry["bbox"], "bbox_mode": _XYWH, "iscrowd": entry["iscrowd"]}
            made |= {"category_id": int(self.classes[number])}
            made |= {"segmentation": self.masks[number]} if number in self.masks else {}
            records[self.rows[number]]["annotations"].append(made)
        return sorted((records[row] for row in np.flatnonzero(self.used)), key=lambda record: record["image_id"])

    def image_name(self, row: int) -> str:
        return str(self.images[row]["file_name"])

    def box_name(self, number: int) -> str:
        row, box = self.rows[number], ", ".join(f"{value:.10g}" for value in self.boxes[number])
        return f"[{box}] in {self.image_name(row)} ({_format(self.sizes[row])})"


def _has_angle(given: Any) -> bool:
    """Return True for a mapping with an angle that is not 0."""
    return isinstance(given, dict) and any(type(given.get(key)) in (int, float) and given[key] for key in _ANGLES)


def _shared(values: Sequence[Hashable]) -> list[bool]:
    """Return True for each value that occurs more than once."""
    count = Counter(values)
    return [count[value] > 1 for value in values]


def _columns(rows: Iterable[Sequence[float]], number: int, dtype: DTypeLike = np.float64) -> np.ndarray:
    """Return rows of numbers as an array with this number of columns, also of none."""
    return np.array([*rows], dtype=dtype).reshape(-1, number)


def _format(size: Iterable[int]) -> str:
    return " x ".join(map(str, size))
