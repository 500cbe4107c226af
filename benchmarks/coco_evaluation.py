"""Time of COCO's twelve numbers, from files to numbers, beside pycocotools used as its own demo does.

    python benchmarks/coco_evaluation.py [--images 2000] [--json OUT]

The data set is generated: COCO's 80 categories; 7.3 objects and 100 detections an image, half of them near an object.
The variants run in turn, and their numbers must be equal.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import io
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from save_results import keep

from nasnet_det.detection.data.coco_format import read_annotations, read_results
from nasnet_det.detection.evaluation.evaluation import available_backends, evaluate
from nasnet_det.safe_io.files import write_text

WIDTH, HEIGHT, CATEGORIES, OBJECTS = 640, 480, 80, 7.3


def make_set(folder: Path, num_images: int, detections: int, seed: int = 0) -> tuple[Path, Path]:
    """Write a made set's annotations and detections; their paths."""
    rng = np.random.default_rng(seed)
    annotations: list[dict[str, Any]] = []
    results: list[dict[str, Any]] = []
    for image in range(1, num_images + 1):
        boxes = random_boxes(rng, rng.poisson(OBJECTS))
        categories = rng.integers(1, CATEGORIES + 1, len(boxes))
        for box, category in zip(boxes.tolist(), categories.tolist(), strict=True):
            area = box[2] * box[3] * rng.uniform(0.4, 1.0)
            entry = {"id": len(annotations) + 1, "image_id": image, "category_id": category, "bbox": box}
            annotations.append(entry | {"area": area, "iscrowd": int(rng.random() < 0.01)})
        found = random_boxes(rng, detections)
        found_categories = rng.integers(1, CATEGORIES + 1, detections)
        near = np.flatnonzero(rng.random(detections) < 0.5) if len(boxes) else np.array([], dtype=int)
        source = rng.integers(0, max(1, len(boxes)), len(near))
        if len(near):
            found[near] = boxes[source] + rng.normal(0, 0.1, (len(near), 4)) * boxes[source][:, [2, 3, 2, 3]]
            found_categories[near] = categories[source]
        found[:, 2:] = np.maximum(found[:, 2:], 1.0)
        for box, category in zip(found.round(2).tolist(), found_categories.tolist(), strict=True):
            score = round(float(rng.random()), 4)
            results.append({"image_id": image, "category_id": category, "bbox": box, "score": score})
    content = {
        "images": [{"id": i, "width": WIDTH, "height": HEIGHT} for i in range(1, num_images + 1)],
        "annotations": annotations,
        "categories": [{"id": i, "name": f"category {i}"} for i in range(1, CATEGORIES + 1)],
    }
    paths = folder / "annotations.json", folder / "results.json"
    for path, data in zip(paths, (content, results), strict=True):
        write_text(path, json.dumps(data))
    return paths


def random_boxes(rng: np.random.Generator, count: int) -> np.ndarray:
    """``(count, 4)`` boxes x, y, width, height, their sides spread evenly over the scales."""
    sides = np.exp(rng.uniform(np.log(8), np.log(400), (count, 2)))
    return np.hstack([rng.uniform(0, 1, (count, 2)) * (np.array([WIDTH, HEIGHT]) - sides), sides]).round(2)


def by_pycocotools(annotations: Path, results: Path) -> list[float]:
    """pycocotools, as its demo notebook uses it."""
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(annotations))
        evaluation = COCOeval(truth, truth.loadRes(str(results)), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return [float(value) for value in evaluation.stats]


def by_nasnet_det(annotations: Path, results: Path) -> list[float]:
    """This project, with the fastest backend installed."""
    truth = read_annotations(annotations)
    return [*evaluate(truth, read_results(results, truth)).metrics.values()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--detections", type=int, default=100, help="per image")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    backend = available_backends()[0]
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in {backend, "pycocotools"})
    print(
        f"{arguments.images} images, {arguments.images * arguments.detections} detections; "
        f"{platform.machine()}, {os.cpu_count()} cores, {versions}"
    )
    variants: dict[str, Callable[[Path, Path], list[float]]] = {
        "pycocotools": by_pycocotools,
        f"nasnet_det by {backend}": by_nasnet_det,
    }
    times: dict[str, list[float]] = {name: [] for name in variants}
    numbers: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        paths = make_set(Path(folder), arguments.images, arguments.detections)
        for _ in range(arguments.repeats):
            for name, variant in variants.items():
                start = time.perf_counter()
                numbers[name] = variant(*paths)
                times[name].append(time.perf_counter() - start)
    report(times, numbers, arguments.json)


def report(times: dict[str, list[float]], numbers: dict[str, list[float]], path: Path | None) -> None:
    """Print the table of ratios, check that the numbers are equal, and write what was asked for."""
    reference = numbers["pycocotools"]
    slow = statistics.median(times["pycocotools"])
    rows = []
    for name, measured in times.items():
        seconds, spread = statistics.median(measured), max(measured) - min(measured)
        difference = max(abs(a - b) for a, b in zip(numbers[name], reference, strict=True))
        rows.append({"variant": name, "seconds": seconds, "ratio": slow / seconds, "spread": spread})
        rows[-1] |= {"AP": numbers[name][0], "largest_difference": difference}
        print(
            f"{name:32} {seconds:7.2f} s (spread {spread:.2f})   {slow / seconds:5.1f} x   "
            f"AP {numbers[name][0]:.6f}, largest difference of the twelve numbers {difference:.0e}"
        )
    if path:
        keep(path, rows)
    if any(row["largest_difference"] > 1e-9 for row in rows):
        raise SystemExit("error: the numbers are not equal")


if __name__ == "__main__":
    main()
