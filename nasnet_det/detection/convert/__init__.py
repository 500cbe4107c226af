"""Checkpoints and configs of other programs as detectron2 checkpoints and configs."""
