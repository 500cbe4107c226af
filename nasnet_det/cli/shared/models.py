"""Models as command lines name them: packages, and detectors as run folders, checkpoints and configs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nasnet_det.cli.shared.errors import needs

if TYPE_CHECKING:
    from nasnet_det.detection.engine.prediction import Detector

#: The runtimes that run any ONNX file.
RUNTIMES = ("onnxruntime", "openvino")


def names_package(name: str, runtime: str | None, others: bool) -> bool:
    """Return whether a model is a package, by its name or its content, with options that go with it.

    Args:
        name: the model.
        runtime: the runtime given, None for none.
        others: whether weights, settings or an execution are given, which a package has itself.

    Raises:
        ValueError: for ``others`` with a package, or a runtime with anything else.
    """
    from nasnet_det.export.package_files import is_package

    if Path(name).suffix in (".onnx", ".pt2") or is_package(Path(name)):
        if others:
            raise ValueError(
                f"{name} is a package, which has its own weights, settings and precision and runs on the CPU: leave "
                "out the options for these"
            )
        return True
    if runtime:
        raise ValueError(f"--runtime is for packages (.onnx), and {name} is not one: make one with nasnet-det package")
    return False


def is_whole(detector: str) -> bool:
    """Return whether a package, a run folder or a checkpoint holds the config that it was made with."""
    if names_package(detector, None, others=False) or detector.startswith("hf-hub:"):
        return True
    if Path(detector).is_dir():
        return Path(detector, "config.yaml").is_file()
    with needs():
        from nasnet_det.detection.convert.checkpoint_files import read_checkpoint_file
    return "config" in read_checkpoint_file(detector)


def load_detector(name: str, weights: str = "", settings: Sequence[Any] = (), runtime: str | None = None) -> Detector:
    """Load a package, for which detectron2 need not be installed, or build the detector of a config.

    Args:
        name: a package (``.onnx``, ``.pt2``), a run folder, ``hf-hub:OWNER/NAME`` of one, a checkpoint that holds its
            config, or a config.
        weights: the checkpoint of a config.
        settings: changes of the config, ``KEY VALUE`` in turn.
        runtime: of a package, instead of its own.

    Raises:
        ValueError: for options that do not go with a package, or with another kind of detector.
    """
    if names_package(name, runtime, others=bool(weights or settings)):
        from nasnet_det.export.runner import PackagedDetector

        return PackagedDetector(name, runtime)
    if name.startswith("hf-hub:"):
        from nasnet_det.export import fetch_run

        name = str(fetch_run(name.removeprefix("hf-hub:")))
    with needs():
        from nasnet_det.detection.engine.predictor import Predictor, load_config
    return Predictor(load_config(name, settings, weights))
