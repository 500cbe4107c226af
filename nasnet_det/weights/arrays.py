"""Reading of weight files as named arrays; the kind of a file is recognized by its first bytes, not by its name.

Nothing is executed: PyTorch files are read with ``weights_only=True``, and only regular files with paths inside an
archive are unpacked.
"""

from __future__ import annotations

import lzma
import os
import pickle
import struct
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import product
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError

from nasnet_det.safe_io.checkpoints import SeveralNetworksError, find_state_dict, load_torch, without_prefix
from nasnet_det.safe_io.file_kinds import KERAS_3, other_content
from nasnet_det.safe_io.files import protect
from nasnet_det.safe_io.parts import is_index, parts_of, read_parts
from nasnet_det.safe_io.values import first_line, format_names, format_value
from nasnet_det.weights.formats import is_known
from nasnet_det.weights.formats.tf_slim import VARIABLES, preferred
from nasnet_det.weights.layout import Arrays, WeightsError

#: The exceptions of readers for damaged or hostile files.
_MALFORMED = (
    *(OSError, EOFError, ValueError, TypeError, LookupError, AttributeError, RuntimeError, ArithmeticError),
    *(AssertionError, struct.error, zipfile.BadZipFile, MemoryError, tarfile.TarError, zlib.error, lzma.LZMAError),
    *(pickle.UnpicklingError, SafetensorError),
)
#: Limits far above the needs of the published files.
_MOST_MEMBERS, _MOST_COMPRESSED, _LEAST_ALLOWED, _LONGEST_HEADER = 10_000, 100, 256 << 20, 1 << 20
#: Files with weights in a folder, in the order of preference; a checkpoint is named by its index.
_PATTERNS = (
    *("*.safetensors.index.json", "*.safetensors", "*.index", "*.h5", "*.hdf5", "*.pth", "*.pt"),
    *("*.bin.index.json", "*.bin", "*.pb"),
)


def read_arrays(path: str | Path) -> Arrays:
    """Return the tensors of a file by name.

    Args:
        path: a safetensors, ``.pth`` or Keras ``.h5`` file; the index of a checkpoint in parts
            (``model.safetensors.index.json``); a TensorFlow checkpoint's prefix or one of its files; a frozen
            TensorFlow graph (``.pb``); a tar archive of any of them; or a folder with one of them.

    Raises:
        WeightsError: if the file does not exist, has another format or is damaged, or a folder contains several.
        ImportError: for a TensorFlow checkpoint or graph, if TensorFlow is not installed.
    """
    with located(path) as found:
        protect([found])
        try:
            arrays = without_prefix(_reader(found)(found), is_known)
        except (WeightsError, SeveralNetworksError) as error:
            words = str(error).replace(str(found), str(path))  # the user's path, not that of the unpacked copy
            raise WeightsError(words if str(path) in words else f"{path}: {words}") from None
        except _MALFORMED as error:
            raise _damaged(path, "file", error) from None
    if not arrays:
        raise WeightsError(f"{path}: contains no tensors")
    return arrays


@contextmanager
def located(path: str | Path) -> Iterator[Path]:
    """Yield the file or checkpoint prefix that ``path`` refers to; an archive is unpacked for the length of the block.

    Raises:
        WeightsError: if there is no file with weights, or more than one.
    """
    path = Path(path)
    try:
        if path.is_dir():
            path = _in_folder(path)
    except OSError as error:  # a name that is too long, a folder without permission
        raise WeightsError(f"{format_names([path])}: cannot be read ({error.strerror})") from None
    if _is_tar(path):
        with tempfile.TemporaryDirectory(prefix="nasnet_det-") as folder:
            _unpack(path, Path(folder))
            yield _in_folder(Path(folder), path)
        return
    yield _checkpoint_prefix(path) or path


def _in_folder(folder: Path, named: Path | None = None) -> Path:
    """Return the file with weights in a folder; ``named`` is the user's name for it."""
    for prefix, pattern in product(("", "**/"), _PATTERNS):  # subfolders only if the folder itself has none
        found = sorted(folder.glob(prefix + pattern))
        if len(found) > 1:
            names = ", ".join(str(path.relative_to(folder)) for path in found)
            raise WeightsError(f"{named or folder}: contains several files with weights ({names}): name one")
        if found:
            return _checkpoint_prefix(found[0]) or found[0]
    raise WeightsError(f"{named or folder}: contains no file with weights ({', '.join(_PATTERNS)})")


