"""Data sets for detectors: COCO files, checks, image loading and the training loader."""
