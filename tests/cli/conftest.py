"""What the tests of the tools share with those of detection."""

from tests.detection.conftest import tiny_coco

__all__ = ["tiny_coco"]
