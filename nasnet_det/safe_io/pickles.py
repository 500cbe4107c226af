"""Pickles from outside, read as data: they yield arrays and plain values, and nothing in them is executed."""

from __future__ import annotations

import codecs
import io
import pickle
import pickletools
from collections import OrderedDict
from typing import Any

import numpy as np

#: What arrays and plain values are made by.
MADE: dict[tuple[str, str], Any] = {
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
        if (module, name) in MADE:
            return MADE[module, name]
        raise pickle.UnpicklingError(
            f"it refers to {f'{module}.{name}':.100}, which is not data; nothing in it was executed"
        )


def from_pickle(content: bytes, encoding: str) -> Any:
    """Return the content of a pickle: numpy arrays and values of built-in types.

    Args:
        content: the pickle.
        encoding: the encoding of strings written by Python 2; ``bytes`` leaves them undecoded.

    Raises:
        pickle.UnpicklingError: if it refers to anything else.
        Exception: almost any other, if it is damaged or not a pickle.
    """
    for number, (opcode, argument, _) in enumerate(pickletools.genops(content)):
        # Python allocates a table up to the largest memo index, which damage may put in the billions.
        if opcode.name.endswith("PUT") and isinstance(argument, int) and argument > number:
            raise pickle.UnpicklingError(f"its memo index {argument} is larger than its number of values {number}")
    return _Unpickler(io.BytesIO(content), encoding=encoding).load()
