"""The output of ``nasnet-det predict`` as a FiftyOne data set to look through.

pip install fiftyone
nasnet-det predict output/my_run pictures/ --output output/found
python examples/fiftyone_export.py output/found
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any


def samples(folder: Path) -> list[dict[str, Any]]:
    """Return each picture of a predictions folder with its detections, boxes as FiftyOne has them: left, top, width,
    height as shares of the picture's sides."""
    index = json.loads((folder / "images.json").read_text(encoding="utf-8"))
    names = {category["id"]: category["name"] for category in index["categories"]}
    found = defaultdict(list)
    for result in json.loads((folder / "results.json").read_text(encoding="utf-8")):
        found[result["image_id"]].append(result)
    return [
        {
            "filepath": image["file_name"],
            "detections": [
                {
                    "label": str(names.get(result["category_id"], result["category_id"])),
                    "bounding_box": [
                        value / side
                        for value, side in zip(result["bbox"], 2 * (image["width"], image["height"]), strict=True)
                    ],
                    "confidence": result["score"],
                }
                for result in found[image["id"]]
            ],
        }
        for image in index["images"]
    ]


def dataset(folder: Path) -> Any:
    """Return the predictions of a folder as a new data set of FiftyOne."""
    import fiftyone

    made = fiftyone.Dataset()
    for sample in samples(folder):
        detections = [fiftyone.Detection(**detection) for detection in sample["detections"]]
        made.add_sample(
            fiftyone.Sample(filepath=sample["filepath"], predictions=fiftyone.Detections(detections=detections))
        )
    return made


if __name__ == "__main__":
    import fiftyone

    fiftyone.launch_app(dataset(Path(sys.argv[1]))).wait()
