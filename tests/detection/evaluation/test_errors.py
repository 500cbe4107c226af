"""The kinds of errors: each made once by hand, and their costs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("pycocotools")
from nasnet_det.detection.evaluation import errors
from nasnet_det.detection.evaluation.errors import analyse_errors, confusion_matrix
from nasnet_det.detection.evaluation.evaluation import evaluate
from tests.detection.evaluation.test_evaluation import random_set, rle

BOX = [20.0, 20.0, 40.0, 40.0]


def truth(*entries: tuple[int, list[float]], crowd: bool = False) -> dict[str, Any]:
    annotations = [
        {"id": i, "image_id": 1, "category_id": category, "bbox": box, "area": box[2] * box[3], "iscrowd": int(crowd)}
        for i, (category, box) in enumerate(entries, start=1)
    ]
    categories = [{"id": 1, "name": "hen"}, {"id": 2, "name": "fox"}]
    return {"images": [{"id": 1, "width": 200, "height": 200}], "annotations": annotations, "categories": categories}


def found(*entries: tuple[int, list[float], float]) -> list[dict[str, Any]]:
    return [{"image_id": 1, "category_id": c, "bbox": box, "score": score} for c, box, score in entries]


@pytest.mark.parametrize(
    ("detections", "kinds", "missed"),
    [
        ([(1, BOX, 0.9)], ["found"], 0),
        ([(2, BOX, 0.9)], ["classification"], 0),
        ([(1, [40.0, 20.0, 40.0, 40.0], 0.9)], ["localization"], 0),
        ([(2, [40.0, 20.0, 40.0, 40.0], 0.9)], ["both"], 1),
        ([(1, BOX, 0.9), (1, BOX, 0.8)], ["found", "duplicate"], 0),
        ([(1, [120.0, 120.0, 40.0, 40.0], 0.9)], ["background"], 1),
        ([], [], 1),
    ],
)
def test_every_kind(detections: list[Any], kinds: list[str], missed: int) -> None:
    analysis = analyse_errors(truth((1, BOX)), found(*detections))
    assert analysis.images[0].kinds == kinds
    assert analysis.counts["missed"] == missed
    assert sum(analysis.counts.values()) == missed + sum(kind != "found" for kind in kinds)


def test_detections_of_crowds_are_no_errors() -> None:
    analysis = analyse_errors(truth((1, BOX), crowd=True), found((1, BOX, 0.9), (2, BOX, 0.9)))
    assert analysis.images[0].kinds == ["ignored", "background"]


def test_costs_are_what_correction_gains() -> None:
    other = [100.0, 100.0, 50.0, 50.0]
    analysis = analyse_errors(truth((1, BOX), (2, other)), found((1, BOX, 0.5), (1, other, 0.9)))
    assert analysis.ap == pytest.approx(0.25)  # hen: the false one comes first; fox: none
    assert analysis.costs["classification"] == pytest.approx(0.75)
    assert analysis.costs["background"] == 0


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
def test_ap_is_cocos_ap50(seed: int, iou_type: Any) -> None:
    annotations, results = random_set(seed)
    random = np.random.default_rng(seed)
    for entry in results:
        entry["score"] = float(random.random())  # ties are ordered by category there, by image here
        entry["segmentation"] = rle(entry["bbox"])
    for entry in annotations["annotations"]:
        entry["iscrowd"] = 0
    if not annotations["annotations"]:
        pytest.skip("nothing to find")
    ap = evaluate(annotations, results, iou_type).metrics["AP50"]
    assert analyse_errors(annotations, results, iou_type).ap == pytest.approx(ap, abs=1e-9)


def shuffled_set(seed: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """A made set without crowds, scores without ties, some detections of a wrong category."""
    annotations, results = random_set(seed)
    random = np.random.default_rng(seed)
    for entry in annotations["annotations"]:
        entry["iscrowd"] = 0
    known = sorted({entry["category_id"] for entry in annotations["annotations"]})
    for entry in results:
        entry["score"] = float(random.random())
        if known and random.random() < 0.3:
            entry["category_id"] = int(random.choice(known))
    return annotations, [entry for entry in results if entry["category_id"] in known]


#: Computed by the authors' tidecv 1.0.1, which requires opencv-python, for sets of :func:`shuffled_set`.
RECORDED = json.loads(Path(__file__).with_name("tide.json").read_text())


@pytest.mark.parametrize("recorded", RECORDED, ids=lambda recorded: str(recorded["seed"]))
def test_counts_and_costs_are_the_authors(recorded: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    # tidecv's recalls are x / 100, some of which are the next double to COCO's.
    monkeypatch.setattr(errors, "_RECALLS", np.arange(101) / 100)
    analysis = errors.analyse_errors(*shuffled_set(recorded["seed"]))
    assert analysis.counts == recorded["counts"]
    assert analysis.ap == pytest.approx(recorded["AP50"], abs=1e-9)
    assert analysis.costs == pytest.approx(recorded["costs"], abs=1e-9)


def test_confusions_count_every_object_once() -> None:
    other, far = [100.0, 100.0, 50.0, 50.0], [150.0, 10.0, 20.0, 20.0]
    analysis = analyse_errors(
        truth((1, BOX), (2, other), (2, far)), found((1, BOX, 0.9), (2, BOX, 0.8), (1, other, 0.7), (2, far, 0.2))
    )
    matrix = confusion_matrix(analysis.images, [1, 2], threshold=0.5)
    assert matrix.tolist() == [[1, 0, 0], [1, 0, 1], [0, 1, 0]]