def _checkpoint_prefix(path: Path) -> Path | None:
    """Return the prefix of a TensorFlow checkpoint, from the prefix or one of its files; None for other files."""
    name = path.name
    if path.suffix in (".index", ".meta"):
        name = path.stem
    elif ".data-" in name:
        name = name[: name.index(".data-")]
    return path.with_name(name) if path.with_name(f"{name}.index").is_file() else None


def _is_tar(path: Path) -> bool:
    try:
        if not path.is_file():
            return False
        with tarfile.open(path, tarinfo=_Member):
            return True
    except _MALFORMED:
        return False


class _Member(tarfile.TarInfo):
    """A member with a limit on the size of its name and attributes, which tarfile reads into memory."""

    def _proc_member(self, archive: tarfile.TarFile) -> tarfile.TarInfo:
        described = self.type in (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK) or self.type in b"xgX"
        if described and self.size > _LONGEST_HEADER:
            raise tarfile.ReadError("a member's header is too long")
        return super()._proc_member(archive)  # type: ignore[misc]


def _unpack(archive: Path, folder: Path) -> None:
    """Unpack the regular files of a tar archive; raise an error for paths outside it and for decompression bombs."""
    left = _allowance(archive)
    try:
        with tarfile.open(archive, tarinfo=_Member) as tar:
            for number, member in enumerate(tar):
                inside = PurePosixPath(member.name)
                if inside.is_absolute() or ".." in inside.parts:
                    what = f"its member {format_value(member.name)} is outside the archive"
                    raise WeightsError(f"{archive}: {what}: not unpacked")
                if number >= _MOST_MEMBERS:
                    raise WeightsError(f"{archive}: has more than {_MOST_MEMBERS} members: not an archive of weights")
                content = tar.extractfile(member) if member.isfile() else None
                if content is None:
                    continue
                target = folder / inside
                target.parent.mkdir(parents=True, exist_ok=True)
                with target.open("wb") as file:
                    while block := content.read(1 << 20):
                        left -= len(block)
                        if left < 0:
                            raise _bomb(archive)
                        file.write(block)
    except WeightsError:
        raise
    except _MALFORMED as error:
        raise _damaged(archive, "archive", error) from None


def _allowance(path: Path) -> int:
    """Return the limit of a file's size in memory or unpacked, in bytes: weights hardly compress."""
    return max(_LEAST_ALLOWED, _MOST_COMPRESSED * path.stat().st_size)


def _bomb(path: Path) -> WeightsError:
    return WeightsError(
        f"{path}: {path.stat().st_size} bytes expand to more than {_allowance(path)}, which weights never do: not read"
    )


def _reader(path: Path) -> Callable[[Path], Arrays]:
    """Return the reader of a file, chosen by its first bytes."""
    if path.with_name(f"{path.name}.index").is_file():
        return read_checkpoint
    if not path.is_file():
        raise WeightsError(f"{path}: no such file or folder, and no TensorFlow checkpoint with that prefix")
    with path.open("rb") as file:
        head = file.read(16)
    if head.startswith(b"\x89HDF\r\n\x1a\n"):
        return _read_keras
    if head[8:9] == b"{":
        return _read_safetensors
    if is_index(path):
        return _read_parts
    if path.suffix == ".pb" and head.startswith(b"\n"):
        return _read_frozen_graph
    if head.startswith((b"PK", b"\x80")) and (head.startswith(b"\x80") or zipfile.is_zipfile(path)):
        return _read_torch
    raise WeightsError(
        f"{path}: {other_content(path) or 'not a file with weights, or its beginning is damaged'}; expected "
        "safetensors, a PyTorch file, a Keras .h5, a frozen TensorFlow graph (.pb) or a TensorFlow checkpoint with its "
        ".index beside it"
    )


def read_checkpoint(prefix: str | Path) -> dict[str, np.ndarray]:
    """Return the variables of a TensorFlow checkpoint by their stored names: moving averages instead of raw values,
    without counters and optimizer slots.

    Raises:
        ImportError: if TensorFlow is not installed.
        WeightsError: if the checkpoint is damaged.
    """
    tf = import_tensorflow()
    try:
        reader = tf.train.load_checkpoint(str(prefix))
        stored = preferred(reader.get_variable_to_shape_map()).values()
        return {name: reader.get_tensor(name) for name in stored}
    except (tf.errors.OpError, ValueError, RuntimeError, LookupError) as error:
        raise _damaged(prefix, "checkpoint", error) from None


