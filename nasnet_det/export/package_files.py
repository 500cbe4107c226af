"""Metadata of exported files, read without running any of their code."""

from __future__ import annotations

import hashlib
import io
import pickle
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from nasnet_det.export.programs import DESCRIPTION, imported
from nasnet_det.safe_io.files import NOTHING, check_writable
from nasnet_det.safe_io.values import first_line, parse_json

#: The key of the description in the metadata of ahead-of-time packages.
FORMAT = "nasnet_det.package"
RUNTIMES = ("inductor", "onnxruntime", "openvino", "torch")
#: The data types of weights and arithmetic; in ``int8`` those of convolutions and matrix products.
PRECISIONS = ("float32", "bfloat16", "float16", "int8")
#: The largest description, in bytes.
_LONGEST = 16 << 20
#: The last entry of ONNX's metadata, the hash of what is before it: its key, and its bytes as protobuf writes them.
HASH_KEY = "sha256"
_SEAL, _DIGITS = b"rJ\n\x06" + HASH_KEY.encode() + b"\x12@", 64
#: Errors of reading a damaged file.
_MALFORMED = (
    *(OSError, EOFError, ValueError, TypeError, LookupError, AttributeError, RuntimeError, NotImplementedError),
    *(zipfile.BadZipFile, zlib.error, pickle.UnpicklingError),
)


class PackageError(ValueError):
    """A failure to write or load a package; the message names the file and the reason."""


@dataclass(frozen=True)
class PackageInfo:
    """The model inside a package and the runtime and machine that it is for.

    Args:
        runtime: one of :data:`RUNTIMES`, which runs it unless another is asked for.
        outputs: the names of the outputs.
        input_size: of the images, ``(N, 3, H, W)``; 0 where it is free. Empty if unknown.
        precision: one of :data:`PRECISIONS`.
        torch: the PyTorch release that compiled it and that loads it; empty for formats that any release loads.
        needs: the kind and instruction sets of the CPU that compiled code needs.
        description: everything that the file says of its model.
    """

    runtime: str
    outputs: tuple[str, ...]
    input_size: tuple[int, ...] = ()
    precision: str = "float32"
    torch: str = ""
    needs: tuple[str, ...] = ()
    description: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def from_dict(cls, data: Any, runtime: str) -> PackageInfo:
        """Read a description, with ``runtime`` where it names none.

        Raises:
            ValueError: if it is not a description of a package.
        """
        if not isinstance(data, dict):
            raise ValueError("its description is not a mapping")
        info = cls(
            data.get("runtime", runtime),
            tuple(data.get("outputs", ())),
            tuple(data.get("input_size", ())),
            data.get("precision", "float32"),
            data.get("torch", ""),
            tuple(data.get("needs", ())),
            data,
        )
        texts = (*info.outputs, info.torch, *info.needs)
        if (
            info.runtime not in RUNTIMES
            or info.precision not in PRECISIONS
            or len(info.input_size) > 8
            or not all(type(side) is int and side >= 0 for side in (*info.input_size, info.least_side))
            or not all(isinstance(text, str) and len(text) < 200 for text in texts)
        ):
            raise ValueError("its description is not that of a package")
        return info

    @property
    def is_detector(self) -> bool:
        """True for a package that maps images to detections."""
        return self.description.get("kind") == "detector"

    @property
    def least_side(self) -> int:
        """The smallest side of images where it is free; of smaller ones OpenVINO reads beyond its memory."""
        return self.description.get("least_side", 1)

    def __str__(self) -> str:
        sides = " x ".join(str(side or "any") for side in self.input_size)
        name = self.description.get("model", self.description.get("kind", "a model"))
        if self.description.get("kind") == "features":
            name = f"features of {name}"
        made_by = f", torch {self.torch}" if self.torch else ""
        return f"{name}, images {sides}, {self.precision}, for {self.runtime}{made_by}"


def read_info(path: str | Path) -> PackageInfo:
    """Read the description of a package; no code of it is run.

    Raises:
        PackageError: if it cannot be read as a package.
        ModuleNotFoundError: for an ONNX file if ``onnx`` is not installed.
    """
    path = Path(path)
    if not path.is_file():
        raise PackageError(f"{path}: no such package; make one with nasnet-det package")
    with readable(path):
        if zipfile.is_zipfile(path):
            return _read_archive(path)
        entries = imported("onnx").load(path, load_external_data=False).metadata_props
        texts = [entry.value for entry in entries if entry.key == DESCRIPTION]
        if not texts:
            raise ValueError("it holds no description")
        return PackageInfo.from_dict(parse_json(texts[0]), "onnxruntime")


