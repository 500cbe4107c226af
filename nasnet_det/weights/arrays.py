"""From a file to named arrays: what kind of file it is is seen in its first bytes, not in its name.

Nothing is executed on the way: PyTorch files are read with ``weights_only=True``, and of an archive only regular files
with paths inside it are unpacked.
"""

from __future__ import annotations

import os
import pickle
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import product
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch

from nasnet_det.weights.layout import Arrays, WeightsError, one_line
from nasnet_det.weights.tf_slim import preferred

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
        except (OSError, ValueError, RuntimeError, KeyError, EOFError) as error:
            if isinstance(error, WeightsError):
                raise
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
    if path.is_dir():
        path = _in_folder(path)
    if path.is_file() and tarfile.is_tarfile(path):
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


def _unpack(archive: Path, folder: Path) -> None:
    """Unpack the regular files of a tar archive, refusing any path that leads out of it."""
    try:
        with tarfile.open(archive) as tar:
            for member in tar:
                inside = PurePosixPath(member.name)
                if inside.is_absolute() or ".." in inside.parts:
                    raise WeightsError(f"{archive}: its member {member.name!r} lies outside the archive: not unpacked")
                content = tar.extractfile(member) if member.isfile() else None
                if content is None:
                    continue
                target = folder / inside
                target.parent.mkdir(parents=True, exist_ok=True)
                with target.open("wb") as file:
                    while block := content.read(1 << 20):
                        file.write(block)
    except (tarfile.TarError, EOFError, OSError) as error:
        raise _damaged(archive, "archive", error) from None


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
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    try:
        import tensorflow as tf
    except ImportError:
        raise ImportError(
            "reading a TensorFlow checkpoint takes TensorFlow: pip install 'nasnet-det[tensorflow]', or convert the "
            "checkpoint on a machine that has it (nasnet-det convert)"
        ) from None
    try:
        reader = tf.train.load_checkpoint(str(prefix))
        stored = preferred(reader.get_variable_to_shape_map()).values()
        return {name: reader.get_tensor(name) for name in stored}
    except (tf.errors.OpError, ValueError, RuntimeError, LookupError) as error:
        raise _damaged(prefix, "checkpoint", error) from None


def _read_keras(path: Path) -> dict[str, np.ndarray]:
    """A Keras file's weights as ``LAYER/WEIGHT``: each layer has a group, in which its weights may lie under scopes."""
    import h5py

    arrays: dict[str, np.ndarray] = {}
    with h5py.File(path, "r") as file:
        root = file.get("model_weights", file)  # a file of a whole model keeps them one level deeper
        for layer, group in root.items():

            def visit(name: str, item: Any, layer: str = layer) -> None:
                if isinstance(item, h5py.Dataset):
                    arrays[f"{layer}/{name.rsplit('/', 1)[-1]}"] = item[()]

            if isinstance(group, h5py.Group):
                group.visititems(visit)
    return arrays


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return _as_arrays(load_file(path))
    except SafetensorError as error:
        raise ValueError(one_line(error)) from None


def _read_torch(path: Path) -> dict[str, np.ndarray]:
    try:
        data = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise WeightsError(
            f"{path}: is not whole, or holds other things than names and tensors; nothing in it was executed"
        ) from None
    if isinstance(data, Mapping) and isinstance(data.get("state_dict"), Mapping):
        data = data["state_dict"]
    if not isinstance(data, Mapping) or not all(torch.is_tensor(value) for value in data.values()):
        raise WeightsError(f"{path}: a PyTorch file, but not a state dict: expected names and tensors")
    return _as_arrays(data)


def _as_arrays(tensors: Mapping[str, torch.Tensor]) -> dict[str, np.ndarray]:
    """As numpy arrays; bfloat16, which numpy has not, becomes float32."""
    return {name: (t.float() if t.dtype == torch.bfloat16 else t).detach().numpy() for name, t in tensors.items()}


def _damaged(path: str | Path, what: str, error: BaseException) -> WeightsError:
    return WeightsError(f"{path}: the {what} is damaged or not whole ({one_line(error)}): get it again")
