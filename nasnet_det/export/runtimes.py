"""One interface for every runtime: packages that TorchInductor, ONNX Runtime or OpenVINO run.

:func:`save_package` writes a program as a file for a runtime, or for the fastest of those installed;
:func:`load_package` loads any exported file as a module. ONNX files (``.onnx``) run in ONNX Runtime and in OpenVINO;
``.pt2`` files are TorchInductor's ahead-of-time packages or ``torch.export`` programs.
"""

from __future__ import annotations

import functools
import math
import os
import shutil
import tempfile
import threading
import time
import zipfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from nasnet_det.export.inductor import DTYPES, load_inductor, write_inductor
from nasnet_det.export.openvino_graph import keep_divisions, order_equal_values
from nasnet_det.export.package_files import (
    PackageError,
    PackageInfo,
    check_content,
    check_replaceable,
    read_info,
    readable,
    refuse_pickles,
    seal,
)
from nasnet_det.export.programs import TOLERANCE, Program, as_list, check, imported, quiet, write_onnx
from nasnet_det.export.quantization import quantize_onnx
from nasnet_det.export.runtime_support import AUTO, RUNTIMES, available, check_runtime, missing, runtimes_for
from nasnet_det.safe_io.files import expect_folder, replacing
from nasnet_det.safe_io.values import first_line


class Package(nn.Module):
    """A loaded package: maps images ``(N, 3, H, W)`` to the outputs of the packaged model.

    A package for a fixed number of images takes any number: they run in batches, the last one filled up.

    Pickling it stores the path of its file, from which another process loads it.

    Args:
        run: maps a tensor of the package's input size to one tensor or several.
        info: what the package computes, and the runtime that runs it.
        path: its file.
    """

    def __init__(self, run: Callable[[Tensor], Any], info: PackageInfo, path: Path | None = None) -> None:
        super().__init__()
        self.run, self.info, self.path = run, info, path

    def __reduce__(self) -> Any:
        return (load_package, (self.path, self.info.runtime)) if self.path else super().__reduce__()

    @property
    def num_classes(self) -> int:
        """The classes of a classifier."""
        return int(self._said("num_classes"))

    @property
    def pretrained_cfg(self) -> dict[str, Any]:
        """Size, mean, standard deviation and cropping of images, as timm's preprocessing reads them."""
        keys = ("mean", "std", "interpolation", "crop_pct")
        said, own = self.info.description, self._said("image_size")
        size = tuple(given or side for given, side in zip(self.info.input_size[1:] or own, own, strict=True))
        return {"input_size": size, **{key: said[key] for key in keys if key in said}}

    def _said(self, key: str) -> Any:
        said = self.info.description
        if said.get("kind") != "classifier" or key not in said:
            raise PackageError(f"expected a package of a classifier, which says its {key}, got {self.info}")
        return said[key]

    def forward(self, images: Tensor | np.ndarray) -> Any:
        """Run the package.

        Args:
            images: ``(N, 3, H, W)``, a tensor or an array. Of one with a value that is not finite, outputs are NaN and
                there are no detections.

        Raises:
            ValueError: for anything but images of the size that the package was made for, or on a GPU.
        """
        wanted, least = self.info.input_size, self.info.least_side
        free = ("any", *[f"at least {least}"] * len(wanted))
        sides = ", ".join(str(side or other) for side, other in zip(wanted, free, strict=False))
        expected = f"this package takes floating-point images ({sides}) on the CPU"
        try:
            if isinstance(images, np.ndarray):  # torch takes no reversed axes and no foreign byte order
                images = np.ascontiguousarray(images, images.dtype.newbyteorder("="))
            images = torch.as_tensor(images).detach().to_dense().resolve_neg()
            shape = tuple(images.shape)  # which nested tensors have none of
        except (TypeError, ValueError, RuntimeError):
            kind = getattr(images, "dtype", type(images).__name__)
            raise ValueError(f"{expected}, as a dense tensor or an array, got {kind}") from None
        fits = len(shape) == len(wanted) and all(
            given == side if side else given >= least for side, given in zip(wanted[1:], shape[1:], strict=True)
        )
        if wanted and (not fits or images.device.type != "cpu" or not images.is_floating_point()):
            given = f"{shape} of {images.dtype} on {images.device.type}"
            raise ValueError(f"{expected}, got {given}")
        if torch.get_num_threads() > 1:
            _fork_on_one_thread()
        images = images.to(
            DTYPES.get(self.info.precision, torch.float32) if self.info.runtime == "inductor" else torch.float32
        )
        batch = wanted[0] if len(wanted) == 4 else 0
        if len(wanted) == 4 and not (finite := images.flatten(1).isfinite().all(dim=1)).all():
            # As in PyTorch: OpenVINO and int8 lose such values, and ONNX Runtime fails on those of a detector.
            outputs = self(images.where(finite[:, None, None, None], 0))
            for output in as_list(outputs):
                output[~finite] = 0 if self.info.is_detector else torch.nan
            return outputs
        whole = len(images) and batch in (0, len(images))
        outputs = as_list(self.run(images)) if whole else self._in_batches(images, batch or 1)
        is_list = len(outputs) > 1 or self.info.description.get("kind") == "features"  # as the model's own
        return outputs if is_list else outputs[0]

    def _in_batches(self, images: Tensor, batch: int) -> list[Tensor]:
        parts = []
        for part in images.split(batch):
            filled = torch.cat([part, part.new_zeros(batch - len(part), *part.shape[1:])])
            parts.append([output[: len(part)] for output in as_list(self.run(filled))])
        return [torch.cat(outputs) for outputs in zip(*parts, strict=True)]


