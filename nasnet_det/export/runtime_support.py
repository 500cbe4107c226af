"""The runtimes of packages: the precisions that each supports, for detectors and for other models."""

from __future__ import annotations

import importlib.util
import shutil
from dataclasses import dataclass

from nasnet_det.export.package_files import PackageError

AUTO = "auto"


@dataclass(frozen=True)
class RuntimeSupport:
    """The precisions that a runtime supports.

    Args:
        suffix: the suffix of its files.
        precisions: of weights and arithmetic.
        of_detectors: the same for detectors.
    """

    suffix: str
    precisions: tuple[str, ...]
    of_detectors: tuple[str, ...]

    def precisions_of(self, detector: bool) -> tuple[str, ...]:
        """Return the precisions of detectors, or of everything else."""
        return self.of_detectors if detector else self.precisions


#: ONNX Runtime has no bfloat16: its CPU kernels would compute in float32.
RUNTIMES = {
    "inductor": RuntimeSupport(".pt2", ("float32", "bfloat16", "float16"), ("float32",)),
    "onnxruntime": RuntimeSupport(".onnx", ("float32", "int8"), ("float32", "int8")),
    "openvino": RuntimeSupport(".onnx", ("float32", "bfloat16", "int8"), ("float32", "bfloat16", "int8")),
}


def runtimes_for(precision: str = "float32", detector: bool = False) -> list[str]:
    """Return the runtimes that support a detector, or another model, in a precision."""
    return [name for name, one in RUNTIMES.items() if precision in one.precisions_of(detector)]


def available(precision: str = "float32", detector: bool = False) -> list[str]:
    """Return those of :func:`runtimes_for` that are installed here."""
    return [name for name in runtimes_for(precision, detector) if not missing(name)]


def check_runtime(runtime: str, precision: str, detector: bool) -> None:
    """Refuse a combination that no runtime supports.

    Raises:
        PackageError: naming those that are supported.
    """
    names = runtimes_for(precision, detector)
    if runtime in names or (runtime == AUTO and names):
        return
    kind = "detectors" if detector else "classifiers and features"
    known = "; ".join(
        f"{name} with {', '.join(one.precisions_of(detector))}"
        for name, one in RUNTIMES.items()
        if one.precisions_of(detector)
    )
    given = f"{'no runtime takes' if runtime == AUTO else f'{runtime} does not take'} {kind}"
    raise PackageError(f"{given} in {precision}: choose {known}")


def missing(runtime: str) -> list[str]:
    """Return what a runtime needs that is not installed here."""
    if runtime == "inductor":
        return [] if shutil.which("g++") or shutil.which("clang++") else ["a C++ compiler"]
    return [name for name in (runtime, "onnx", "onnxscript") if not importlib.util.find_spec(name)]
