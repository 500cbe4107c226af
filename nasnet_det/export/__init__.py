"""Models for use elsewhere: ONNX files, ``torch.export`` programs, packages for every runtime, hub folders.

Importing this package registers the operator that exported detectors call. ``nasnet_det.export.detector`` needs
detectron2; nothing else here does.
"""

from nasnet_det.export import operators
from nasnet_det.export.hub import fetch_run, push_run_to_hub, push_to_hub, save_hub_folder
from nasnet_det.export.package_files import PackageError, PackageInfo, description, read_info
from nasnet_det.export.programs import ExportError, Program, classifier_program, feature_program, save_program
from nasnet_det.export.runner import PackagedDetector, paste_masks
from nasnet_det.export.runtime_support import available
from nasnet_det.export.runtimes import Package, load_package, save_package

__all__ = [
    "ExportError",
    "Package",
    "PackageError",
    "PackageInfo",
    "PackagedDetector",
    "Program",
    "available",
    "classifier_program",
    "description",
    "feature_program",
    "fetch_run",
    "load_package",
    "operators",
    "paste_masks",
    "push_run_to_hub",
    "push_to_hub",
    "read_info",
    "save_hub_folder",
    "save_package",
    "save_program",
]
