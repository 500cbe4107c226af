"""Pictures of detections: what is drawn lands where it should."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from nasnet_det.draw.detections import Detection, colour, detections_of, draw, grid, side_by_side


def changed(before: Image.Image, after: Image.Image) -> np.ndarray:
    return (np.asarray(before.convert("RGB")) != np.asarray(after)).any(axis=2)


def test_a_box_is_drawn_at_its_edges_only() -> None:
    image = Image.new("RGB", (200, 150))
    found = draw(image, [Detection((50, 60, 120, 130), 3, "cup 90%")])
    pixels = np.asarray(found)
    for x, y in ((50, 100), (120, 100), (100, 130)):
        assert tuple(pixels[y, x]) == colour(3)
    assert not changed(image, found)[75:125, 60:110].any()
    assert not np.asarray(image).any()


def test_a_mask_is_drawn_over_its_pixels_only_and_below_boxes() -> None:
    mask = np.zeros((150, 200), dtype=bool)
    mask[90:110, 70:100] = True
    image = Image.new("RGB", (200, 150), "white")
    found = draw(image, [Detection((50, 60, 120, 130), 3, "cup 90%", mask)])
    assert np.array_equal(changed(image, found)[65:125, 55:115], mask[65:125, 55:115])
    assert tuple(np.asarray(found)[130, 100]) == colour(3)


@pytest.mark.parametrize("box", [(-50, -50, 500, 500), (190, 0, 199, 10), (300, 300, 400, 400), (90, 90, 20, 20)])
def test_boxes_beyond_the_image_are_no_error(box: tuple[float, float, float, float]) -> None:
    image = Image.new("L", (200, 150))
    found = draw(image, [Detection(box, 0, "a long name for a small image 100%")])
    assert found.size == image.size and changed(image, found).any()


def test_labels_of_boxes_in_one_place_are_all_there() -> None:
    same = [Detection((50, 60, 250, 240), category, "cup 90%") for category in range(4)]
    found = np.asarray(draw(Image.new("RGB", (300, 300)), same))
    # The first box's outline covers the others', of which only the labels remain.
    assert all((found == colour(category)).all(axis=2).sum() > 100 for category in range(4))


def test_neighbouring_categories_are_told_apart() -> None:
    colours = np.array([colour(i) for i in range(12)], dtype=float)
    distances = np.abs(colours[:, None] - colours[None]).sum(axis=2) + 1000 * np.eye(12)
    assert distances.min() > 40


def test_instances_become_labelled_detections_the_best_first() -> None:
    boxes = SimpleNamespace(tensor=torch.tensor([[0.0, 0, 5, 5], [1, 1, 6, 6], [2, 2, 7, 7]]))
    scores, classes = torch.tensor([0.2, 0.7, 0.9]), torch.tensor([0, 1, 4])
    instances = SimpleNamespace(pred_boxes=boxes, scores=scores, pred_classes=classes)
    found = detections_of(instances, ["cat", "dog"], threshold=0.5)
    assert [(d.label, d.category, d.box[0]) for d in found] == [("class 4 90%", 4, 2.0), ("dog 70%", 1, 1.0)]
    assert all(detection.mask is None for detection in found)
    instances.pred_masks = torch.eye(3, dtype=torch.bool).view(3, 1, 3)
    masks = [detection.mask for detection in detections_of(instances, [], threshold=0.5)]
    assert [mask.tolist() for mask in masks if mask is not None] == [[[False, False, True]], [[False, True, False]]]


def test_pictures_stand_side_by_side_below_their_titles() -> None:
    left, right = Image.new("RGB", (100, 80), (255, 0, 0)), Image.new("RGB", (100, 80), (0, 0, 255))
    row = side_by_side([left, right], ["one", "two"])
    assert row.width > 200 and row.height > 80
    assert row.getpixel((50, row.height - 5)) == (255, 0, 0)
    assert row.getpixel((row.width - 5, row.height - 5)) == (0, 0, 255)
    assert (np.asarray(row)[: row.height - 80] < 128).any()


def test_a_grid_holds_every_picture() -> None:
    colours = [(i, 100, 100) for i in range(10, 60, 10)]
    sheet = grid([Image.new("RGB", (40, 20), c) for c in colours], columns=2, size=(20, 20))
    present = {tuple(pixel) for pixel in np.asarray(sheet).reshape(-1, 3).tolist()}
    assert set(colours) <= present
    assert sheet.size == (48, 76)
