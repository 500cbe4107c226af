"""Validation: published preprocessing, classes matched by name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from nasnet_det.training.data.cifar10 import DataError
from nasnet_det.training.data.image_folder import Preprocessing
from nasnet_det.training.execution import choose_execution
from nasnet_det.training.validation import SlimEvaluation, label_names, validate, with_image_size

INPUT = Preprocessing((3, 32, 32), (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
CPU = choose_execution("cpu")


class Colour(nn.Module):
    """Tells the brightest channel; its classes are the three synsets among others."""

    def __init__(self, positions: list[int], num_classes: int) -> None:
        super().__init__()
        self.positions, self.num_classes = positions, num_classes

    def forward(self, x: Tensor) -> Tensor:
        logits = torch.zeros(len(x), self.num_classes)
        logits[:, self.positions] = x.mean(dim=(2, 3))
        return logits


@pytest.mark.parametrize("slim", [False, True])
def test_accuracy_over_some_of_the_models_classes(image_folder: Path, slim: bool) -> None:
    names = label_names({}, 1000)
    assert names is not None
    positions = [list(names).index(synset) for synset in ("n01440764", "n01443537", "n01484850")]
    model, counted = Colour(positions, 1000), []
    found = validate(model, image_folder, INPUT, CPU, names, slim, batch_size=5, workers=0, progress=counted.append)
    assert (found.top1, found.top5, found.images) == (1.0, 1.0, 12)
    assert counted == [5, 5, 2]
    wrong = validate(Colour(positions[::-1], 1000), image_folder / "val", INPUT, CPU, names, slim, workers=0)
    assert wrong.top1 == pytest.approx(1 / 3)


def test_classes_must_be_the_models(image_folder: Path) -> None:
    with pytest.raises(DataError, match="has 3 classes, but the model has 4"):
        validate(Colour([0, 1, 2], 4), image_folder, INPUT, CPU, workers=0)
    assert validate(Colour([0, 1, 2], 3), image_folder, INPUT, CPU, workers=0).top1 == 1.0
    assert label_names({"label_names": ["a", "b"]}, 2) == ["a", "b"] and label_names({}, 7) is None


@pytest.mark.parametrize("size", [(75, 100), (331, 500), (64, 33)])
def test_slims_preprocessing_equals_tensorflow(size: tuple[int, int]) -> None:
    """``inception_preprocessing.preprocess_for_eval`` at 48 pixels, on the same decoded image."""
    tensorflow = pytest.importorskip("tensorflow")
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    with tensorflow.Graph().as_default(), tensorflow.compat.v1.Session() as session:
        image = tensorflow.image.convert_image_dtype(tensorflow.constant(pixels), tensorflow.float32)
        image = tensorflow.image.central_crop(image, central_fraction=0.875)
        resize = tensorflow.compat.v1.image.resize_bilinear
        image = resize(image[None], [48, 48], align_corners=False)[0]
        expected = session.run((image - 0.5) * 2.0)
    ours = (SlimEvaluation(48)(Image.fromarray(pixels)) - 127.5) / 127.5
    np.testing.assert_allclose(ours.permute(1, 2, 0), expected, atol=1e-5)


def test_size_and_crop() -> None:
    assert with_image_size(INPUT, 64, 0.9).input_size == (3, 64, 64)
    assert with_image_size(INPUT, None, 0.9).crop_pct == 0.9 and with_image_size(INPUT, None, None) == INPUT
