"""What detectron2 sees: backbones, the split detector of the paper, its data and its evaluation.

Importing this package needs nothing; its two functions need detectron2, and set everything up:

- in a script of your own, after ``cfg = get_cfg()``: ``add_nasnet_config(cfg)``;
- with detectron2's unmodified ``tools/train_net.py``: ``DETECTRON2_ENV_MODULE=nasnet_det.detection``.
"""

from __future__ import annotations

from typing import Any


def add_nasnet_config(cfg: Any) -> None:
    """Register every part and data set with detectron2 and give ``cfg`` the node ``MODEL.NASNET``; harmless if done
    before."""
    from nasnet_det.detection.config import add_node
    from nasnet_det.detection.data.datasets import register_coco_splits
    from nasnet_det.detection.modeling import backbone, rcnn

    del backbone, rcnn  # imported for what they register
    register_coco_splits()
    add_node(cfg)


def setup_environment() -> None:
    """What detectron2 calls of the module that ``DETECTRON2_ENV_MODULE`` names: every ``get_cfg()`` then knows the
    keys."""
    from detectron2.config.defaults import _C

    add_nasnet_config(_C)
