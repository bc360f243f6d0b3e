"""Metadata of a GGUF file as typed values, with the bytes that each takes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from edgelib.errors import EdgelibError
from edgelib.ground import paths

_WIDTH = {"u32": 4, "i32": 4, "f32": 4, "bool": 1}
ALIGNMENT = 32  # of every tensor's data


class Value(NamedTuple):
    """One value of the metadata: kind "u32", "f32", "bool", "str", or "i32s", "f32s", "strs" for lists of them."""

    kind: str
    value: Any


def require_gguf():
    """Return the package `gguf`; raises EdgelibError saying how to install it."""
    try:
        import gguf
    except ImportError:
        raise EdgelibError(
            "GGUF files need the package gguf, which is not installed: pip install 'edgelib[gguf]', in a checkout "
            "pip install -e '.[gguf]'"
        ) from None
    return gguf


@contextmanager
def whole_file(path: Path, architecture: str, metadata: Mapping[str, Value]) -> Iterator[Any]:
    """Open a `GGUFWriter` for the tensors of a file that is there whole or not at all when the block ends.

    Raises EdgelibError for a file that cannot be written, and without the package gguf.
    """
    gguf = require_gguf()
    try:
        with paths.whole_file(path) as place:
            writer = gguf.GGUFWriter(place, architecture)
            add_all(writer, metadata)
            yield writer
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_tensors_to_file()
            writer.close()
    except OSError as error:
        raise EdgelibError(
            f"{path.name!r} cannot be written ({error.strerror or error}); choose another place"
        ) from None


def value_bytes(value: Value) -> int:
    """Return the bytes of a value, without its key and type."""
    if value.kind == "str":
        return 8 + len(str(value.value).encode())
    if value.kind.endswith("s"):
        items: Sequence = value.value
        inner = value.kind[:-1]
        each = [8 + len(item.encode()) for item in items] if inner == "str" else [_WIDTH[inner]] * len(items)
        return 4 + 8 + sum(each)
    return _WIDTH[value.kind]


def header_bytes(metadata: Mapping[str, Value], tensors: Sequence[tuple[str, tuple[int, ...]]]) -> int:
    """Return the bytes before the first tensor: version, metadata, and a line [name, shape, type, offset] a tensor."""
    size = 4 + 4 + 8 + 8
    size += sum(8 + len(key.encode()) + 4 + value_bytes(value) for key, value in metadata.items())
    size += sum(8 + len(name.encode()) + 4 + 8 * len(shape) + 4 + 8 for name, shape in tensors)
    return padded(size)


def padded(size: int) -> int:
    """Return a size rounded up to the alignment of tensors."""
    return -(-size // ALIGNMENT) * ALIGNMENT


def add_all(writer, metadata: Mapping[str, Value]) -> None:
    """Hand the metadata to a `GGUFWriter`, which knows the architecture already."""
    types = require_gguf().GGUFValueType
    single = {"u32": types.UINT32, "i32": types.INT32, "f32": types.FLOAT32, "bool": types.BOOL, "str": types.STRING}
    for key, (kind, value) in metadata.items():
        if key == "general.architecture":
            continue
        if kind in single:
            writer.add_key_value(key, value, single[kind])
        else:
            writer.add_key_value(key, list(value), types.ARRAY, single[kind[:-1]])
