"""Ahead-of-time compilation by TorchInductor: native code that loads in seconds, without building a model.

A package runs where it was made for: the same PyTorch release and a CPU with the same instruction sets. **It is a
program: load only what you or someone you trust has made.** Packages for a GPU are not made: on the one that was tried
(NVIDIA H100, PyTorch 2.11) the process that loaded one was ended by a segmentation fault. There ``torch.compile`` of
the fused network is the fastest form (``docs/speed.md``).
"""

from __future__ import annotations

import copy
import platform
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch._inductor.codecache
from torch import nn
from torch._inductor.exc import CppCompileError, InductorError, InvalidCxxCompiler

from nasnet_det.export.package_files import FORMAT, PackageError, PackageInfo
from nasnet_det.export.programs import Program, quiet
from nasnet_det.fusion import optimize_for_inference
from nasnet_det.fusion.network import FusedNASNet
from nasnet_det.models.network import NASNet

#: The floating-point data types of packages.
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_MOST_IMAGES = 1024


def write_inductor(program: Program, path: Path, precision: str = "float32") -> None:
    """Fuse and compile a program ahead of time; this takes minutes.

    Args:
        program: what to compile. The paper's detector is compiled for one image at once.
        path: the file to write.
        precision: one of :data:`DTYPES`.

    Raises:
        PackageError: if compiling it fails here.
    """
    # PyTorch compiles loops of a known length only.
    if getattr(program.model, "loops", False) and 0 in program.dynamic:
        program = replace(program, example=program.example[:1], dynamic=sorted({*program.dynamic} - {0}))
    described = program.described(
        runtime="inductor", precision=precision, torch=str(torch.__version__), needs=offered()
    )
    model = _fused(program.model).to(DTYPES[precision])
    images = program.example.to(DTYPES[precision]).contiguous(memory_format=torch.channels_last)
    free: dict[int, Any] = dict.fromkeys(program.dynamic, torch.export.Dim.AUTO)
    if 0 in free:
        images = torch.cat([images] * 2) if len(images) == 1 else images
        free[0] = torch.export.Dim("images", min=1, max=_MOST_IMAGES)
    has_fixed_sizes = not {*free} - {0}
    settings: dict[str, Any] = {
        # With free sizes PyTorch 2.14 errs in some fused cells that are frozen, and in transposed convolutions whose
        # layout it chooses.
        "freezing": has_fixed_sizes,
        "layout_optimization": has_fixed_sizes,
        "cpp.dynamic_threads": True,
        "aot_inductor.metadata": {FORMAT: described},
    }
    try:
        with quiet(), torch.no_grad(), path.open("w+b") as file:
            exported = torch.export.export(model, (images,), dynamic_shapes=(free,))
            torch._inductor.aoti_compile_and_package(exported, package_path=file, inductor_configs=settings)
    except (InductorError, CppCompileError, InvalidCxxCompiler) as error:
        raise PackageError(f"compiling {path} failed: {error}") from error


def load_inductor(path: Path, info: PackageInfo) -> Any:
    """Load compiled code as a function of images in the package's precision.

    Raises:
        PackageError: if it was made for another PyTorch or processor.
    """
    if info.torch != torch.__version__:
        raise PackageError(
            f"{path} was made by torch {info.torch}, but this is {torch.__version__}: make it again with this one"
        )
    if missing := sorted(set(info.needs) - set(offered())):
        raise PackageError(f"{path} needs {', '.join(missing)}, which this machine lacks: make it again here")
    return torch._inductor.aoti_load_package(str(path))


def offered() -> tuple[str, ...]:
    """Return the features of this machine's CPU that compiled code may use."""
    if not hasattr(torch.cpu, "get_capabilities"):  # before PyTorch 2.12
        return platform.machine(), torch.backends.cpu.get_cpu_capability()
    flags = torch.cpu.get_capabilities()
    return platform.machine(), *sorted(name for name, value in flags.items() if value is True)


def _fused(model: nn.Module) -> nn.Module:
    """Return a copy whose networks are fused."""
    networks = [module for module in model.modules() if isinstance(module, NASNet)]
    is_fused = all(isinstance(network, FusedNASNet) for network in networks)
    return copy.deepcopy(model) if is_fused else optimize_for_inference(model)
