"""Importance of inputs as llama.cpp keeps it (an imatrix): read from its files, and written for its tools."""

from __future__ import annotations

import os
import struct
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from edgelib.errors import EdgelibError
from edgelib.files.gguf.values import Value, require_gguf, whole_file
from edgelib.models.gguf.names import entries
from edgelib.models.gguf.reader import GGUFFile
from edgelib.observe.calibrate import module_of

_SUMS, _COUNTS = ".in_sum2", ".counts"
_MOST = 1 << 20  # of anything that an old file counts


def load_imatrix(model, file: str | os.PathLike) -> dict[str, Tensor]:
    """Return {name of a Linear: mean x^2 [in]} of an imatrix file of llama.cpp, in its GGUF or its old binary form.

    model: that the file is for; what it has of other tensors is left out. `save_gguf(..., importance=...)` takes it.
    Raises EdgelibError for a file that is damaged or holds nothing of the model, and values that are of the wrong
    length, NaN, infinite, below 0 or all 0 (naming the tensor).
    """
    path = Path(os.path.expanduser(file))
    if not path.is_file():
        raise EdgelibError(f"there is no file {path.name!r}; pass the path of an imatrix")
    raw = _from_gguf(path) if path.read_bytes()[:4] == b"GGUF" else _from_binary(path)
    module = module_of(model)
    found = {entry.name: entry.layer for entry in entries(module) if entry.name.endswith(".weight")}
    made = {}
    for name, values in raw.items():
        if name in found:
            made[found[name]] = _checked(path, name, values, module.get_submodule(found[name]))
    if not made:
        raise EdgelibError(f"{path.name!r} holds importance of no tensor of this model, but of {_some(raw)}")
    return made


def save_imatrix(model, importance, file: str | os.PathLike, *, chunks: int = 1) -> Path:
    """Write importance as an imatrix in llama.cpp's GGUF form, for `llama-quantize --imatrix`; return its path.

    importance: {name of a Linear: mean x^2 [in]} or the `Statistics` of a calibration. chunks: of text that it is of.
    Only the decoder's blocks are written, as there. Raises EdgelibError where nothing of the model is in it.
    """
    require_gguf()
    path = Path(os.path.abspath(os.path.expanduser(file)))
    layers = getattr(importance, "layers", None)
    weights = importance if layers is None else {name: seen.square_mean for name, seen in layers.items()}
    module = module_of(model)
    found = {e.layer: e.name for e in entries(module) if e.name.startswith("blk.") and e.name.endswith(".weight")}
    kept = {found[name]: values for name, values in weights.items() if name in found}
    if not kept:
        raise EdgelibError(f"this importance is of no block of the model, but of {_some(weights)}")
    metadata = {"general.type": Value("str", "imatrix"), "imatrix.datasets": Value("strs", ["calibration"])}
    metadata |= {"imatrix.chunk_count": Value("u32", chunks), "imatrix.chunk_size": Value("u32", 512)}
    with whole_file(path, "imatrix", metadata) as writer:
        for name, values in sorted(kept.items()):
            writer.add_tensor(name + _SUMS, values.detach().float().cpu().numpy().reshape(1, -1))
            writer.add_tensor(name + _COUNTS, np.ones((1, 1), np.float32))
    return path


def _from_gguf(path: Path) -> dict[str, Tensor]:
    opened, made = GGUFFile(path), {}
    for name in opened.types:
        if name.endswith(_SUMS):
            counts = name.removesuffix(_SUMS) + _COUNTS
            if counts not in opened.types:
                raise EdgelibError(f"{path.name!r} counts nothing for {name!r}; it is damaged")
            made[name.removesuffix(_SUMS)] = (opened.decoded(name) / opened.decoded(counts).clamp(min=1)).flatten()
    return made


def _from_binary(path: Path) -> dict[str, Tensor]:
    """int32 entries; each int32 length, name, int32 calls, int32 values, float32 sums of the mean x^2 of a call."""
    data, at, made = path.read_bytes(), 0, {}

    def number() -> int:
        nonlocal at
        (n,) = struct.unpack_from("<i", data, at)
        at += 4
        if not 0 <= n <= _MOST:
            raise ValueError(f"{n} where a count stands")
        return n

    try:
        for _ in range(number()):
            length = number()
            name = data[at : at + length].decode()
            at += length
            calls, count = number(), number()
            values = np.frombuffer(data, "<f4", count, at)
            at += 4 * count
            made[name] = torch.from_numpy(values.copy()) / max(calls, 1)
    except (ValueError, struct.error, UnicodeDecodeError) as error:
        raise EdgelibError(f"{path.name!r} is no imatrix, or cut short ({error}); make it again") from None
    return made


def _checked(path: Path, name: str, values: Tensor, layer) -> Tensor:
    width = layer.weight.shape[1]
    if len(values) != width:
        raise EdgelibError(
            f"{path.name!r} has {len(values)} values for {name!r}, whose rows have {width}: another model's"
        )
    if not torch.isfinite(values).all() or (values < 0).any():
        raise EdgelibError(f"{path.name!r} has NaN, infinite or negative values for {name!r}; make it again")
    if not values.any():
        raise EdgelibError(
            f"{path.name!r} is 0 throughout for {name!r}: its text never reached that layer; make it again from more"
        )
    return values


def _some(names: Mapping) -> str:
    first = sorted(names)[:3]
    return ", ".join(first) + (f" and {len(names) - 3} more" if len(names) > 3 else "") if first else "nothing"
