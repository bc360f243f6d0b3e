"""Rows to the bytes of GGUF blocks and back: `gguf_encode` and `gguf_decode`, with their checks."""

from __future__ import annotations

import torch
from torch import Tensor

from edgelib.errors import EdgelibError, choose
from edgelib.formats.gguf import iq4, kquants, legacy
from edgelib.formats.gguf.kind import Kind
from edgelib.formats.gguf.layout import row_mean_square

KINDS: dict[str, Kind] = {kind.name: kind for file in (legacy, kquants, iq4) for kind in file.KINDS}
_CHUNK = 1 << 18  # values encoded at a time: what a core's cache holds


def gguf_encode(x: Tensor, type: str, importance: Tensor | None = None) -> Tensor:
    """Return the bytes uint8 [rows, columns / block * bytes of a block] of x [rows, columns] in a GGUF type.

    type: q4_0, q4_1, q5_0, q5_1, q8_0, q2_k, q3_k, q4_k, q5_k, q6_k, iq4_nl or iq4_xs. importance [columns]: the mean
    of x^2 of each input, an "imatrix" of llama.cpp; only its ratios matter. None: the type's own weighting, which for
    most types is another search as well. q8_0 takes no notice of it.
    x is read in float32. The bytes are those of llama.cpp's reference encoders (ggml-quants.c) wherever float32 sums
    run from the first value to the last without fused multiply-add; see `edgelib.formats.gguf.search`. A group in
    which every importance is 0 is encoded as there: as zeros, but by the plain range in q4_1 and q5_1. A block whose
    scale is below all half-precision numbers decodes to zeros, whatever its codes; those may be others than there.
    Raises EdgelibError for an unknown type, an x that is not a floating [rows, columns], is empty or holds NaN or inf,
    columns that the block does not divide, an importance that is not one finite number of at least 0 per column and
    above 0 somewhere, and values too large for a half-precision scale.
    """
    kind = choose(KINDS, type, "GGUF type")
    x = _values(x, kind)
    if importance is not None:
        importance = _checked(importance, x.shape[1]).to(x)
    weighs_rows = importance is not None and isinstance(kind, legacy.Legacy)
    power = row_mean_square(x) if weighs_rows else x.new_zeros(len(x))
    at_a_time = max(1, _CHUNK // x.shape[1])
    chunks = zip(x.split(at_a_time), power.split(at_a_time), strict=True)
    return torch.cat([_encoded(rows, kind, importance, share) for rows, share in chunks])


def _encoded(x: Tensor, kind: Kind, importance: Tensor | None, power: Tensor) -> Tensor:
    """Return the bytes of a few rows."""
    count = x.shape[1] // kind.block
    blocks = x.reshape(-1, kind.block)
    weights = None if importance is None else importance.view(count, -1).repeat(len(x), 1)
    packed = kind.packed(blocks, weights, power.repeat_interleave(count))
    return packed.view(len(x), -1)


def gguf_decode(blocks: Tensor, type: str, columns: int) -> Tensor:
    """Return the values float32 [rows, columns] of the bytes uint8 [rows, bytes] that `gguf_encode` made.

    They are exactly what llama.cpp dequantizes a tensor of this type to.
    Raises EdgelibError for an unknown type, columns that its block does not divide, and bytes of another dtype or shape
    than so many columns take.
    """
    kind = choose(KINDS, type, "GGUF type")
    check_columns(kind, columns)
    width = columns // kind.block * kind.bytes
    if not isinstance(blocks, Tensor) or blocks.dtype != torch.uint8:
        what = f"a tensor of {blocks.dtype}" if isinstance(blocks, Tensor) else blocks.__class__.__name__
        raise EdgelibError(f"blocks are a torch tensor of uint8, got {what}; pass what gguf_encode returned")
    if blocks.dim() != 2 or blocks.shape[1] != width:
        raise EdgelibError(
            f"{columns} columns of {kind.name} take {kind.bytes} bytes for every {kind.block}, so blocks are "
            f"[rows, {width}], got {list(blocks.shape)}; check the type and the columns"
        )
    if not len(blocks):
        return torch.empty(0, columns, device=blocks.device)
    rows = blocks.split(max(1, _CHUNK // columns))
    return torch.cat([kind.unpacked(some.reshape(-1, kind.bytes)).view(len(some), columns) for some in rows])


def check_columns(kind: Kind, columns: int) -> None:
    """Raise EdgelibError unless rows of so many columns can be held; say what llama.cpp takes instead."""
    if isinstance(columns, bool) or not isinstance(columns, int) or columns < 1:
        raise EdgelibError(f"columns are a positive whole number, got {columns!r}")
    if columns % kind.block:
        raise EdgelibError(
            f"{kind.name} holds rows in blocks of {kind.block}, which do not divide {columns} columns; "
            f"llama.cpp stores such a tensor as {fallback(kind, columns)}"
        )


def fallback(kind: Kind, columns: int) -> str:
    """Return the type that llama.cpp stores a tensor in whose rows of so many columns `kind` cannot hold.

    >>> fallback(KINDS["q4_k"], 576), fallback(KINDS["q4_k"], 4304)
    ('q5_0', 'f16')
    """
    other = kind.fallback
    return other if other and columns % KINDS[other].block == 0 else "f16"


def _values(x: Tensor, kind: Kind) -> Tensor:
    """Return x in float32, checked."""
    if not isinstance(x, Tensor):
        raise EdgelibError(f"only torch tensors can be encoded, got {x.__class__.__name__}; pass torch.as_tensor(x)")
    if not x.is_floating_point():
        raise EdgelibError(f"only floating tensors can be encoded, got {x.dtype}; convert with .float() first")
    if x.dim() != 2 or not x.numel():
        raise EdgelibError(f"{kind.name} encodes a weight [rows, columns] that is not empty, got {list(x.shape)}")
    check_columns(kind, x.shape[1])
    x = x.detach().float()
    if not torch.isfinite(x).all():
        raise EdgelibError("cannot quantize a tensor that holds NaN or inf; find the operation that made it")
    return x


def _checked(importance: Tensor, columns: int) -> Tensor:
    if not isinstance(importance, Tensor) or importance.dim() != 1 or len(importance) != columns:
        got = list(importance.shape) if isinstance(importance, Tensor) else importance.__class__.__name__
        raise EdgelibError(f"importance is a tensor [columns] of the mean x^2 per input, here [{columns}], got {got}")
    values = importance.detach().float()
    if not torch.isfinite(values).all():
        where = int((~torch.isfinite(values)).nonzero()[0])
        raise EdgelibError(f"importance of column {where} is {float(values[where])}; find the input that made it")
    if (values < 0).any():
        where = int((values < 0).nonzero()[0])
        raise EdgelibError(f"importance of column {where} is {float(values[where]):.3g}; a mean of x^2 is at least 0")
    if not values.any():
        raise EdgelibError(
            "importance is 0 in every column, which leaves nothing to weigh (llama.cpp would write zeros); calibration "
            "never reached this layer: pass importance=None, or calibrate with data that reaches it"
        )
    return values