def check_replaceable(path: Path) -> None:
    """Raise an error for a file that must not be written over: an input, or one that is not of this package.

    Raises:
        OverwriteError: for such a file.
        IsADirectoryError: for a folder.
    """
    own = b""
    try:
        read_info(path)
    except PackageError:
        own = NOTHING
    check_writable(path, own)


def is_package(path: Path) -> bool:
    """Return True for an exported file under any name, by its first bytes or its archive's members."""
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                return any(name.endswith("/archive_format") for name in archive.namelist())
        with path.open("rb") as file:
            head = file.read(9)
    except (OSError, ValueError, zipfile.BadZipFile):
        return False
    return head[:1] == b"\x08" and head[8:] != b"{"  # ONNX begins with its version; safetensors may, before its header


def seal(path: Path) -> None:
    """Append the hash of an ONNX file's content to it, as one more entry of its metadata."""
    content = path.read_bytes()
    path.write_bytes(content + _SEAL + hashlib.sha256(content).hexdigest().encode())


def check_content(path: Path) -> None:
    """Compare the content of a package with the checksums in it.

    Raises:
        PackageError: if it is damaged, or was changed after it was made.
    """
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip() is not None
    else:
        content = path.read_bytes()
        sealed, digest = content[:-_DIGITS], content[-_DIGITS:].decode("latin-1")
        damaged = sealed.endswith(_SEAL) and hashlib.sha256(sealed.removesuffix(_SEAL)).hexdigest() != digest
    if damaged:
        raise PackageError(f"{path} is damaged, or was changed after it was made: copy it again, or make it again")


def description(path: str | Path) -> dict[str, Any]:
    """Return an exported file's description of its model, such as mean and standard deviation of its images.

    Raises:
        PackageError: if it cannot be read as a package.
    """
    return dict(read_info(path).description)


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Turn the errors of reading a damaged file into :class:`PackageError`.

    Raises:
        PackageError: if the file cannot be read as a package.
    """
    try:
        yield
    except (PackageError, ImportError):
        raise
    except Exception as error:  # protobuf's, PyTorch's and the runtimes' have no common class
        if not isinstance(error, _MALFORMED) and type(error).__module__.partition(".")[0] == "nasnet_det":
            raise
        reason = _reason(error)
        raise PackageError(f"{path} cannot be read as a package ({reason}); make it with nasnet-det package") from None


def refuse_pickles(path: Path) -> None:
    """Refuse a ``torch.export`` program with content that PyTorch would unpickle freely.

    Raises:
        PackageError: if there is such content, or the file is damaged.
    """
    with readable(path), zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        # PyTorch's reader ignores the case of names, and takes another of several files of a name or archives in one.
        if len({one.filename.lower() for one in members}) < len(members) or min(one.header_offset for one in members):
            raise ValueError("it holds several archives, or files of one name, which are not read")
        for member in members:
            name = member.filename.lower()
            parts = name.split("/")
            if name.endswith("_config.json"):
                payloads = parse_json(archive.read(member).decode())["config"].values()
                if any(payload["use_pickle"] for payload in payloads):
                    raise ValueError(f"{name} asks for pickles, which are not read")
            elif name.endswith(".pt"):
                torch.load(io.BytesIO(archive.read(member)), map_location="cpu", weights_only=True)
            elif parts[-1].startswith(("custom_obj_", "opaque_obj_")) or (parts[-1] == "version" and len(parts) == 1):
                raise ValueError(f"{name} is a pickled object or of an old format, which is not read")


def _reason(error: Exception) -> str:
    """Return the line of an error that says what is wrong; OpenVINO's first lines name only its own source files."""
    lines = [line for line in str(error).splitlines() if line.strip() and not line.startswith("Exception from ")]
    return lines[0][:300] if lines else first_line(error)


def _read_archive(path: Path) -> PackageInfo:
    """Read the description of an ahead-of-time package or a ``torch.export`` program."""
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        for name in names:
            if name.endswith("_metadata.json"):
                found = parse_json(_member(archive, name))
                if isinstance(found, dict) and FORMAT in found:
                    return PackageInfo.from_dict(parse_json(found[FORMAT]), "inductor")
        named = [name for name in names if name.endswith(f"/extra/{DESCRIPTION}")]
        if len(named) != 1:
            raise ValueError("it holds no description")
        return PackageInfo.from_dict(parse_json(_member(archive, named[0])), "torch")


def _member(archive: zipfile.ZipFile, name: str) -> str:
    if archive.getinfo(name).file_size > _LONGEST:
        raise ValueError(f"{name} is too long")
    return archive.read(name).decode()
