"""COCO files: annotations and results are read and scored, or refused with a CocoFormatError that names the file."""

from __future__ import annotations

import json
from typing import Any

import pytest

pytest.importorskip("pycocotools")

from nasnet_det.detection.data.coco_format import CocoFormatError, read_annotations, read_results
from nasnet_det.detection.evaluation.evaluation import available_backends, evaluate
from nasnet_det.detection.evaluation.submission import write_submission
from tests.fuzz.conftest import Fuzz
from tests.fuzz.engine import Case
from tests.fuzz.mutate import json_of, spoil_bytes, spoil_value

SQUARE = [[10.0, 10.0, 30.0, 10.0, 30.0, 40.0, 10.0, 40.0]]
ANNOTATIONS: dict[str, Any] = {
    "images": [{"id": i, "file_name": f"{i}.jpg", "width": 100, "height": 80} for i in (1, 2, 7)],
    "categories": [{"id": 1, "name": "cat"}, {"id": 3, "name": "dog", "supercategory": "animal"}],
    "annotations": [
        {"id": 1, "image_id": 1, "category_id": 1, "bbox": [10, 10, 20, 30], "area": 600, "iscrowd": 0},
        {"id": 2, "image_id": 1, "category_id": 3, "bbox": [0.5, 0.5, 50, 60.25], "area": 3000.5, "iscrowd": 1},
        {"id": 5, "image_id": 7, "category_id": 1, "bbox": [40, 10, 20, 30]},
    ],
}
RESULTS = [
    {"image_id": 1, "category_id": 1, "bbox": [11.0, 10.0, 20.0, 29.0], "score": 0.9},
    {"image_id": 7, "category_id": 3, "bbox": [1, 2, 3, 4], "score": 0.25},
]
MASKS = [{"image_id": 1, "category_id": 1, "score": 0.9, "segmentation": {"size": [80, 100], "counts": "Xo0"}}]


def test_coco_annotations(fuzz: Fuzz) -> None:
    backends = available_backends()

    def attempt(case: Case) -> None:
        path = case.folder / "annotations.json"
        content = json_of(spoil_value(ANNOTATIONS, case), case)
        path.write_bytes(spoil_bytes(content, case, 1) if case.random.random() < 0.1 else content)
        with case.allows(CocoFormatError, naming=path):
            annotations = read_annotations(path)
            if "annotations" in annotations:
                for backend in backends:
                    evaluate(annotations, [], backend=backend)

    fuzz(attempt)


def test_coco_results(fuzz: Fuzz) -> None:
    backends = available_backends()

    def attempt(case: Case) -> None:
        path = case.folder / "results.json"
        path.write_bytes(json_of(spoil_value(RESULTS, case), case))
        annotations = json.loads(json.dumps(ANNOTATIONS))
        for entry in annotations["annotations"]:
            entry.setdefault("iscrowd", 0)
            entry.setdefault("area", 600)
        with case.allows(CocoFormatError, naming=path, making=_SUBMITTED):
            results = read_results(path, annotations)
            for backend in backends:
                evaluate(annotations, results, backend=backend)
            write_submission(results, case.folder, "fuzz")

    fuzz(attempt)


_SUBMITTED = ("detections_test-dev2017_fuzz_results.json", "detections_test-dev2017_fuzz_results.zip")


def test_coco_masks(fuzz: Fuzz) -> None:
    masks = pytest.importorskip("pycocotools.mask")
    polygon = masks.frPyObjects(SQUARE, 80, 100)[0]
    mask = {"size": [80, 100], "counts": polygon["counts"].decode()}
    truth = json.loads(json.dumps(ANNOTATIONS))
    for entry in truth["annotations"]:
        entry |= {"segmentation": SQUARE, "iscrowd": 0, "area": 600}

    def attempt(case: Case) -> None:
        annotations, results = dict(truth), [{**entry, "segmentation": mask} for entry in MASKS]
        for key in ("images", "annotations"):
            if case.random.random() < 0.3:
                annotations[key] = spoil_value(truth[key], case, (SQUARE, [SQUARE[0][:5]], mask))
        if case.random.random() < 0.7:
            odd = ("Xo0", mask["counts"] * 2, mask["counts"][:-1], [100, 80], [0, 0])
            results = spoil_value(results, case, odd)
        path, other = case.folder / "results.json", case.folder / "annotations.json"
        path.write_bytes(json_of(results, case))
        other.write_bytes(json_of(annotations, case))
        with case.allows(CocoFormatError, naming=case.folder):
            annotations = read_annotations(other)
            found = read_results(path, annotations, segmentation=True)
        if not case.refused and "annotations" in annotations:
            with case.allows(CocoFormatError, naming="annotation"):
                for backend in available_backends():
                    evaluate(annotations, found, "segm", backend=backend)

    fuzz(attempt)
