"""A detector's detections as supervision's: its annotators, trackers, zones and metrics take them.

pip install supervision
python examples/supervision_boxes.py output/my_run street.jpg annotated.jpg
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import supervision as sv
from PIL import Image

from nasnet_det.detection.engine.predictor import Predictor, load_config
from nasnet_det.safe_io.images import read_image


def detect(predictor: Predictor, image: Image.Image, threshold: float = 0.5) -> sv.Detections:
    """Return the detections of at least ``threshold``, with their classes' names."""
    found = sv.Detections.from_detectron2({"instances": predictor(image)})
    names = [category["name"] for category in predictor.categories]
    found.data["class_name"] = np.array([names[number] if names else str(number) for number in found.class_id])
    return found[found.confidence >= threshold]


if __name__ == "__main__":
    detector, source, target = sys.argv[1:]
    picture = read_image(Path(source))
    boxes = detect(Predictor(load_config(detector)), picture)
    labelled = sv.LabelAnnotator().annotate(sv.BoxAnnotator().annotate(picture.copy(), boxes), boxes)
    labelled.save(target)
    print(f"{len(boxes)} detections: {target}")
