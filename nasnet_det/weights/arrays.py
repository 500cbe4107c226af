"""From a file to named arrays: what kind of file it is is seen in its first bytes, not in its name.

Nothing is executed on the way: PyTorch files are read with ``weights_only=True``, and of an archive only regular files
with paths inside it are unpacked.
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

from nasnet_det.safe_io.checkpoints import find_state_dict, load_torch
from nasnet_det.safe_io.values import format_names, format_value
from nasnet_det.weights.formats.tf_slim import preferred
from nasnet_det.weights.layout import Arrays, WeightsError, one_line

#: What the readers of damaged or hostile files raise.
_MALFORMED = (
    *(OSError, EOFError, ValueError, TypeError, LookupError, AttributeError, RuntimeError, ArithmeticError),
    *(
        AssertionError,
        struct.error,
        zipfile.BadZipFile,
        MemoryError,
        tarfile.TarError,
        zlib.error,
        lzma.LZMAError,
        pickle.UnpicklingError,
        SafetensorError,
    ),
)
#: More than the published files need by far.
_MOST_MEMBERS, _MOST_COMPRESSED, _LEAST_ALLOWED, _LONGEST_HEADER = 10_000, 100, 256 << 20, 1 << 20
#: What may hold weights in a folder, in the order of preference; a checkpoint is named by its index.
_PATTERNS = ("*.safetensors", "*.index", "*.h5", "*.hdf5", "*.pth", "*.pt", "*.bin")


def read_arrays(path: str | Path) -> Arrays:
    """The tensors of a file by name.

    Args:
        path: a safetensors, ``.pth`` or Keras ``.h5`` file; a TensorFlow checkpoint's prefix or one of its files; a tar
            archive of any of them; or a folder with one of them.

    Raises:
        WeightsError: if there is no such file, it is none of these, it is damaged, or a folder holds several.
        ImportError: for a TensorFlow checkpoint, without TensorFlow.
    """
    with located(path) as found:
        try:
            arrays = _reader(found)(found)
        except WeightsError as error:
            words = str(error).replace(str(found), str(path))  # what a user gave, not where it was unpacked
            raise WeightsError(words if str(path) in words else f"{path}: {words}") from None
        except _MALFORMED as error:
            raise _damaged(path, "file", error) from None
    if not arrays:
        raise WeightsError(f"{path}: holds no tensor")
    return arrays


@contextmanager
def located(path: str | Path) -> Iterator[Path]:
    """The one file, or the checkpoint's prefix, that ``path`` means; an archive stays unpacked until the end.

    Raises:
        WeightsError: if there is none, or more than one.
    """
    path = Path(path)
    try:
        if path.is_dir():
            path = _in_folder(path)
    except OSError as error:  # a name that is too long, a folder that may not be looked into
        raise WeightsError(f"{format_names([path])}: cannot be read ({error.strerror})") from None
    if _is_tar(path):
        with tempfile.TemporaryDirectory(prefix="nasnet_det-") as folder:
            _unpack(path, Path(folder))
            yield _in_folder(Path(folder), path)
        return
    yield _checkpoint_prefix(path) or path


def _in_folder(folder: Path, named: Path | None = None) -> Path:
    """The file with weights in a folder (of what users call ``named``)."""
    for prefix, pattern in product(("", "**/"), _PATTERNS):  # what lies deeper counts only if nothing lies here
        found = sorted(folder.glob(prefix + pattern))
        if len(found) > 1:
            names = ", ".join(str(path.relative_to(folder)) for path in found)
            raise WeightsError(f"{named or folder}: holds several files of weights ({names}): name one")
        if found:
            return _checkpoint_prefix(found[0]) or found[0]
    raise WeightsError(f"{named or folder}: holds no file of weights ({', '.join(_PATTERNS)})")


def _checkpoint_prefix(path: Path) -> Path | None:
    """What TensorFlow calls a checkpoint by, from its prefix or one of its files; None for anything else."""
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
    """A member whose name and attributes are not read if they take megabytes: they are read into memory whole."""

    def _proc_member(self, archive: tarfile.TarFile) -> tarfile.TarInfo:
        described = self.type in (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK) or self.type in b"xgX"
        if described and self.size > _LONGEST_HEADER:
            raise tarfile.ReadError("a member's header is too long")
        return super()._proc_member(archive)  # type: ignore[misc]


def _unpack(archive: Path, folder: Path) -> None:
    """Unpack the regular files of a tar archive, refusing any path that leads out of it, and bombs."""
    left = _allowance(archive)
    try:
        with tarfile.open(archive, tarinfo=_Member) as tar:
            for number, member in enumerate(tar):
                inside = PurePosixPath(member.name)
                if inside.is_absolute() or ".." in inside.parts:
                    what = f"its member {format_value(member.name)} lies outside the archive"
                    raise WeightsError(f"{archive}: {what}: not unpacked")
                if number >= _MOST_MEMBERS:
                    raise WeightsError(f"{archive}: has more than {_MOST_MEMBERS} members: no archive of weights")
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
    """The bytes that a file may become in memory or unpacked: weights hardly compress."""
    return max(_LEAST_ALLOWED, _MOST_COMPRESSED * path.stat().st_size)


def _bomb(path: Path) -> WeightsError:
    return WeightsError(
        f"{path}: {path.stat().st_size} bytes would become more than {_allowance(path)}, which no weights do: not read"
    )


def _reader(path: Path) -> Callable[[Path], Arrays]:
    """What reads a file, by its first bytes."""
    if path.with_name(f"{path.name}.index").is_file():
        return read_checkpoint
    if not path.is_file():
        raise WeightsError(f"{path}: no such file or folder of weights, and no TensorFlow checkpoint of that name")
    with path.open("rb") as file:
        head = file.read(16)
    if head.startswith(b"\x89HDF\r\n\x1a\n"):
        return _read_keras
    if head[8:9] == b"{":
        return _read_safetensors
    if head.startswith((b"PK", b"\x80")) and (head.startswith(b"\x80") or zipfile.is_zipfile(path)):
        return _read_torch
    raise WeightsError(
        f"{path}: no file of weights, or its beginning is lost; expected safetensors, a PyTorch file, a Keras .h5, or "
        "a TensorFlow checkpoint with its .index beside it"
    )


def read_checkpoint(prefix: str | Path) -> dict[str, np.ndarray]:
    """The variables of a TensorFlow checkpoint that are worth reading: moving averages instead of the raw values beside
    them, and neither counters nor optimizer slots; by the names that they are stored under.

    Raises:
        ImportError: without TensorFlow.
        WeightsError: if the checkpoint is damaged.
    """
    tf = import_tensorflow()
    try:
        reader = tf.train.load_checkpoint(str(prefix))
        stored = preferred(reader.get_variable_to_shape_map()).values()
        return {name: reader.get_tensor(name) for name in stored}
    except (tf.errors.OpError, ValueError, RuntimeError, LookupError) as error:
        raise _damaged(prefix, "checkpoint", error) from None


def import_tensorflow() -> Any:
    """TensorFlow, without what it tells everyone of its build and of GPUs while it is imported.

    Raises:
        ImportError: if it is not installed.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    try:
        with _silent():
            import tensorflow as tf
    except ImportError:
        raise ImportError(
            "reading a TensorFlow checkpoint takes TensorFlow: pip install 'nasnet-det[tensorflow]', or convert the "
            "checkpoint on a machine that has it (nasnet-det convert)"
        ) from None
    return tf


