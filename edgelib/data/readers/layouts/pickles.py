"""Reads the pickles of CIFAR without running anything that they name.

A pickle is a program that may call any function of any module. Here it may name five things, those of which numpy's
arrays of plain numbers are made, and even they are not handed out: stand-ins of this file take their places, which only
note what they are called with. Whatever else a file names is refused before it is called.
"""

from __future__ import annotations

import math
import pickle
from pathlib import Path
from typing import Any

import numpy as np

from edgelib.errors import EdgelibError

# Where numpy keeps what it writes; the second name of a module is that of numpy 2.
_MEANT = {
    ("numpy.core.multiarray", "_reconstruct"): "array",
    ("numpy._core.multiarray", "_reconstruct"): "array",
    ("numpy", "ndarray"): "class",
    ("numpy", "dtype"): "dtype",
    ("_codecs", "encode"): "bytes",
}
_PLAIN = ("u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "b1")


class _Named:
    """What stands for a name in a pickle; calling it makes the note of an array, of a dtype, or bytes."""

    __slots__ = ("kind",)

    def __init__(self, kind: str):
        self.kind = kind

    def __call__(self, *given: Any) -> Any:
        if self.kind == "bytes" and len(given) == 2 and isinstance(given[0], str) and given[1] == "latin1":
            return given[0].encode("latin1")
        if self.kind == "dtype" and given and _text(given[0]) in _PLAIN:
            return _Dtype(_text(given[0]))
        if self.kind == "array":
            return _Array()
        raise pickle.UnpicklingError(f"it makes a {self.kind} of {str(given)[:60]}")

    def __setstate__(self, state: Any) -> None:
        raise pickle.UnpicklingError("it changes what it names")


class _Dtype:
    """The type of an array's numbers: its kind and size, and its byte order as the pickle's state tells."""

    __slots__ = ("code",)

    def __init__(self, code: str):
        self.code = code

    def __setstate__(self, state: Any) -> None:
        order = _text(state[1]) if isinstance(state, tuple) and len(state) > 1 else ""
        if order not in ("<", ">", "|", "="):
            raise pickle.UnpicklingError("it holds a type of numbers that is not plain")
        self.code = ("" if order == "|" else order) + self.code


class _Array:
    """An array of plain numbers, made from its shape and its bytes."""

    __slots__ = ("values",)

    def __setstate__(self, state: Any) -> None:
        if not isinstance(state, tuple) or len(state) != 5:
            raise pickle.UnpicklingError("it holds an array in no form that numpy writes")
        _, shape, dtype, by_column, data = state
        if isinstance(data, str):
            data = data.encode("latin1")
        whole = isinstance(shape, tuple) and all(type(n) is int and n >= 0 for n in shape)
        if not (whole and isinstance(dtype, _Dtype) and isinstance(data, bytes)):
            raise pickle.UnpicklingError("it holds an array that is not of plain numbers")
        kind = np.dtype(dtype.code)
        if math.prod(shape) * kind.itemsize != len(data):
            raise pickle.UnpicklingError("it holds an array whose bytes do not fill its shape")
        self.values = np.frombuffer(data, kind).reshape(shape, order="F" if by_column else "C")


class _Reader(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        kind = _MEANT.get((module, name))
        if kind is None:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which is no part of an array")
        return _Named(kind)


def read_pickle(file: Path) -> dict[str, Any]:
    """Return the dict that a pickle holds, keys as texts: arrays of plain numbers, lists, texts, numbers.

    Texts of Python 2 come as bytes. Raises EdgelibError for a pickle that names anything but the parts of such arrays,
    none of which is called, and for a file that is cut off or no pickle.
    """
    try:
        with file.open("rb") as stream:
            held = _Reader(stream, encoding="bytes").load()
    except Exception as error:  # a broken pickle raises nearly any type
        reason = " ".join(str(error).split()) or type(error).__name__
        raise EdgelibError(
            f"{file.name} is refused: {reason[:200]}. Pickles can run code, so only dicts, lists, texts, numbers and "
            "arrays of plain numbers are read; download the official file again, or save images, labels and "
            "class_names as .npz"
        ) from None
    if not isinstance(held, dict):
        raise EdgelibError(f"{file.name} holds a {type(held).__name__}, expected the dict of a CIFAR file")
    return {_text(key): value.values if isinstance(value, _Array) else value for key, value in held.items()}


def _text(value: Any) -> str:
    return value.decode("latin1") if isinstance(value, bytes) else str(value)