@functools.cache
def _fork_on_one_thread() -> None:
    """Let processes that are forked from now on compute on one thread, as a loader's workers do: they would wait for
    ever for PyTorch's others, which are not forked."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=functools.partial(torch.set_num_threads, 1))


def load_package(path: str | Path, runtime: str | None = None) -> Package:
    """Load an exported model or package.

    Args:
        path: an ONNX file, an ahead-of-time package or a ``torch.export`` program. The latter two are programs: **load
            only what you or someone you trust has made.** Pickles in them are refused.
        runtime: ``onnxruntime`` or ``openvino`` for an ONNX file; the one that the file names if None. ONNX Runtime
            computes a file in bfloat16 in float32.

    Raises:
        PackageError: if it cannot be read, was made for another machine, or does not run in that runtime.
        ModuleNotFoundError: if the runtime is not installed.
    """
    path = Path(path)
    info = read_info(path)
    takers = (info.runtime,) if zipfile.is_zipfile(path) else ("onnxruntime", "openvino")
    if runtime not in (None, *takers):
        words = f"{' or '.join(takers)}, or None for its own ({info.runtime})"
        raise PackageError(f"{path}: the runtime of this package is {words}; got {runtime!r}")
    if runtime not in (None, info.runtime):
        known = info.precision in RUNTIMES[runtime].precisions
        info = replace(info, runtime=runtime, precision=info.precision if known else "float32")
    with readable(path), quiet():
        check_content(path)
        return Package(_LOADERS[info.runtime](path, info), info, path.absolute())


@dataclass(frozen=True)
class Saved:
    """The outcome of :func:`save_package`.

    Args:
        path: the file.
        info: what it computes.
        differences: how far each output is from PyTorch's on the example, relative to the largest value.
        seconds: the shortest time of a call on the example, by runtime.
    """

    path: Path
    info: PackageInfo
    differences: dict[str, float]
    seconds: dict[str, float]


def save_package(
    program: Program,
    path: str | Path,
    runtime: str = AUTO,
    precision: str = "float32",
    calibration: Sequence[Tensor] = (),
    log: Callable[[str], None] = lambda text: None,
) -> Saved:
    """Write a program as a package for a runtime.

    Args:
        program: what to package.
        path: the file, to which the suffix of the runtime is added, ``.pt2`` or ``.onnx``.
        runtime: a key of :data:`nasnet_det.export.runtime_support.RUNTIMES`, or ``auto`` for the fastest that is
            installed, each tried for a few seconds; inductor is left out where image sizes are free and another
            runtime is installed, as compiling takes it many minutes then.
        precision: one of the runtime's; ``int8`` needs ``calibration``.
        calibration: batches of images like those that the model will see.
        log: gets a line for each runtime that is tried.

    Returns:
        the file that was written and what was measured.

    Raises:
        PackageError: if no runtime can be used, or the combination does not exist.
        ModuleNotFoundError: if the runtime is not installed.
        ExportError: if an output in float32 differs from PyTorch's; ``auto`` leaves such a runtime out.
        OSError: if the file cannot be written: known before anything is packaged.
    """
    candidates = _candidates(runtime, precision, program)
    expect_folder(Path(path).parent)
    for name in candidates:
        check_replaceable(package_path(path, name))
    if precision == "int8":
        if not calibration:
            raise PackageError("int8 needs images to calibrate on: give a folder of pictures like those it will see")
        imported("onnxruntime.quantization")  # for every runtime
    if precision == "int8" and getattr(program.model, "loops", False):
        raise PackageError(
            "int8 would leave out the second stage of the paper's detector, nearly all of its time, which runs in a "
            "loop: set MODEL.NASNET.CHUNK_SIZE to MODEL.RPN.POST_NMS_TOPK_TEST, which takes more memory"
        )
    with tempfile.TemporaryDirectory() as folder:
        tried: dict[str, tuple[Path, dict[str, float], float]] = {}
        failed: dict[str, str] = {}
        for name in candidates:
            part = Path(folder) / f"{name}{RUNTIMES[name].suffix}"
            try:
                differences = _write_and_check(program, part, name, precision, calibration)
                seconds = shortest(load_package(part), program.example)
            except Exception as error:  # ONNX Runtime's, and those of releases that do not fit together
                if runtime != AUTO:
                    raise
                failed[name] = first_line(error)
                log(f"{name}: left out ({failed[name]})")
                continue
            log(f"{name}: {1000 * seconds:.1f} ms")
            tried[name] = (part, differences, seconds)
        if not tried:
            raise PackageError(f"no runtime can run it: {'; '.join(map(': '.join, failed.items()))}")
        best = min(tried, key=lambda name: tried[name][2])
        part, differences, _ = tried[best]
        target = package_path(path, best)
        with replacing(target) as beside:
            shutil.copyfile(part, beside)
    return Saved(target, read_info(target), differences, {name: seconds for name, (*_, seconds) in tried.items()})


def package_path(path: str | Path, runtime: str) -> Path:
    """Return the file of a package: ``path`` with the runtime's suffix, instead of another runtime's if it has one.

    Raises:
        PackageError: for a path without a file's name.
    """
    path, suffix = Path(path), RUNTIMES[runtime].suffix
    if path.name in ("", ".."):
        raise PackageError(f"the path of a package, {str(path)!r}, is a folder's: give one that ends in a file's name")
    suffixes = [support.suffix for support in RUNTIMES.values()]
    return path.with_suffix(suffix) if path.suffix in suffixes else path.with_name(path.name + suffix)


def shortest(package: nn.Module, images: Tensor, seconds: float = 3.0, calls: int = 100) -> float:
    """Return the shortest time of a call in seconds, over about ``seconds`` but 3 to ``calls`` calls."""
    times: list[float] = []
    end = time.perf_counter() + seconds
    with torch.inference_mode():
        package(images)
        while len(times) < 3 or (len(times) < calls and time.perf_counter() < end):
            start = time.perf_counter()
            package(images)
            times.append(time.perf_counter() - start)
    return min(times)


def _candidates(runtime: str, precision: str, program: Program) -> list[str]:
    """Return the runtimes to try."""
    detector = program.is_detector
    check_runtime(runtime, precision, detector)
    if runtime != AUTO:
        return [runtime]
    if not (names := available(precision, detector)):
        lacks = [f"{name} needs {', '.join(missing(name))}" for name in runtimes_for(precision, detector)]
        raise PackageError(f"no runtime can be used: {'; '.join(lacks)}: pip install 'nasnet-det[export,openvino]'")
    if {*program.dynamic} - {0} and names != ["inductor"]:
        return [name for name in names if name != "inductor"]
    return names


def _write_and_check(
    program: Program, path: Path, runtime: str, precision: str, calibration: Iterable[Tensor]
) -> dict[str, float]:
    if runtime == "inductor":
        write_inductor(program, path, precision)
    else:
        imported(runtime)
        write_onnx(program, path, runtime=runtime, precision=precision)
        if precision == "int8":
            quantize_onnx(path, _batches_for(program, calibration))
        seal(path)
    # In less than float32 the difference is measured and reported, not bounded.
    return check(program, load_package(path), runtime, TOLERANCE if precision == "float32" else math.inf)


def _batches_for(program: Program, images: Iterable[Tensor]) -> Iterable[Tensor]:
    """Return batches of images in those that the program takes, the last one filled up by repeating an image."""
    batch = len(program.example)
    if 0 in program.dynamic or batch == 1:
        return images
    joined = torch.cat([*images])
    return torch.cat([joined, joined[-1:].expand(-len(joined) % batch, -1, -1, -1)]).split(batch)


def _load_onnxruntime(path: Path, info: PackageInfo) -> Callable[[Tensor], Any]:
    onnxruntime = imported("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def run(images: Tensor) -> Any:
        return [torch.as_tensor(array) for array in session.run(None, {"image": images.contiguous().numpy()})]

    return run


def _load_openvino(path: Path, info: PackageInfo) -> Callable[[Tensor], Any]:
    core = openvino_core()
    # Read from memory: the frontend chooses the format by a path's suffix.
    model = core.read_model(path.read_bytes(), b"")
    order_equal_values(model)
    keep_divisions(model)
    compiled = core.compile_model(model, "CPU", openvino_settings(info.precision))
    lock = threading.Lock()  # the compiled model has one request, in which calls of several threads would be mixed up

    def run(images: Tensor) -> Any:
        with lock:
            outputs = compiled([images.contiguous().numpy()])
        return [torch.as_tensor(outputs[index]) for index in range(len(compiled.outputs))]

    return run


@functools.cache
def openvino_core() -> Any:
    """Return the process's one core of OpenVINO, which is kept until its end.

    A core gives the thread that makes it a stack for signal handlers, and restores the one before when it is destroyed.
    Of two that are destroyed in the order in which they were made, the second restores the first one's, which is gone:
    the next signal (Ctrl-C, the end of a loader's worker) then ends the process (seen with OpenVINO 2026.4).

    Raises:
        ModuleNotFoundError: if OpenVINO is not installed.
    """
    return imported("openvino").Core()


def openvino_settings(precision: str) -> dict[str, str]:
    """Return OpenVINO's settings for a package of one of the runtime's precisions, on PyTorch's number of threads."""
    return {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "bf16" if precision == "bfloat16" else "f32",  # else it chooses by the processor
        "INFERENCE_NUM_THREADS": str(torch.get_num_threads()),
    }


def _load_inductor(path: Path, info: PackageInfo) -> Callable[[Tensor], Any]:
    function = load_inductor(path, info)
    return lambda images: function(images.contiguous(memory_format=torch.channels_last))


def _load_torch(path: Path, info: PackageInfo) -> Callable[[Tensor], Any]:
    refuse_pickles(path)
    module = torch.export.load(path).module()
    return lambda images: module(images)  # as a submodule of a package it would refuse train() and eval()


_LOADERS: dict[str, Callable[[Path, PackageInfo], Callable[[Tensor], Any]]] = {
    "inductor": _load_inductor,
    "onnxruntime": _load_onnxruntime,
    "openvino": _load_openvino,
    "torch": _load_torch,
}
