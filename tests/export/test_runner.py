"""Detections of packages on whole images."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("detectron2")

from detectron2.layers import paste_masks_in_image
from PIL import Image

from nasnet_det.export.runner import BoxTensor, DetectorInput, PackageDetections, paste_masks
from nasnet_det.safe_io.images import ImageError


@pytest.mark.parametrize("size", [(40, 60), (61, 17), (1, 1)])
def test_masks_are_pasted_as_by_detectron2(size: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(0)
    corners = torch.rand(50, 2, 2, generator=generator).sort(dim=1).values * torch.tensor([size[1], size[0]])
    boxes = corners.flatten(1)
    masks = torch.rand(50, 28, 28, generator=generator)
    assert torch.equal(paste_masks(masks, boxes, size), paste_masks_in_image(masks, boxes, size))


def test_an_image_that_is_too_narrow_is_refused() -> None:
    said = {"resize_shortest": [600, 1024], "channels": "RGB", "least_side": 3}
    taken = DetectorInput.from_description(said)
    assert taken.resize(Image.new("RGB", (1, 300))).size == (3, 1024)
    for sizes in (taken, DetectorInput.from_description({**said, "resize_shortest": [0, 0]})):
        with pytest.raises(ImageError, match="700 x 1"):
            sizes.resize(Image.new("RGB", (700, 1)))


def test_an_image_without_detections_has_no_masks_and_no_results() -> None:
    pasted = paste_masks(torch.zeros(0, 28, 28), torch.zeros(0, 4), (7, 9))
    assert pasted.shape == (0, 7, 9)
    assert PackageDetections(BoxTensor(torch.zeros(0, 4)), torch.zeros(0), torch.zeros(0), pasted).to_coco(1) == []
