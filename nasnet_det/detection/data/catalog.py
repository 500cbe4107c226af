"""Data sets in detectron2's catalog: registering, reading, and their class names.

A data set registered from a COCO file is read from that file; one registered by a function is converted as
detectron2's ``convert_to_coco_dict`` does.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.utils.file_io import PathManager

from nasnet_det.detection.data.coco_format import one_form, read_complete
from nasnet_det.detection.data.columns import CocoFormatError, Record
from nasnet_det.detection.data.datasets import SPLITS
from nasnet_det.detection.data.inspection import look_at
from nasnet_det.detection.data.look import CocoData, DatasetError, note
from nasnet_det.detection.data.standard_records import as_coco_content, plain
from nasnet_det.safe_io.values import format_names, format_value


def register(data: CocoData) -> str:
    """Register a data set with detectron2, replacing one of the same name; return the name."""
    for catalog in (DatasetCatalog, MetadataCatalog):
        if data.name in catalog:
            catalog.remove(data.name)
    DatasetCatalog.register(data.name, _Prepared(data))
    MetadataCatalog.get(data.name).set(thing_classes=data.names, thing_dataset_id_to_contiguous_id=_positions(data))
    return data.name


def categories(name: str) -> list[Record]:
    """Return ``id`` and ``name`` of each class of a data set, in their order; none if it is not registered.

    They are those of its metadata, or else those of its annotation file.

    Raises:
        CocoFormatError: if that file breaks the format.
    """
    if name not in DatasetCatalog:
        return []
    metadata = MetadataCatalog.get(name)
    known = _thing_classes(name) and metadata.get("thing_dataset_id_to_contiguous_id")
    if not known and Path(metadata.get("json_file") or "").is_file():
        return _from_file(name).categories
    return _own_categories(name)


def read_registered(name: str, num_classes: int | None = None) -> CocoData:
    """Return a data set of detectron2's catalog as COCO content, with boxes that may still be unsound.

    Args:
        num_classes: how many classes there are, for a function that gives no names.

    Raises:
        DatasetError: if it is not registered, its file is missing, or its content breaks the format.
    """
    if name not in DatasetCatalog:
        raise DatasetError(
            f"no data set {name!r} is registered: COCO's are {', '.join(SPLITS)}; register others with detectron2, in "
            "the module that DETECTRON2_ENV_MODULE names"
        )
    try:
        by_file = getattr(DatasetCatalog[name], "__qualname__", "").startswith("register_coco_instances.")
        return _from_file(name) if by_file else _from_function(name, num_classes)
    except CocoFormatError as error:
        hint = ""
        if name in SPLITS and not Path(MetadataCatalog.get(name).json_file).exists():
            hint = ". Run nasnet-det prepare-coco, which says what to download where, or set DETECTRON2_DATASETS"
        raise DatasetError(f"data set {name}: {error}{hint}") from error


class _Prepared:
    """The catalog function of a data set in memory."""

    def __init__(self, data: CocoData) -> None:
        self.data = data

    def __call__(self) -> list[Record]:
        return look_at(self.data, training=False).records


def _from_file(name: str) -> CocoData:
    metadata, classes = MetadataCatalog.get(name), _thing_classes(name)
    try:
        path = PathManager.get_local_path(metadata.json_file)
    except (OSError, ValueError, RuntimeError) as error:  # of an address
        raise CocoFormatError(f"annotation file {metadata.json_file} cannot be fetched: {error}") from error
    content, folder = read_complete(path, lambda _: Path(metadata.image_root))
    if {category["name"] for category in content["categories"]} == {*classes}:
        content["categories"].sort(key=lambda category: classes.index(category["name"]))
    data = CocoData(name, content, folder, f"annotation file {path}")
    if not classes:
        metadata.thing_classes = data.names
    elif not set(data.names) <= set(classes):
        raise CocoFormatError(
            f"its categories by id are {format_names(data.names)}, but it was registered with thing_classes "
            f"{format_names(classes)}"
        )
    if metadata.get("thing_dataset_id_to_contiguous_id") is not None:
        given = {category["id"]: category["name"] for category in _own_categories(name)}
        if wrong := [category for category in data.categories if given.get(category["id"]) != category["name"]]:
            raise CocoFormatError(
                f"category {wrong[0]['id']} is {wrong[0]['name']!r} in its file, but {given.get(wrong[0]['id'])!r} by "
                "the thing_dataset_id_to_contiguous_id and thing_classes that it was registered with"
            )
    elif metadata.thing_classes == data.names:
        metadata.thing_dataset_id_to_contiguous_id = _positions(data)
    return data


def _positions(data: CocoData) -> dict[int, int]:
    return {category["id"]: number for number, category in enumerate(data.categories)}


def _thing_classes(name: str) -> list[str]:
    """Return the class names of a data set's metadata; none if it has none.

    Raises:
        CocoFormatError: if they are not a list.
    """
    classes = MetadataCatalog.get(name).get("thing_classes")
    if not isinstance(classes, (list, tuple, type(None))):
        raise CocoFormatError(f"its thing_classes must be a list of class names, not {format_value(classes)}")
    return [one_form(text) if isinstance(text, str) else text for text in classes or ()]


def _own_categories(name: str, classes: Sequence[str] = ()) -> list[Record]:
    """Return the categories of a data set's metadata, with these names if it has none."""
    classes = _thing_classes(name) or classes
    numbers = dict(enumerate(range(len(classes))))
    given = MetadataCatalog.get(name).get("thing_dataset_id_to_contiguous_id") or numbers
    ids = {plain(position): plain(number) for number, position in given.items()} if isinstance(given, dict) else {}
    if ids.keys() != numbers.keys():
        raise CocoFormatError(
            f"its thing_dataset_id_to_contiguous_id must count its {len(classes)} thing_classes from 0, not "
            f"{format_value(given)}"
        )
    return [{"id": ids[position], "name": text} for position, text in enumerate(classes)]


def _from_function(name: str, num_classes: int | None) -> CocoData:
    """Convert detectron2's standard records."""
    function = DatasetCatalog[name]
    if isinstance(function, _Prepared):
        return function.data
    try:
        records = [*function()]
    except (Exception, SystemExit) as error:
        reason = f"{type(error).__name__}: {error}"
        raise CocoFormatError(f"the function that it was registered with failed: {reason}") from error
    classes = _own_categories(name, [str(number) for number in range(num_classes or 0)])
    content = as_coco_content(records, classes)
    ids = [image["id"] for image in content["images"]]
    given = [record.get("image_id", number) for record, number in zip(records, ids, strict=True)]
    changed = [str(old) for old, new in zip(given, ids, strict=True) if old != new]
    what = "images have an image_id that is no whole number or another one's, too"
    notes = note(what, changed, "All images are numbered from 1, in results, too", len(records))
    return CocoData(name, content, Path(), "its records", tuple(notes))
