"""Pickles that others have written, read as data: arrays and plain values come out, nothing in them is executed."""

from __future__ import annotations

import codecs
import io
import pickle
import pickletools
from collections import OrderedDict
from typing import Any

import numpy as np

_MADE: dict[tuple[str, str], Any] = {
    **{(f"numpy.{core}.multiarray", "_reconstruct"): np.zeros(0).__reduce__()[0] for core in ("core", "_core")},
    **{(f"numpy.{core}.multiarray", "scalar"): np.float32(0).__reduce__()[0] for core in ("core", "_core")},
    **{(f"numpy.{core}.numeric", "_frombuffer"): np.zeros(1).__reduce_ex__(5)[0] for core in ("core", "_core")},
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("collections", "OrderedDict"): OrderedDict,
    ("_codecs", "encode"): codecs.encode,  # bytes, as protocol 2 writes them
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _MADE:
            return _MADE[module, name]
        raise pickle.UnpicklingError(
            f"it wants {f'{module}.{name}':.100}, which no data needs; nothing in it was executed"
        )


def from_pickle(content: bytes, encoding: str) -> Any:
    """What a pickle holds: numpy arrays, and what needs no import, such as numbers, texts, lists and dictionaries.

    Args:
        content: the pickle.
        encoding: of texts that Python 2 wrote; ``bytes`` leaves them as they are.

    Raises:
        pickle.UnpicklingError: if it wants anything else.
        Exception: almost any other, if it is damaged or no pickle.
    """
    for number, (opcode, argument, _) in enumerate(pickletools.genops(content)):
        # Python makes a table as long as the largest place says, which damage may put in the billions.
        if opcode.name.endswith("PUT") and isinstance(argument, int) and argument > number:
            raise pickle.UnpicklingError(f"it keeps value {number} at place {argument}")
    return _Unpickler(io.BytesIO(content), encoding=encoding).load()
