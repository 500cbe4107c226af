"""Validation: published preprocessing, classes matched by name."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from nasnet_det.training.data.cifar10 import DataError, load_cifar10
from nasnet_det.training.data.image_folder import Preprocessing
from nasnet_det.training.execution import choose_execution
from nasnet_det.training.validation import SlimEvaluation, label_names, validate, validate_cifar10

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
    with pytest.raises(DataError, match=r"3 classes.* 4"):
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


def test_cifar10_is_measured_with_the_models_preprocessing(cifar_like: Path) -> None:
    images = load_cifar10(cifar_like, official=False).test
    seen: list[Tensor] = []

    class Recorder(nn.Module):
        num_classes = 10

        def forward(self, x: Tensor) -> Tensor:
            seen.append(x)
            start = sum(map(len, seen)) - len(x)
            labels = torch.from_numpy(images.labels[start : start + len(x)]).long()
            labels[0] = (labels[0] + 1) % 10 if start == 0 else labels[0]  # one mistake
            return nn.functional.one_hot(labels, 10).float()

    measured = functools.partial(validate_cifar10, official=False)
    found = measured(Recorder(), cifar_like, INPUT, CPU, batch_size=8)
    assert found.images == 20 and found.top1 == pytest.approx(0.95)
    torch.testing.assert_close(torch.cat(seen), torch.from_numpy(images.pictures) / 127.5 - 1)
    seen.clear()
    measured(Recorder(), cifar_like, Preprocessing((3, 16, 16), (0.5,) * 3, (0.5,) * 3), CPU)
    assert {tuple(batch.shape[1:]) for batch in seen} == {(3, 16, 16)}
    with pytest.raises(DataError, match="1000"):
        measured(Colour([0, 1, 2], 1000), cifar_like, INPUT, CPU)
    with pytest.raises(DataError, match="64 x 64"):
        measured(Recorder(), cifar_like, Preprocessing((3, 64, 64), (0.5,) * 3, (0.5,) * 3), CPU)


def test_preprocessing_at_another_size_and_crop() -> None:
    config = INPUT.with_crop(0.9).to_dict()
    assert config["crop_pct"] == 0.9
    assert Preprocessing.of(config, (64, 48)).input_size == (3, 64, 48) and Preprocessing.of(config).crop_pct == 0.9
