"""Plans are scaled to the data and the device."""

from __future__ import annotations

from typing import Any

import pytest

from nasnet_det.detection.engine.plan import DataFacts, Plan, make_plan


def plan(images: int = 8, share: float = 0.4, side: float = 480, device: str = "cpu", **given: Any) -> Plan:
    return make_plan(DataFacts(images, 2 * images, side, share), "fpn_mobile", "", device, **given)


def test_facts_of_annotations() -> None:
    content = {
        "images": [{"id": 1, "width": 100, "height": 50}, {"id": 2, "width": 80, "height": 90}],
        "annotations": [{"image_id": 1, "bbox": [0, 0, 25, 25]}, {"image_id": 2, "bbox": [0, 0, 0, 9]}],
    }
    assert DataFacts.of(content) == DataFacts(2, 1, 65, 0.5)


def test_size_follows_the_objects_and_the_device() -> None:
    assert plan().image_size == 192
    assert plan(share=0.06).image_size == 416
    assert plan(share=0.001).image_size == 480  # never enlarged beyond the pictures
    assert plan(device="cuda").image_size == 480
    assert plan(device="cuda", side=3000).image_size == 800


def test_schedule_follows_the_data() -> None:
    assert plan().steps == 300
    assert plan(images=1000).steps == 4000
    assert plan(images=1000, epochs=3).steps == 1000
    for found in (plan(images=1), plan(images=50000, device="cuda")):
        assert 1 <= found.eval_period <= found.steps and 0 < found.average_decay < 1
    assert plan(images=1).batch_size == 1


@pytest.mark.parametrize("key", ["image_size", "batch_size", "patience"])
def test_what_is_given_is_followed(key: str) -> None:
    assert getattr(plan(**{key: 2}), key) in (2, 32)
    assert getattr(plan(**{key: None}), key) == getattr(plan(), key)


def test_random_weights_are_not_trained_through_frozen_norms() -> None:
    assert plan().settings()["MODEL.NASNET.NORM"] == "BN"
    published = make_plan(DataFacts(8, 8, 480, 0.4), "fpn_mobile", "published", "cpu")
    assert published.settings()["MODEL.NASNET.NORM"] == "FrozenBN"
    assert published.learning_rate < plan().learning_rate
