"""Which runtime packages what: the precisions and devices of each, for classifiers and features and for detectors."""

from __future__ import annotations

import importlib.util
import shutil
from dataclasses import dataclass

from nasnet_det.export.package_files import PackageError

AUTO = "auto"


@dataclass(frozen=True)
class Ability:
    """What a runtime packages.

    Args:
        suffix: of its files.
        precisions: of classifiers and features.
        detectors: precisions of detectors; empty if it takes none.
        devices: where packages run.
    """

    suffix: str
    precisions: tuple[str, ...]
    detectors: tuple[str, ...] = ()
    devices: tuple[str, ...] = ("cpu",)

    def of(self, detector: bool) -> tuple[str, ...]:
        """Return the precisions of detectors, or of everything else."""
        return self.detectors if detector else self.precisions


#: ONNX Runtime has no bfloat16: its CPU kernels would compute in float32.
ABILITIES = {
    "inductor": Ability(".pt2", ("float32", "bfloat16", "float16"), devices=("cpu", "cuda")),
    "onnxruntime": Ability(".onnx", ("float32", "int8"), ("float32",)),
    "openvino": Ability(".onnx", ("float32", "bfloat16", "int8"), ("float32", "bfloat16")),
}


def able(precision: str = "float32", detector: bool = False, device: str = "cpu") -> list[str]:
    """Return the runtimes that package a detector, or anything else, in a precision for a device."""
    return [name for name, one in ABILITIES.items() if precision in one.of(detector) and device in one.devices]


def available(precision: str = "float32", detector: bool = False, device: str = "cpu") -> list[str]:
    """Return those of :func:`able` that are installed here."""
    return [name for name in able(precision, detector, device) if _is_installed(name)]


def check_ability(runtime: str, precision: str, device: str, detector: bool) -> None:
    """Refuse a combination that does not exist.

    Raises:
        PackageError: naming those that do.
    """
    names = able(precision, detector, device)
    if runtime in names or (runtime == AUTO and names):
        return
    kind = "detectors" if detector else "classifiers and features"
    known = "; ".join(
        f"{name} with {', '.join(one.of(detector))} on {' or '.join(one.devices)}"
        for name, one in ABILITIES.items()
        if one.of(detector)
    )
    given = f"{'no runtime takes' if runtime == AUTO else f'{runtime} does not take'} {kind}"
    raise PackageError(f"{given} in {precision} on {device}: choose {known}")


def _is_installed(runtime: str) -> bool:
    if runtime == "inductor":
        return bool(shutil.which("g++") or shutil.which("clang++"))
    return all(importlib.util.find_spec(name) for name in (runtime, "onnxscript"))
