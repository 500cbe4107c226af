"""The twelve numbers: published values, and pycocotools' own path from files to numbers on made sets."""

from __future__ import annotations

import contextlib
import copy
import io
import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nasnet_det.detection.data.coco_format import read_annotations, read_results
from nasnet_det.detection.evaluation import evaluation
from nasnet_det.detection.evaluation.evaluation import METRICS, Scores, available_backends, evaluate, table

pytest.importorskip("pycocotools")
from pycocotools import mask as masks
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

SIZE = 200
BACKENDS = available_backends()

#: Known values of the reference results (the reference's README).
BBOX = [0.50458, 0.69697, 0.57298, 0.58563, 0.51940, 0.50140, 0.38681, 0.59368, 0.59535, 0.63981, 0.56642, 0.56429]
SEGM = {"AP": 0.31955, "AP50": 0.56229, "AP75": 0.29893}


def rle(box: list[float]) -> dict[str, Any]:
    x, y, w, h = box
    runs = masks.merge(masks.frPyObjects([[x, y, x + w, y, x + w, y + h, x, y + h]], SIZE, SIZE))
    return {"size": runs["size"], "counts": runs["counts"].decode()}


def random_set(seed: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """A made set with what makes evaluation hard: crowds, tied scores, empty images, absent classes, > 100 of them."""
    rng = np.random.default_rng(seed)
    images = [{"id": 3 * i + 1, "width": SIZE, "height": SIZE} for i in range(rng.integers(1, 6))]
    categories = [{"id": 5 * c + 2, "name": f"class {c}"} for c in range(rng.integers(1, 5))]

    def box() -> list[float]:
        w, h = rng.integers(4, 190, 2)
        return [float(rng.integers(0, SIZE - w)), float(rng.integers(0, SIZE - h)), float(w), float(h)]

    def category() -> int:
        return int(rng.choice([entry["id"] for entry in categories]))

    annotations: list[dict[str, Any]] = []
    results = []
    for image in images:
        mine = []
        for _ in range(rng.integers(0, 6)):
            found, crowd = box(), bool(rng.random() < 0.2)
            mine.append({"id": len(annotations) + len(mine) + 1, "image_id": image["id"], "category_id": category()})
            mine[-1] |= {"bbox": found, "area": found[2] * found[3] * float(rng.uniform(0.3, 1)), "iscrowd": int(crowd)}
            x, y, w, h = found
            mine[-1]["segmentation"] = rle(found) if crowd else [[x, y, x + w, y, x + w, y + h, x, y + h]]
        annotations += mine
        for _ in range(rng.integers(0, 150 if seed % 3 == 0 else 12)):
            near = mine[rng.integers(len(mine))] if mine and rng.random() < 0.7 else None
            placed = [max(0.0, v + float(rng.normal(0, 3))) for v in near["bbox"]] if near else box()
            entry = {"image_id": image["id"], "category_id": near["category_id"] if near else category()}
            results.append(entry | {"bbox": placed, "score": float(np.round(rng.random(), 1))})
    return {"images": images, "annotations": annotations, "categories": categories}, results


def official(annotations: dict[str, Any], results: list[dict[str, Any]], iou_type: str) -> list[float]:
    """pycocotools, used as its own documentation does."""
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = copy.deepcopy(annotations)
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(copy.deepcopy(results)), iou_type)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return [float(value) for value in evaluation.stats]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("seed", range(12))
def test_numbers_equal_pycocotools(seed: int, backend: Any) -> None:
    annotations, results = random_set(seed)
    with_masks = [{k: v for k, v in r.items() if k != "bbox"} | {"segmentation": rle(r["bbox"])} for r in results]
    found = evaluate(copy.deepcopy(annotations), results, "bbox", backend)
    assert [*found.metrics.values()] == pytest.approx(official(annotations, results, "bbox"), abs=1e-12)
    found = evaluate(copy.deepcopy(annotations), with_masks, "segm", backend)
    assert [*found.metrics.values()] == pytest.approx(official(annotations, with_masks, "segm"), abs=1e-12)


