"""The check of data sets before they are used: images, boxes, ids, classes, sizes and masks, train and test together.

:func:`nasnet_det.detection.data.inspection.look_at` checks one data set and converts it to detectron2's records;
:func:`join` compares data sets with each other and with the model. The result is one report. detectron2 is not needed.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from nasnet_det.detection.data.columns import Record
from nasnet_det.safe_io.copies import find_copies
from nasnet_det.safe_io.folders import FoundFiles, find_named
from nasnet_det.safe_io.images import ImageError, read_image
from nasnet_det.safe_io.values import format_names, named, printable

logger = logging.getLogger(__name__)

#: So many examples of each trouble are kept.
EXAMPLES = 20
#: The trouble of images that :func:`nasnet_det.safe_io.folders.find_named` finds under another name.
RENAMED = "images are stored in another folder, letter case or format than listed"

#: How rotated boxes are handled, as CVAT and Datumaro write them.
TURNED = "They are used without their angle, which is another part of the image: export polygons, or draw them upright"


class Fatal(str):
    """Advice, perhaps empty, about trouble that makes a data set unusable until it is followed."""


LEFT_OUT, STAY, CORRECT = "They are left out", "They stay, and count as missed", Fatal("Correct or remove them")


class DatasetError(ValueError):
    """A data set that is unusable; the message lists every fatal trouble."""


@dataclass(frozen=True)
class Trouble:
    """One kind of trouble in a data set.

    Args:
        where: the data set's name.
        what: the kind, such as ``boxes outside their image``.
        count: how many there are.
        total: of how many; 0 where that says nothing.
        examples: the first of them.
        done: how it is handled, or what to do.
    """

    where: str
    what: str
    count: int = 0
    total: int = 0
    examples: Sequence[str] = ()
    done: str = ""

    @property
    def fatal(self) -> bool:
        """True if the data set is unusable."""
        return isinstance(self.done, Fatal)

    def __str__(self) -> str:
        count = f"{self.count} of {self.total} " if self.total else ""
        examples = f": {named(self.examples, count=self.count)}" if self.examples else ""
        done = f". {self.done}" if self.done else ""
        return printable((f"data set {self.where}: " if self.where else "") + f"{count}{self.what}{examples}{done}")


@dataclass(frozen=True)
class CocoData:
    """Annotated images.

    Args:
        name: the data set's name.
        content: checked ``images``, ``categories`` in the order of the classes and, unless it is a test set without
            truth, ``annotations``.
        folder: the folder that the images' ``file_name`` is relative to.
        origin: what the annotations were read from, for messages.
        notes: troubles found in reading, such as label files without an image.
    """

    name: str
    content: dict[str, Any]
    folder: Path
    origin: str
    notes: tuple[Trouble, ...] = ()

    @property
    def categories(self) -> list[Record]:
        """The categories in the order of the classes."""
        categories: list[Record] = self.content["categories"]
        return categories

    @property
    def names(self) -> list[str]:
        """The names of the classes."""
        return [str(category.get("name", category["id"])) for category in self.categories]

    def find_images(self) -> FoundFiles:
        """Return the paths of the images."""
        return find_named(self.folder, [image["file_name"] for image in self.content["images"]])


@dataclass(eq=False)
class SetLook:
    """The result of a look at one data set.

    Args:
        data: the data set.
        records: detectron2's records of the images, in the order of their ids; ``category_id`` counts the categories.
        counts: the rows of the report's table.
        troubles: the problems found.
        category_ids: the category id of each class of the model that it was last joined with others for, None for
            one without a category; not set where the model's classes are unknown.
    """

    data: CocoData
    records: list[Record]
    counts: dict[str, int]
    troubles: list[Trouble]
    category_ids: Sequence[int | None] = ()


@dataclass
class Look:
    """The result of a look at all data sets of a run.

    Args:
        classes: the model's class names in the order of its outputs.
        train: records to train on; ``category_id`` counts ``classes``.
        test: the records of each test set by its name.
        sets: the looks at the single sets.
        troubles: the problems found, fatal ones first.
    """

    classes: list[str]
    train: list[Record]
    test: dict[str, list[Record]]
    sets: list[SetLook]
    troubles: list[Trouble] = field(default_factory=list)

    def report(self) -> str:
        """Return a table of counts and every trouble with its first examples."""
        return "\n".join([format_counts(self.sets), *(f"- {trouble}" for trouble in self.troubles)])

    def refuse_fatal(self) -> None:
        """Raise an error for unusable data.

        Raises:
            DatasetError: with every fatal trouble.
        """
        if fatal := [str(trouble) for trouble in self.troubles if trouble.fatal]:
            raise DatasetError("\n".join(fatal))


def warn_of_unusable(name: str, unusable: Collection[str], total: int) -> None:
    """Log which of the images of a test set count as without detections, if any do.

    Raises:
        DatasetError: if all do.
    """
    if unusable:
        count = f"{len(unusable)} of {total} images cannot be used and count as without detections"
        message = f"data set {name}: {count}: {named(sorted(unusable), 20)}"
        if len(unusable) == total:
            raise DatasetError(message)
        logger.warning(message)


def note(what: str, names: Iterable[Path | str], done: str, total: int = 0, where: str = "") -> list[Trouble]:
    """Return the trouble of what is named, if anything is; without ``where`` its data set is named later."""
    found = sorted(map(str, names))
    return [Trouble(where, what, len(found), total, found[:EXAMPLES], done)] if found else []


def read_record(record: Record) -> Image.Image:
    """Return the image of a record, turned as its annotations are.

    Raises:
        ImageError: if it is unreadable, or of another size than the record says.
    """
    image = read_image(record["file_name"], record.get("turn", True))
    size = (record.get("width", image.width), record.get("height", image.height))
    if image.size != size:
        found = f"{image.width} x {image.height}"
        raise ImageError(f"{record['file_name']} is {found}, but annotated as {size[0]} x {size[1]}")
    return image


def count_rows(sets: Sequence[SetLook]) -> list[list[str]]:
    """Return the table of the counts of each data set and of each of its classes; its first row names the sets."""
    names = dict.fromkeys(name for found in sets for name in found.counts)
    rows = [[printable(name), *(str(found.counts.get(name, "-")) for found in sets)] for name in names]
    return [["", *(printable(found.data.name) for found in sets)], *rows]


def format_counts(sets: Sequence[SetLook]) -> str:
    """Return :func:`count_rows` as text."""
    rows = count_rows(sets)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        row[0].ljust(widths[0]) + "".join(f"  {cell:>{width}}" for cell, width in zip(row[1:], widths[1:], strict=True))
        for row in rows
    )


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
    sets = list(dict.fromkeys([*train, *test]))
    known = list(classes or next((found.data.names for found in sets), []))
    troubles = [trouble for found in sets for trouble in found.troubles]
    if sets and num_classes is not None and len(known) != num_classes:
        what = f"it has {len(known)} classes ({format_names(known)}), the model {num_classes}"
        name = sets[0].data.name if not classes else "that the model was trained on"
        whole = [found.data.name for found in train[1:] if len(found.data.names) == num_classes and not classes]
        remedy = f"Name {whole[0]}, which has {num_classes}, before it" if whole else f"Set {key} to {len(known)}"
        troubles.append(Trouble(name, what, done=Fatal(remedy)))
    ids = {found: _match(found, known, troubles, found in train[1:]) for found in sets}
    if train or classes:
        for found in sets:
            found.category_ids = ids[found]
    matched = {found: _counting(ids[found], found) for found in sets}
    learned = [record for found in train for record in matched[found]]
    judged = {found.data.name: matched[found] for found in test}
    for name, records in judged.items():
        if {found.data.name for found in train} != {name}:
            troubles += _trained_on(name, records, learned)
    different = {str(trouble): trouble for trouble in troubles}.values()  # one set may be both to train and to test on
    return Look(known, learned, judged, sets, sorted(different, key=lambda trouble: not trouble.fatal))


def _match(found: SetLook, classes: Sequence[str], troubles: list[Trouble], is_learned: bool) -> list[int | None]:
    """Return the category id of each class; adds a trouble if names differ."""
    categories = found.data.categories
    used = (categories[entry["category_id"]]["id"] for record in found.records for entry in record["annotations"])
    try:
        ids = match_categories(classes, categories, f"data set {found.data.name}", used)
    except DatasetError as error:
        has_all = is_learned and set(classes) < set(found.data.names)
        first = "Of several training sets name this first: the first gives the model its classes" if has_all else ""
        troubles.append(Trouble("", str(error), done=Fatal(first)))
        return []
    if unknown := [str(category["name"]) for category in categories if category["id"] not in ids]:
        what = "classes are not the model's, and have no box"
        troubles.append(Trouble(found.data.name, what, len(unknown), len(categories), unknown, LEFT_OUT))
    return ids


def _counting(ids: Sequence[int | None], found: SetLook) -> list[Record]:
    """Return the records of a set with ``category_id`` counting ``ids``, unless these are its own or unknown."""
    own = [category["id"] for category in found.data.categories]
    if ids == own or not ids:
        return found.records
    position = [ids.index(number) if number in ids else -1 for number in own]
    return [
        {**record, "annotations": [{**a, "category_id": position[a["category_id"]]} for a in record["annotations"]]}
        for record in found.records
    ]


def _trained_on(name: str, records: Sequence[Record], learned: Sequence[Record]) -> list[Trouble]:
    """Return the trouble of a test set's images that are trained on, in the same file, through a link or as a copy."""
    copies = find_copies(*([Path(record["file_name"]) for record in images] for images in (records, learned)))
    examples = [str(path) if path == other else f"{path} as {other}" for path, other in copies.items()]
    done = "Scores on them say nothing about other images"
    return note("images are in the training set, too", examples, done, len(records), name)


def match_categories(
    classes: Sequence[str], categories: Sequence[Record], where: str, used: Iterable[int] | None = None
) -> list[int | None]:
    """Return the category id of each class of a model, matched by name; None for a class without a category.

    Args:
        classes: the model's class names in the order of its outputs.
        categories: ``id`` and ``name`` of a data set's categories, in the order of its classes.
        where: the annotations' name in errors.
        used: ids of the categories that have annotations, if others need not be among the classes: tools add
            categories of their own, as Roboflow the name of all.

    Raises:
        DatasetError: if a category is not among the classes, or names do not tell them apart.
    """
    ids = [category["id"] for category in categories]
    names = [str(category.get("name", category["id"])) for category in categories]
    if names == list(classes):
        return ids
    used = {*(ids if used is None else used)}
    needed = {name for name, number in zip(names, ids, strict=True) if number in used}
    if not needed <= set(classes) or len(set(classes)) < len(classes) or len(set(names)) < len(names):
        raise DatasetError(
            f"{where}: its classes are {format_names(names)}; the model's are {format_names(classes)}: give both the "
            "same names"
        )
    by_name = dict(zip(names, ids, strict=True))
    return [by_name.get(name) for name in classes]
