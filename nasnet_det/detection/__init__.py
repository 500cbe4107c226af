"""detectron2 integration: backbones, the split detector, data, evaluation.

Importing this package does not import detectron2; its two functions do, and register everything:

- in a script of your own, after ``cfg = get_cfg()``: ``add_nasnet_config(cfg)``;
- with detectron2's unmodified ``tools/train_net.py``: ``DETECTRON2_ENV_MODULE=nasnet_det.detection``.
"""

from __future__ import annotations

from typing import Any


def add_nasnet_config(cfg: Any) -> None:
    """Register every part and data set with detectron2 and give ``cfg`` the node ``MODEL.NASNET``; repeated
    calls have no effect."""
    from nasnet_det.detection.config import add_node
    from nasnet_det.detection.data.datasets import register_coco_splits
    from nasnet_det.detection.modeling import backbone, rcnn

    del backbone, rcnn  # imported for what they register
    register_coco_splits()
    add_node(cfg)


def setup_environment() -> None:
    """Add the keys to every ``get_cfg()``: called by detectron2 for the module named by ``DETECTRON2_ENV_MODULE``."""
    from detectron2.config.defaults import _C

    add_nasnet_config(_C)