def _read_frozen_graph(path: Path) -> dict[str, np.ndarray]:
    """Return the constants of a frozen graph that were variables before (``freeze_graph`` keeps their names)."""
    tf = import_tensorflow()
    graph = tf.compat.v1.GraphDef()
    try:
        graph.ParseFromString(path.read_bytes())
        nodes = [node for node in graph.node if node.op == "Const" and node.name.rpartition("/")[2] in VARIABLES]
        return {node.name: tf.make_ndarray(node.attr["value"].tensor) for node in nodes}
    except Exception as error:  # protobuf's errors differ between its implementations
        raise _damaged(path, "graph", error) from None


def import_tensorflow() -> Any:
    """Import TensorFlow without its log lines about build and GPUs.

    Raises:
        ImportError: if it is not installed.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    try:
        with _silent():
            import tensorflow as tf
    except ImportError:
        raise ImportError(
            "reading TensorFlow's files requires TensorFlow: pip install 'nasnet-det[tensorflow]', or convert the file "
            "on a machine that has it (nasnet-det convert-weights)"
        ) from None
    return tf


@contextmanager
def _silent() -> Iterator[None]:
    """Silence standard error at the level of the process, where native code writes to it."""
    try:
        kept = os.dup(2)
    except OSError:  # closed already
        yield
        return
    with tempfile.TemporaryFile() as unread:
        os.dup2(unread.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)


def _read_keras(path: Path) -> dict[str, np.ndarray]:
    """Return a Keras file's weights as ``LAYER/WEIGHT``; each layer is a group with weights, perhaps under scopes."""
    import h5py

    arrays: dict[str, np.ndarray] = {}
    left = _allowance(path)
    with h5py.File(path, "r") as file:
        if _group(file, "layers") is not None and "layer_names" not in file.attrs:
            raise WeightsError(f"{path}: {KERAS_3}")
        root = _group(file, "model_weights") or file  # a file of a whole model has them one level deeper
        for layer in root:

            def visit(name: str, item: Any, layer: str = layer) -> None:
                nonlocal left
                if isinstance(item, h5py.Dataset):
                    left -= item.size * item.dtype.itemsize if item.size else 0
                    if left < 0 or item.external or item.is_virtual:  # values in other files
                        raise _bomb(path)
                    arrays[f"{layer}/{name.rsplit('/', 1)[-1]}"] = np.asarray(item[()])

            if (group := _group(root, layer)) is not None:
                group.visititems(visit)
    return arrays


def _group(parent: Any, name: str) -> Any:
    """Return a subgroup; None if it does not exist or is a link, which may lead outside the file or form a cycle."""
    import h5py

    if not isinstance(parent.get(name, getlink=True), h5py.HardLink):
        return None
    return parent[name] if isinstance(parent[name], h5py.Group) else None


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    from safetensors.torch import load_file

    return _as_arrays(find_state_dict(load_file(path)).tensors, path)


def _read_parts(path: Path) -> dict[str, np.ndarray]:
    try:
        return _as_arrays(find_state_dict(read_parts(path)).tensors, *parts_of(path))
    except ValueError as error:
        raise WeightsError(f"{path}: {error}") from None


def _read_torch(path: Path) -> dict[str, np.ndarray]:
    try:
        tensors = find_state_dict(load_torch(path)).tensors
    except (pickle.UnpicklingError, ValueError) as error:
        raise WeightsError(f"{path}: {error}") from None
    if others := [name for name, value in tensors.items() if not torch.is_tensor(value)]:
        kind = type(tensors[others[0]]).__name__
        raise WeightsError(
            f"{path}: not a state dict: {format_value(others[0])} is a {kind}, expected a tensor; nothing in it was "
            "executed: save model.state_dict()"
        )
    return _as_arrays(tensors, path)


def _as_arrays(tensors: Mapping[str, torch.Tensor], *paths: Path) -> dict[str, np.ndarray]:
    """Return numpy arrays; floating-point types that numpy lacks become float32."""
    if sum(tensor.nbytes for tensor in tensors.values()) > sum(map(_allowance, paths)):
        raise _bomb(paths[0])  # an expanded tensor has more elements than stored
    arrays = {}
    for name, tensor in tensors.items():
        converted = tensor.is_floating_point() and tensor.dtype not in _NUMPY_TYPES
        arrays[name] = (tensor.float() if converted else tensor).detach().numpy()
    return arrays


_NUMPY_TYPES = (torch.float16, torch.float32, torch.float64)


def _damaged(path: str | Path, what: str, error: BaseException) -> WeightsError:
    return WeightsError(f"{path}: the {what} is damaged or incomplete ({first_line(error)}): download or copy it again")
