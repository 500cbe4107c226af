"""COCO evaluation and the evaluator that detectron2 calls."""
