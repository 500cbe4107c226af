"""Predictions on many images: their ids and categories, COCO results, and pictures with boxes."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from PIL import Image
from tqdm import tqdm

from nasnet_det.detection.data.coco_format import read_annotations
from nasnet_det.detection.data.columns import CocoFormatError, Record
from nasnet_det.detection.data.image_index import ImageIndex
from nasnet_det.draw.detections import detections_of, draw, side_by_side
from nasnet_det.safe_io.files import LONGEST_NAME, NOTHING, begins_with, check_writable, protect, replacing, write_json
from nasnet_det.safe_io.folders import bare_name
from nasnet_det.safe_io.images import read_image, reason_with_name
from nasnet_det.safe_io.values import named

#: The results file of each detector, and the list of images and categories that goes with it.
RESULTS, LISTS = ("results.json", "results_compared.json"), ("images.json", "images_compared.json")
#: Bytes that leave room for a number and the ending in the name of a file.
_LONGEST_STEM = LONGEST_NAME - 15
#: The comment in each picture written, which tells them from a user's own.
_COMMENT = b"drawn by nasnet-det predict"
#: The same in the list of images.
_INFO = {"description": "written by nasnet-det predict"}


class Detector(Protocol):
    """A detector for one image at a time: :class:`Predictor`, or a package where detectron2 is not installed."""

    @property
    def categories(self) -> Sequence[Record]:
        """``id`` and ``name`` of each class; empty where they are unknown."""

    @property
    def num_classes(self) -> int:
        """The number of classes."""

    @property
    def has_masks(self) -> bool:
        """True if it predicts masks, too."""

    def __call__(self, image: Image.Image) -> Any:
        """Return ``Instances`` of an RGB image, or an object with the same fields."""


class PredictionError(ValueError):
    """No usable image among the inputs, or an output folder that is one of theirs; names them and the reasons."""


class Predictions(NamedTuple):
    """The outcome of :func:`predict_images`.

    Args:
        results: of each detector, in COCO's form.
        used: how many images were predicted on.
        skipped: the other images, each with the reason.
    """

    results: list[list[Record]]
    used: int
    skipped: list[str]


def predict_images(
    detectors: Sequence[Detector],
    paths: Sequence[Path],
    output: Path,
    annotations: Path | None = None,
    threshold: float = 0.5,
    titles: Sequence[str] = (),
) -> Predictions:
    """Predict on every image and write pictures, ``images.json`` and results in COCO's form to ``output``.

    A second detector of other categories gets a list of its own, ``images_compared.json``.

    Args:
        detectors: one, or two to be compared; each gets its own results file.
        paths: the images, of which those that cannot be used are skipped and named.
        output: the folder for everything; only pictures of an earlier prediction are written over.
        annotations: a COCO file whose image and category ids to use.
        threshold: least score that is drawn; results keep all.
        titles: a heading for each of two detectors.

    Returns:
        the results, and what was skipped.

    Raises:
        CocoFormatError: if the annotations do not go with the images or with the detector's classes.
        OverwriteError: if an output file would replace an input, or a picture that was not written by this.
        PredictionError: if ``output`` is the folder of an image, or no image could be used.
    """
    protect(paths)
    pictures = [output / name for name in picture_names(paths)]
    _check_outputs(output, pictures)
    if os.path.realpath(output) in {os.path.realpath(path.parent) for path in paths}:
        raise PredictionError(
            f"{output} holds images that are read: what is drawn there would be taken for data: give another --output"
        )
    index = ImageIndex(
        paths, None if annotations is None else read_annotations(annotations, required=["file_name", "name"])
    )
    catalogs = [Catalog(index, detector) for detector in detectors]

    skipped = []
    for path, picture in tqdm(list(zip(paths, pictures, strict=True)), unit="image", disable=None):
        try:
            image = read_image(path, index.is_upright(path))
            image_id = index.id_of(path, image.size)
            found = [detector(image) for detector in detectors]
        except (OSError, KeyError) as error:
            skipped.append(reason_with_name(path, error.args[0] if isinstance(error, KeyError) else error))
            continue
        index.add(image_id, path, image.size)
        drawn = []
        for catalog, instances in zip(catalogs, found, strict=True):
            catalog.add(instances, image_id)
            drawn.append(draw(image, detections_of(instances, catalog.names, threshold)))
        with replacing(picture) as part:
            (drawn[0] if len(drawn) == 1 else side_by_side(drawn, titles)).save(
                part, format="JPEG", quality=92, comment=_COMMENT
            )

    if len(skipped) == len(paths):
        raise PredictionError(f"none of {len(paths)} images could be used: {named(skipped)}")
    for catalog, name, listed in zip(catalogs, RESULTS, LISTS, strict=False):
        if listed == LISTS[0] or catalog.categories != catalogs[0].categories:
            content = {"info": _INFO, "images": index.images, "categories": catalog.categories}
            write_json(output / listed, content)
        write_json(output / name, catalog.results)
    return Predictions([catalog.results for catalog in catalogs], len(paths) - len(skipped), skipped)


def _check_outputs(output: Path, pictures: Sequence[Path]) -> None:
    """Refuse to write over inputs, and over pictures and results that are not of an earlier prediction."""
    for picture in pictures:
        check_writable(picture, _COMMENT)
    is_listed = begins_with(output / LISTS[0], re.escape(json.dumps(_INFO).encode()))
    for name in (*LISTS, *RESULTS):
        check_writable(output / name, b"" if is_listed else NOTHING)


def picture_names(paths: Sequence[Path]) -> list[str]:
    """Return a distinct file name for each image's picture, also where case or the form of Unicode is ignored."""
    names: dict[str, str] = {}
    for path in paths:
        stem = path.stem if len(os.fsencode(path.stem)) < _LONGEST_STEM else path.stem[: _LONGEST_STEM // 4]
        name, number = f"{stem}.jpg", 2
        while bare_name(name) in names:
            name, number = f"{stem}-{number}.jpg", number + 1
        names[bare_name(name)] = name
    return list(names.values())


class Catalog:
    """A detector's results with category ids: the annotations' by name, or else the detector's own.

    Args:
        index: the images' ids; with annotations, their categories are used.
        detector: whose classes they must be.

    Attributes:
        names: the name of each class, in the order of the model's outputs.
        categories: ``id`` and ``name``.
        results: detections as COCO results.

    Raises:
        CocoFormatError: if the annotations lack a class of the detector, have two categories of its name while the
            lists differ, or are of another number of categories.
    """

    def __init__(self, index: ImageIndex, detector: Detector) -> None:
        self.results: list[Record] = []
        if index.known is None:
            numbers = range(1, detector.num_classes + 1)
            self._classes = detector.categories or [{"id": number, "name": f"class {number - 1}"} for number in numbers]
            self.categories = self._classes if detector.categories else []
        else:
            self.categories = index.known["categories"]
            self._classes = _categories_of_classes(self.categories, detector)
        self.names = [str(category["name"]) for category in self._classes]

    def add(self, instances: Any, image_id: int) -> None:
        """Add the detections on an image."""
        for result in coco_results(instances, image_id):
            result["category_id"] = self._classes[result["category_id"]]["id"]
            self.results.append(result)


def coco_results(found: Any, image_id: int) -> list[Record]:
    """Return detections as COCO results whose ``category_id`` is the number of the class."""
    results: list[Record]
    if hasattr(found, "to_coco"):  # a package's, which must not need detectron2
        results = found.to_coco(image_id)
    else:
        from detectron2.evaluation.coco_evaluation import instances_to_coco_json

        results = instances_to_coco_json(found, image_id)
    return results


def _categories_of_classes(categories: Sequence[Record], detector: Detector) -> list[Record]:
    """Return the annotations' category of each class of a detector."""
    wanted = [category["name"] for category in detector.categories]
    names = [str(category["name"]) for category in categories]
    if not wanted and len(names) != detector.num_classes:
        raise CocoFormatError(
            f"the annotations have {len(names)} categories ({named(names)}), the detector {detector.num_classes} "
            "classes: give the annotations of the data that it was trained on"
        )
    if not wanted or names == wanted:
        return list(categories)
    if missing := [name for name in wanted if names.count(name) != 1]:
        raise CocoFormatError(
            f"the annotations' categories ({named(names, 10)}) are not the detector's classes ({named(wanted, 10)}): "
            f"{named(missing)} must be there once: give the annotations of the data that it was trained on"
        )
    return [categories[names.index(name)] for name in wanted]
