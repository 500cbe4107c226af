"""Kinds of files that a reader does not take, told by their first bytes, the members of an archive, or their ending."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path

#: Keras 3 numbers the layers of its own formats in order of creation, so their positions in a network are unknown.
KERAS_3 = (
    "it is in Keras 3's format, whose layers have no names: load it with Keras and save it by model.save('model.h5'), "
    "which nasnet-det reads"
)
_UNPACK = "an archive: unpack it"
#: What files begin with, as regular expressions.
_BEGINNINGS = {
    rb"\s*(?i:<!doctype html|<html)": "a web page: download the file again",
    rb"\s*(?i:version https://git-lfs)": "a pointer of Git LFS, not the file itself: run git lfs pull",
    rb"\x1f\x8b": "packed by gzip: unpack it",
    rb"BZh|\xfd7zXZ|\(\xb5/\xfd|7z\xbc\xaf|Rar!|(?s:.{257}ustar)": _UNPACK,
    rb"(?s:.{4})ftyp(he|mif1|msf1)": "in HEIC format: convert it to JPEG",
    rb"(II|MM)(\*\0|\0\*|\+\0|\0\+)": (
        "TIFF that is cut off, or of channels or numbers that Pillow does not read: save it as 8-bit RGB"
    ),
    rb"\x89HDF": "HDF5, as Keras and MATLAB write it",
    rb"(?s:.{4})TFL3": "a model of TensorFlow Lite",
    rb"\s*<\?xml[^<]*<net |<net ": "a model of OpenVINO",
    rb"GGUF": "a model in GGUF",
    rb"ftrt": "an engine of TensorRT",
    rb"7767517": "a model of ncnn",
    rb"\x93NUMPY": "an array of NumPy",
    rb"MATLAB": "a file of MATLAB",
    rb"SQLite format 3": "a database of SQLite",
    rb"%PDF": "a PDF document",
}
#: What members of ZIP archives end with.
_MEMBERS = {
    "archive_format": "a program that was exported by PyTorch, such as a package of nasnet-det",
    "/constants.pkl": "a program in TorchScript: save model.state_dict() of the model before it was scripted",
    "/data.pkl": "",  # a file of torch.save
    ".npy": "arrays of NumPy",
    "[Content_Types].xml": "an office document",
    "": _UNPACK,
}
#: Formats of models that do not tell themselves.
_ENDINGS = {
    (".onnx",): "a model in ONNX",
    (".pb", ".meta", ".index"): "of TensorFlow",
    (".pdparams", ".pdopt", ".pdmodel", ".pdiparams"): "of PaddlePaddle",
    (".caffemodel", ".prototxt"): "of Caffe",
    (".params",): "of MXNet",
    (".weights",): "of Darknet",
    (".engine", ".plan", ".trt"): "an engine of TensorRT",
    (".mlmodel",): "a model of Core ML",
    (".msgpack",): "of Flax",
    (".rknn", ".mnn", ".om", ".dlc", ".hef"): "a model compiled for a device",
}


def other_content(path: str | Path) -> str:
    """Return what a file is, if it is one of those that are often there in place of another; else an empty text.

    They are empty files, pointers of Git LFS, packed files, archives, also cut-off ones, the web pages that a download
    without access leaves, photographs of telephones, TIFF of microscopes and satellites, and models of other libraries.
    """
    try:
        with Path(path).open("rb") as file:
            head = file.read(300)
    except (OSError, ValueError):
        return ""
    if not head.lstrip(b"\xef\xbb\xbf \r\n\t"):
        return "it is empty"
    if head.startswith(b"PK\x03\x04"):
        return _archive(path)
    content = head.removeprefix(b"\xef\xbb\xbf")
    found = next((kind for beginning, kind in _BEGINNINGS.items() if re.match(beginning, content)), "")
    suffix = Path(path).suffix.lower() if ".data-" not in Path(path).name else ".index"
    found = found or next((kind for endings, kind in _ENDINGS.items() if suffix in endings), "")
    return found and f"it is {found}"


def is_text(path: str | Path) -> bool:
    """Return whether a file begins with readable text; False if it cannot be read."""
    try:
        with Path(path).open("rb") as file:
            return re.fullmatch(rb"[\t\r\n -~\x80-\xff]+", file.read(300)) is not None
    except (OSError, ValueError):
        return False


def _archive(path: str | Path) -> str:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except Exception:  # zipfile's for damaged archives are of many classes
        return "it is cut off: copy or download it again"
    if "model.weights.h5" in names:
        return KERAS_3
    kind = next(kind for end, kind in _MEMBERS.items() if any(name.endswith(end) for name in names) or not end)
    return kind and f"it is {kind}"
