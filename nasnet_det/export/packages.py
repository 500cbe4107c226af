"""Networks compiled ahead of time into one file, which loads in seconds what ``torch.compile`` takes minutes for.

A package (``.pt2``) is made by AOTInductor from the fused network, exported for one number of channels and one image
size, and for one batch size or any. It holds native code and the weights; ``torch`` alone loads it, no Python model is
built. **A package is a program: load only what you or someone you trust has made.**

It runs where it was made for: the same PyTorch release, the same kind of device, and on a CPU the same instructions.
What it was made for stands in it, and :func:`load_package` refuses a package that would not run.
"""

from __future__ import annotations

import json
import platform
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch._inductor.exc import CppCompileError, InductorError, InvalidCxxCompiler

from nasnet_det.fusion import optimize_for_inference
from nasnet_det.fusion.network import FusedNASNet
from nasnet_det.safe_io.files import replacing
from nasnet_det.safe_io.values import format_value, parse_json

FORMAT = "nasnet_det.package"
_MOST_IMAGES = 1024
#: Of what a package says of itself, in bytes.
_LONGEST = 1 << 20
#: What reading a damaged package raises.
_MALFORMED = (
    *(OSError, EOFError, ValueError, TypeError, LookupError, RuntimeError, NotImplementedError),
    *(zipfile.BadZipFile, zlib.error),
)
#: The types of images, weights and outputs.
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class PackageError(ValueError):
    """A package that cannot be made or loaded: says which and why."""


@dataclass(frozen=True)
class PackageInfo:
    """What a package computes and where it runs.

    Args:
        name: what people call the network.
        input_size: ``(N, C, H, W)`` of the images; N is 0 if any number will do.
        dtype: ``float32``, ``bfloat16`` or ``float16``, of images, weights and outputs.
        device: ``cpu`` or ``cuda``.
        torch: the PyTorch release that made it and that loads it.
        needs: the processor's instruction sets, or the GPU's compute capability.
    """

    name: str
    input_size: tuple[int, int, int, int]
    dtype: str
    device: str
    torch: str
    needs: tuple[str, ...]

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> PackageInfo:
        """Read plain values.

        Raises:
            TypeError, ValueError, LookupError: if one is missing, unknown or of another kind.
        """
        info = cls(**{**data, "input_size": tuple(data["input_size"]), "needs": tuple(data["needs"])})
        sizes = len(info.input_size) == 4 and all(type(side) is int and side >= 0 for side in info.input_size)
        texts = (info.name, info.dtype, info.device, info.torch, *info.needs)
        if (
            not sizes
            or info.dtype not in DTYPES
            or not all(isinstance(text, str) and len(text) < 200 for text in texts)
        ):
            raise ValueError("what it says of itself cannot be")
        return info

    def __str__(self) -> str:
        count, *image = self.input_size
        return (
            f"{self.name}, {count or 'any number of'} x {' x '.join(map(str, image))} {self.dtype} on {self.device}, "
            f"torch {self.torch}"
        )


class Packaged(nn.Module):
    """A loaded package: maps images ``(N, C, H, W)`` in the network's own scaling to what the network returns.

    Args:
        run: the loaded native code.
        info: what it was made for.
    """

    def __init__(self, run: Any, info: PackageInfo) -> None:
        super().__init__()
        self.run, self.info = run, info

    def forward(self, images: Tensor) -> Any:
        """Raises ValueError for images of another size, type or device than the package was made for."""
        count, *image = self.info.input_size
        matches = (
            images.dim() == 4 and list(images.shape[1:]) == image and images.shape[0] == (count or images.shape[0])
        )
        if not matches or images.dtype != DTYPES[self.info.dtype] or images.device.type != self.info.device:
            raise ValueError(
                f"this package is for images {(count or 'N', *image)} of {self.info.dtype} on {self.info.device}, "
                f"not {tuple(images.shape)} of {images.dtype} on {images.device.type}"
            )
        return self.run(images.contiguous(memory_format=torch.channels_last))