@pytest.mark.parametrize("backend", BACKENDS)
def test_published_values(shared: Path, backend: Any) -> None:
    folder = shared / "data" / "coco_eval_reference"
    annotations = read_annotations(folder / "instances_val2014_100.json")
    boxes = read_results(folder / "instances_val2014_fakebbox100_results.json", annotations)
    assert [*evaluate(annotations, boxes, "bbox", backend).metrics.values()] == pytest.approx(BBOX, abs=1e-4)
    segments = read_results(folder / "instances_val2014_fakesegm100_results.json", annotations, segmentation=True)
    found = evaluate(annotations, segments, "segm", backend).metrics
    assert {name: found[name] for name in SEGM} == pytest.approx(SEGM, abs=1e-4)


@pytest.mark.parametrize(
    ("backend", "module", "extra"),
    [("pycocotools", "pycocotools.coco", "detection"), ("faster-coco-eval", "faster_coco_eval", "fast-eval")],
)
def test_a_missing_backend_names_its_extra(
    backend: Any, module: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ModuleNotFoundError, match=rf"pip install 'nasnet-det\[{extra}\]'"):
        evaluate(*random_set(1), backend=backend)


def test_the_faster_backend_is_the_default() -> None:
    annotations, results = random_set(1)
    assert evaluate(annotations, results).backend == BACKENDS[0]
    if len(BACKENDS) == 2:
        assert BACKENDS[0] == "faster-coco-eval"


@pytest.mark.parametrize("backend", BACKENDS)
def test_no_detections_score_zero_and_no_objects_score_nothing(backend: Any) -> None:
    annotations, results = random_set(1)
    assert evaluate(copy.deepcopy(annotations), [], backend=backend).metrics["AP"] == 0.0
    bare = evaluate(annotations | {"annotations": []}, results, backend=backend)
    assert bare.metrics["AP"] == -1.0
    assert math.isnan(bare.percent()["AP"])


def test_per_category_is_the_ap_of_that_category_alone() -> None:
    annotations, results = random_set(3)
    found = evaluate(copy.deepcopy(annotations), results)
    for category in annotations["categories"]:
        alone = {
            "images": annotations["images"],
            "categories": [category],
            "annotations": [a for a in annotations["annotations"] if a["category_id"] == category["id"]],
        }
        mine = [r for r in results if r["category_id"] == category["id"]]
        assert found.per_category[category["name"]] == pytest.approx(evaluate(alone, mine).metrics["AP"])


def test_images_without_annotations_cannot_be_scored() -> None:
    annotations, results = random_set(1)
    del annotations["annotations"]
    with pytest.raises(ValueError, match="server"):
        evaluate(annotations, results)


@pytest.mark.parametrize("backend", BACKENDS)
def test_ids_from_0_score_as_ids_from_1(backend: Any) -> None:
    annotations, results = random_set(4)
    numbered = evaluate(annotations, results, backend=backend)
    for entry in annotations["annotations"]:
        entry["id"] -= 1
    found = evaluate(annotations, results, backend=backend)
    assert found.metrics == numbered.metrics and found.metrics["AP"] > 0


def test_marks_that_coco_does_not_know_are_told(caplog: pytest.LogCaptureFixture) -> None:
    annotations, results = random_set(4)
    plain = evaluate(annotations, results).metrics
    annotations["annotations"][0] |= {"ignore": 1, "attributes": {"isGroupOf": "true"}}
    evaluation._warn_once.cache_clear()
    for _ in range(2):
        assert evaluate(annotations, results).metrics == plain
    (record,) = caplog.records
    assert "1 annotations" in record.message
    assert "'ignore'" in record.message and "'isGroupOf'" in record.message


def test_categories_of_one_name_are_kept_apart(shared: Path) -> None:
    folder = shared / "cases" / "duplicate_names"
    annotations = read_annotations(folder / "e_dupnames_gt.json")
    found = evaluate(annotations, read_results(folder / "e_dupnames_dt.json", annotations))
    assert len(found.per_category) == len(annotations["categories"])


def test_results_are_left_as_they_are() -> None:
    annotations, results = random_set(2)
    before = json.dumps(results)
    evaluate(annotations, results)
    assert json.dumps(results) == before


def test_table_names_every_number() -> None:
    text = table({"bbox": Scores(dict.fromkeys(METRICS, 0.25) | {"APs": -1.0}, {}, "pycocotools")})
    assert all(name in text for name in METRICS)
    assert "25.00" in text and "nan" in text and "-1" not in text
