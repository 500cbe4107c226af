"""A detector's detections in supervision, SAHI, FiftyOne and Gradio."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("detectron2")
from detectron2.structures import Boxes, Instances

from nasnet_det.detection.engine.prediction import predict_images

EXAMPLES = Path(__file__).parents[2] / "examples"


class Finder:
    """A detector of the bright square of 20 pixels, with the interface of a predictor."""

    categories = [{"id": 5, "name": "dark"}, {"id": 7, "name": "bright"}]
    num_classes = 2

    def __call__(self, image: Image.Image) -> Instances:
        rows, columns = np.nonzero(np.asarray(image.convert("L")) > 128)
        boxes = [[columns.min(), rows.min(), columns.max() + 1, rows.max() + 1], [0, 0, 4, 4]] if rows.size else []
        found = Instances((image.height, image.width))
        found.pred_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4))
        found.scores = torch.tensor([0.9, 0.2][: len(boxes)])
        found.pred_classes = torch.tensor([1, 0][: len(boxes)], dtype=torch.int64)
        return found


@pytest.fixture
def picture() -> Image.Image:
    image = Image.new("RGB", (200, 120))
    image.paste("white", (150, 70, 170, 90))
    return image


def example(name: str) -> SimpleNamespace:
    return SimpleNamespace(**runpy.run_path(str(EXAMPLES / f"{name}.py")))


def test_supervision(picture: Image.Image) -> None:
    pytest.importorskip("supervision")
    found = example("supervision_boxes").detect(Finder(), picture)
    assert found.xyxy.tolist() == [[150, 70, 170, 90]]
    assert found.class_id.tolist() == [1] and found.data["class_name"].tolist() == ["bright"]


def test_sahi_merges_what_slices_found(picture: Image.Image) -> None:
    sahi = pytest.importorskip("sahi.predict")
    model = example("sahi_slices").SahiDetector(model=Finder(), confidence_threshold=0.5, device="cpu")
    slices = {"slice_height": 80, "slice_width": 100, "overlap_height_ratio": 0.3, "overlap_width_ratio": 0.3}
    result = sahi.get_sliced_prediction(picture, model, verbose=0, **slices)
    (entry,) = result.to_coco_annotations()
    assert entry["category_name"] == "bright" and entry["bbox"] == [150, 70, 20, 20]


def test_fiftyone(tmp_path: Path) -> None:
    index = {
        "images": [{"id": 3, "file_name": "a.jpg", "width": 200, "height": 100}],
        "categories": [{"id": 7, "name": "bright"}],
    }
    results = [{"image_id": 3, "category_id": 7, "bbox": [50, 10, 100, 20], "score": 0.5}]
    (tmp_path / "images.json").write_text(json.dumps(index))
    (tmp_path / "results.json").write_text(json.dumps(results))
    (sample,) = example("fiftyone_export").samples(tmp_path)
    assert sample["filepath"] == "a.jpg"
    assert sample["detections"] == [{"label": "bright", "bounding_box": [0.25, 0.1, 0.5, 0.2], "confidence": 0.5}]


def test_a_fiftyone_data_set_has_its_documented_json(
    tmp_path: Path, picture: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The JSON of ``Sample`` and ``Detections`` is that of FiftyOne's user guide, "Using FiftyOne datasets"."""
    folder = tmp_path / "found"
    picture.save(tmp_path / "a.png")
    predict_images([Finder()], [tmp_path / "a.png"], folder)
    monkeypatch.setitem(sys.modules, "fiftyone", fiftyone_of_the_guide())
    (sample,) = example("fiftyone_export").dataset(folder).samples
    json.dumps(sample)
    assert set(sample) == {"filepath", "predictions"} and Path(sample["filepath"]).name == "a.png"
    assert sample["predictions"]["_cls"] == "Detections"
    first, second = sample["predictions"]["detections"]
    assert first == {
        "_cls": "Detection",
        "label": "bright",
        "bounding_box": pytest.approx([0.75, 70 / 120, 0.1, 20 / 120]),
        "confidence": pytest.approx(0.9),
    }
    assert second["label"] == "dark" and all(0 <= share <= 1 for share in second["bounding_box"])


def fiftyone_of_the_guide() -> SimpleNamespace:
    """The four constructors of FiftyOne that its guide shows, each giving the JSON of what it makes."""

    class Dataset:
        def __init__(self) -> None:
            self.samples: list[dict[str, Any]] = []

        def add_sample(self, sample: dict[str, Any]) -> None:
            self.samples.append(sample)

    return SimpleNamespace(
        Dataset=Dataset,
        Sample=lambda filepath, **fields: {"filepath": filepath, **fields},
        Detections=lambda detections: {"_cls": "Detections", "detections": detections},
        Detection=lambda label, bounding_box, confidence: {
            "_cls": "Detection",
            "label": label,
            "bounding_box": bounding_box,
            "confidence": confidence,
        },
    )


def test_gradio(picture: Image.Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Gradio gives the file of the picture, None without one, and shows the message of its ``Error``."""
    from nasnet_det.detection.engine import predictor

    class Error(Exception):
        pass

    gradio = SimpleNamespace(
        Image=lambda **options: options, Slider=lambda *range, **options: options, Interface=interface, Error=Error
    )
    loaded: list[Any] = []
    monkeypatch.setitem(sys.modules, "gradio", gradio)
    monkeypatch.setattr(predictor, "load_config", loaded.append)
    monkeypatch.setattr(predictor, "Predictor", lambda cfg: Finder())
    page = example("gradio_demo").interface("my_run")
    assert loaded == ["my_run"] and page.inputs[0] == {"type": "filepath", "image_mode": None, "label": "picture"}
    Image.fromarray((np.asarray(picture.convert("L")).astype(np.uint16) + 5) * 200).save(tmp_path / "deep.png")
    drawn = page.fn(str(tmp_path / "deep.png"), 0.5)
    assert drawn.size == picture.size and drawn.getpixel((150, 80)) != (255, 255, 255)
    assert drawn.getpixel((2, 110)) == (0, 0, 0)
    assert page.fn(None, 0.5) is None
    with pytest.raises(Error, match=r"absent\.png"):
        page.fn(str(tmp_path / "absent.png"), 0.5)


def interface(fn: Any, inputs: Any, outputs: Any, title: str) -> SimpleNamespace:
    return SimpleNamespace(fn=fn, inputs=inputs)