def save_package(
    model: nn.Module,
    path: str | Path,
    input_size: Sequence[int] = (1, 3, 331, 331),
    name: str = "",
    dtype: str = "float32",
    device: str = "cpu",
    any_batch: bool = False,
) -> PackageInfo:
    """Compile a network ahead of time and write the package to ``path``, whole or not at all. Takes minutes.

    Args:
        model: a :class:`NASNet` or something with one inside that maps one tensor of images to tensors; it is copied
            and fused (:func:`nasnet_det.fusion.optimize_for_inference`).
        path: where the package goes, ending in ``.pt2``.
        input_size: ``(N, C, H, W)`` of the images.
        name: what people call it.
        dtype: ``float32``, ``bfloat16`` or ``float16``.
        device: ``cpu`` or ``cuda``.
        any_batch: let the number of images vary; N then only says for how many it is tuned, at least 2.

    Raises:
        PackageError: if there is no such device or compiler, or the numbers make no package.
    """
    path = Path(path)
    info = _checked_info(path, input_size, name, dtype, device, any_batch)
    if not any(isinstance(module, FusedNASNet) for module in model.modules()):
        model = optimize_for_inference(model)
    model = model.to(device, DTYPES[dtype])
    images = torch.randn(*input_size, device=device, dtype=DTYPES[dtype]).contiguous(memory_format=torch.channels_last)
    shapes = ({0: torch.export.Dim("images", min=1, max=_MOST_IMAGES)},) if any_batch else None
    with torch.no_grad():
        program = torch.export.export(model, (images,), dynamic_shapes=shapes)
        with replacing(path) as part:
            _compile(program, part, info)
    return info


def load_package(path: str | Path) -> Packaged:
    """Load what :func:`save_package` has written, in seconds. It is native code: load only what you trust.

    Raises:
        PackageError: if it is no package, or was made for another PyTorch, device or processor.
    """
    info = read_info(path)
    if info.torch != torch.__version__:
        raise PackageError(
            f"{path} was made by torch {info.torch} and this is {torch.__version__}: make it again with this one"
        )
    if missing := sorted(set(info.needs) - set(_offered(info.device))):
        raise PackageError(f"{path} needs {', '.join(missing)}, which this {info.device} has not: make it again here")
    return Packaged(torch._inductor.aoti_load_package(str(path)), info)


def read_info(path: str | Path) -> PackageInfo:
    """What a package was made for, read without running any of it.

    Raises:
        PackageError: if it is no package.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name for name in archive.namelist() if name.endswith("_metadata.json")]
            for name in names:
                if archive.getinfo(name).file_size > _LONGEST:
                    raise ValueError(f"{name} is too long")
                found = parse_json(archive.read(name).decode())
                if isinstance(found, dict) and FORMAT in found:
                    return PackageInfo.from_dict(parse_json(found[FORMAT]))
    except FileNotFoundError:
        raise PackageError(f"{path}: no such package; make it with nasnet-det package") from None
    except _MALFORMED as error:
        raise PackageError(
            f"{path} cannot be read as a package ({format_value(str(error))}); make it with nasnet-det package"
        ) from None
    raise PackageError(f"{path} is no package of this project; make it with nasnet-det package")


def _checked_info(
    path: Path, input_size: Sequence[int], name: str, dtype: str, device: str, any_batch: bool
) -> PackageInfo:
    if path.suffix != ".pt2":
        raise PackageError(f"a package's name ends in .pt2, which PyTorch asks for; {path.name!r} does not")
    if len(input_size) != 4 or any(type(side) is not int or side < 1 for side in input_size):
        raise PackageError(f"an input size is four whole numbers N, C, H, W, not {tuple(input_size)}")
    if any_batch and input_size[0] < 2:
        raise PackageError("for any number of images tune it for 2 or more (N of the input size)")
    if dtype not in DTYPES:
        raise PackageError(f"dtype is one of {', '.join(DTYPES)}, not {dtype!r}")
    if device not in ("cpu", "cuda"):
        raise PackageError(f"device is 'cpu' or 'cuda', not {device!r}")
    count, channels, height, width = input_size
    size = (0 if any_batch else count, channels, height, width)
    return PackageInfo(name, size, dtype, device, str(torch.__version__), _offered(device))


def _offered(device: str) -> tuple[str, ...]:
    """What native code may need of this machine's device: it is compiled for all that the device has."""
    if device == "cpu":
        if not hasattr(torch.cpu, "get_capabilities"):  # before PyTorch 2.12
            return platform.machine(), torch.backends.cpu.get_cpu_capability()
        flags = torch.cpu.get_capabilities()
        return platform.machine(), *sorted(name for name, value in flags.items() if value is True)
    if not torch.cuda.is_available():
        raise PackageError("this needs a CUDA GPU, and PyTorch sees none here")
    major, minor = torch.cuda.get_device_capability()
    return (f"compute capability {major}.{minor}",)


def _compile(program: torch.export.ExportedProgram, path: Path, info: PackageInfo) -> None:
    """AOTInductor: weights packed for the device, and as many threads as the machine that runs it has."""
    settings: dict[str, Any] = {
        "freezing": True,
        "cpp.dynamic_threads": True,
        "aot_inductor.metadata": {FORMAT: json.dumps(asdict(info))},
    }
    try:
        with path.open("w+b") as file:
            torch._inductor.aoti_compile_and_package(program, package_path=file, inductor_configs=settings)
    except (InductorError, CppCompileError, InvalidCxxCompiler) as error:
        raise PackageError(f"it cannot be compiled here: {error}") from error
