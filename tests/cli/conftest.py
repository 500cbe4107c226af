"""Fixtures that the tests of the commands share with those of detection."""

from tests.detection.conftest import tiny_coco

__all__ = ["tiny_coco"]
