"""Backbones and the split detector, as detectron2 registers them."""
