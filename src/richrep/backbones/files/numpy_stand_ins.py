"""What numpy's arrays, scalars and types in a pickle are made with: plain values only, whatever the file states.

numpy's own functions trust the state of a pickled dtype, and wrong states corrupt memory; these build every type anew
from its short text, such as "f8".
"""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np

_PLAIN = re.compile(r"[biufcSUO?]\d*")  # booleans, numbers, texts; O: a list of whatever else the unpickler made


def is_plain(text: object) -> bool:
    """Whether `text` names a type of plain values."""
    return isinstance(text, str) and _PLAIN.fullmatch(text) is not None


class PlainDtype:
    """`numpy.dtype` in a pickle."""

    def __init__(self, text: str, *_flags: object) -> None:
        if not is_plain(text):
            raise ValueError(f"numpy type {text!r}")
        self.dtype = np.dtype(text)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        """Only the byte order counts, the second entry."""
        self.dtype = self.dtype.newbyteorder(state[1])


class PlainArray(np.ndarray[Any, Any]):
    """`numpy.ndarray` in a pickle: empty until its state arrives."""

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        """Shape, type, order and values; raises unless there are as many values as the shape says."""
        shape, plain, is_fortran, values = state[-4:]
        values = _as_bytes(values)
        wanted = math.prod(shape) * (1 if plain.dtype.hasobject else plain.dtype.itemsize)
        if min(shape, default=0) < 0 or len(values) != wanted:
            raise ValueError(f"numpy array of shape {shape} with {len(values)} bytes")
        checked: Any = (1, shape, plain.dtype, bool(is_fortran), values)  # 1: the version of this layout
        super().__setstate__(checked)


def make_array(*_arguments: object) -> PlainArray:
    """An empty array, for the state that follows."""
    return PlainArray((0,))


def make_scalar(plain: PlainDtype, value: str | bytes) -> object:
    """One number, boolean or text."""
    if plain.dtype.hasobject:
        raise ValueError("numpy scalar of a Python object")
    return np.frombuffer(_as_bytes(value), plain.dtype, count=1)[0]


def _as_bytes(values: Any) -> Any:
    return values.encode("latin1") if isinstance(values, str) else values  # texts in files from Python 2
