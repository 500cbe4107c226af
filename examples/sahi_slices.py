"""Small objects on large pictures: SAHI runs a detector on overlapping slices and merges what it finds.

pip install sahi
python examples/sahi_slices.py output/my_run aerial.jpg
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
from detectron2.structures import Instances
from PIL import Image
from sahi.models.base import DetectionModel
from sahi.predict import get_sliced_prediction
from sahi.prediction import ObjectPrediction

from nasnet_det.detection.engine.predictor import Predictor, load_config
from nasnet_det.safe_io.images import read_image


class SahiDetector(DetectionModel):
    """A detector as a model of SAHI; ``model_path`` is a run folder, or a checkpoint that holds its config."""

    def load_model(self) -> None:
        """Load it."""
        self.set_model(Predictor(load_config(self.model_path)))

    def set_model(self, model: Predictor, **kwargs: Any) -> None:
        """Use a :class:`Predictor`."""
        self.model = model
        names = [str(category["name"]) for category in model.categories] or map(str, range(model.num_classes))
        self.category_mapping = {str(number): name for number, name in enumerate(names)}

    def perform_inference(self, image: np.ndarray) -> None:
        """Detect on an RGB image ``(H, W, 3)``."""
        self._original_predictions = [self.model(Image.fromarray(image))]

    def _create_object_prediction_list_from_original_predictions(
        self, shift_amount_list: Any = None, full_shape_list: Any = None
    ) -> None:
        shifts = shift_amount_list if isinstance((shift_amount_list or [0])[0], list) else [shift_amount_list or [0, 0]]
        shapes = full_shape_list if isinstance((full_shape_list or [0])[0], list) else [full_shape_list]
        self._object_prediction_list_per_image = [
            self._predictions(found, shift, shape)
            for found, shift, shape in zip(self._original_predictions, shifts, shapes, strict=True)
        ]

    def _predictions(self, found: Instances, shift: list[int], shape: list[int] | None) -> list[ObjectPrediction]:
        found = found[found.scores >= self.confidence_threshold]
        rows = zip(found.pred_boxes.tensor.tolist(), found.scores.tolist(), found.pred_classes.tolist(), strict=True)
        return [
            ObjectPrediction(
                bbox=box,
                score=score,
                category_id=number,
                category_name=self.category_mapping[str(number)],
                shift_amount=shift,
                full_shape=shape,
            )
            for box, score, number in rows
            if box[0] < box[2] and box[1] < box[3]
        ]


if __name__ == "__main__":
    detector, picture = sys.argv[1:]
    model = SahiDetector(model_path=detector, confidence_threshold=0.5)
    Image.MAX_IMAGE_PIXELS = None  # large pictures are what slices are for
    result = get_sliced_prediction(read_image(picture), model, slice_height=640, slice_width=640)
    for entry in result.to_coco_annotations():
        print(entry["category_name"], f"{entry['score']:.2f}", entry["bbox"])