@contextmanager
def _silent() -> Iterator[None]:
    """Without what native code writes to standard error: it does not ask Python's ``sys.stderr``."""
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
    """A Keras file's weights as ``LAYER/WEIGHT``: each layer has a group, in which its weights may lie under scopes."""
    import h5py

    arrays: dict[str, np.ndarray] = {}
    left = _allowance(path)
    with h5py.File(path, "r") as file:
        root = _group(file, "model_weights") or file  # a file of a whole model keeps them one level deeper
        for layer in root:

            def visit(name: str, item: Any, layer: str = layer) -> None:
                nonlocal left
                if isinstance(item, h5py.Dataset):
                    left -= item.size * item.dtype.itemsize if item.size else 0
                    if left < 0 or item.external or item.is_virtual:  # their values would lie in other files
                        raise _bomb(path)
                    arrays[f"{layer}/{name.rsplit('/', 1)[-1]}"] = np.asarray(item[()])

            if (group := _group(root, layer)) is not None:
                group.visititems(visit)
    return arrays


def _group(parent: Any, name: str) -> Any:
    """A group inside another; None where there is none, or a link that may lead out of the file, or round in it."""
    import h5py

    if not isinstance(parent.get(name, getlink=True), h5py.HardLink):
        return None
    return parent[name] if isinstance(parent[name], h5py.Group) else None


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    from safetensors.torch import load_file

    return _as_arrays(load_file(path), path)


def _read_torch(path: Path) -> dict[str, np.ndarray]:
    if zipfile.is_zipfile(path) and "model.weights.h5" in zipfile.ZipFile(path).namelist():
        raise WeightsError(f"{path}: {_KERAS_3}")
    try:
        tensors = find_state_dict(load_torch(path)).tensors
    except pickle.UnpicklingError:
        raise WeightsError(
            f"{path}: is not whole, or needs code to be loaded; nothing in it was executed: save model.state_dict()"
        ) from None
    except ValueError as error:
        raise WeightsError(f"{path}: {error}") from None
    if others := [name for name, value in tensors.items() if not torch.is_tensor(value)]:
        kind = type(tensors[others[0]]).__name__
        raise WeightsError(
            f"{path}: not a state dict: {format_value(others[0])} is a {kind}, expected a tensor; nothing in it was "
            "executed: save model.state_dict()"
        )
    return _as_arrays(tensors, path)


def _as_arrays(tensors: Mapping[str, torch.Tensor], path: Path) -> dict[str, np.ndarray]:
    """As numpy arrays; the floating-point types that numpy has not become float32."""
    if sum(tensor.nbytes for tensor in tensors.values()) > _allowance(path):
        raise _bomb(path)  # a tensor may stand for many with one and the same content
    arrays = {}
    for name, tensor in tensors.items():
        strange = tensor.is_floating_point() and tensor.dtype not in _NUMPY_TYPES
        arrays[name] = (tensor.float() if strange else tensor).detach().numpy()
    return arrays


#: Keras 3 numbers the layers of its own formats in order of creation, so that their places in a network are not known.
_KERAS_3 = (
    "is in Keras 3's format, whose layers have no names: load it with Keras and save it by model.save('model.h5'), "
    "which nasnet-det reads"
)
_NUMPY_TYPES = (torch.float16, torch.float32, torch.float64)


def _damaged(path: str | Path, what: str, error: BaseException) -> WeightsError:
    return WeightsError(f"{path}: the {what} is damaged or not whole ({one_line(error)}): get it again")
