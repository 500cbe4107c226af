"""Models for use elsewhere: ONNX files, ``torch.export`` packages, hub folders.

Importing this package registers the operator that packages of detectors call. ``nasnet_det.export.detector`` needs
detectron2; nothing else here does.
"""

from nasnet_det.export import operators
from nasnet_det.export.hub import push_to_hub, save_hub_folder
from nasnet_det.export.programs import (
    ExportError,
    Program,
    classifier_program,
    description,
    feature_program,
    load_package,
    save_program,
)

__all__ = [
    "ExportError",
    "Program",
    "classifier_program",
    "description",
    "feature_program",
    "load_package",
    "operators",
    "push_to_hub",
    "save_hub_folder",
    "save_program",
]
