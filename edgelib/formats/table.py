"""Number formats as values: fit a scale, encode to codes, decode back.

A format answers three questions about blocks [..., size] that share one scale each: `fit` chooses the
grid, `encode` gives codes, `decode` gives values; `snap` is the two together. `round_rows` and `round_static` round
activations, with a fresh scale per row and with one chosen beforehand. `FORMATS` is the list of all of them; what else
a format says of itself stands at `edgelib.formats.base.Format`.
"""

from __future__ import annotations

from collections import ChainMap

import torch
from torch import Tensor

from edgelib.errors import EdgelibError, choose
from edgelib.formats import casts, floating, integer, microscaling
from edgelib.formats.base import Encoded, Format
from edgelib.formats.blocks import NO_GRID, BlockGrid, joined, saturated, split, widened
from edgelib.formats.gguf import format as gguf
from edgelib.formats.gguf import mix as gguf_mix

# A file of formats ends in its own FORMATS; a new file is one more name here.
FORMATS: dict[str, Format] = {
    format.name: format for file in (integer, floating, microscaling, casts, gguf) for format in file.FORMATS
}
# What weights of a model may become: a format, or a mix of formats that is resolved layer by layer.
WEIGHTS: ChainMap[str, Format] = ChainMap(FORMATS, {mix.name: mix for mix in gguf_mix.FORMATS})
ROWS = ("channel", "token")


def by_name(format: str | Format) -> Format:
    """Return the format called `format`; raises EdgelibError listing the known ones."""
    return format if isinstance(format, Format) else choose(FORMATS, format, "number format")


def check_group_size(size: object, width: int) -> int:
    """Return `size` if it is a positive divisor of `width`; raises EdgelibError with the usable sizes otherwise."""
    if isinstance(size, bool) or not isinstance(size, int) or size < 1:
        raise EdgelibError(f"a group size is a positive integer, got {size!r}")
    if width % size:
        usable = [s for s in (512, 256, 128, 64, 48, 32, 24, 16, 8) if width % s == 0] or [width]
        raise EdgelibError(
            f"groups of {size} do not divide the last axis of {width}; choose one of {', '.join(map(str, usable))}, "
            "or one scale per row"
        )
    return size


def as_blocks(x: Tensor, format: str | Format, granularity: str | int = "tensor") -> Tensor:
    """Return x as blocks [..., groups, size] that share one scale each, in float32 (float64 stays).

    `joined(blocks, x.shape)` is the way back. Raises EdgelibError for what is not a floating tensor, is empty, holds
    NaN or inf, and for a granularity that is unknown, does not divide the last axis, or is not the format's own block.
    """
    format = by_name(format)
    if not isinstance(x, Tensor):
        raise EdgelibError(f"only torch tensors can be quantized, got {type(x).__name__}; pass torch.as_tensor(x)")
    if not x.is_floating_point():
        raise EdgelibError(f"only floating tensors can be quantized, got {x.dtype}; convert with .float() first")
    if not x.numel():
        raise EdgelibError(f"cannot choose a scale for an empty tensor of shape {tuple(x.shape)}")
    format.check_width(x.shape[-1] if x.dim() else 1)
    wide = widened(x.detach())
    blocks = _cut(wide if x.dim() else wide.view(1), format, granularity)
    if not torch.isfinite(blocks.abs().amax()):
        raise EdgelibError("cannot quantize a tensor that holds NaN or inf; find the operation that made it")
    return blocks


def _cut(x: Tensor, format: Format, granularity: str | int) -> Tensor:
    """View x as [..., groups, size] with one scale for every vector along the last axis."""
    if isinstance(granularity, str) and granularity not in ("tensor", *ROWS):
        raise EdgelibError(f"unknown granularity {granularity!r}; choose tensor, channel, token or a group size")
    if format.block is not None:
        if not isinstance(granularity, str) and granularity != format.block:
            raise EdgelibError(
                f"{format.name} has blocks of {format.block}, not {granularity!r}; leave granularity out"
            )
        return split(x, format.block)
    if granularity == "tensor":
        return x.reshape(*[1] * x.dim(), -1)
    if granularity in ROWS:
        return x.unsqueeze(-2)
    return x.unflatten(-1, (-1, check_group_size(granularity, x.shape[-1])))


def _fitted(blocks: Tensor, format: Format, granularity: str | int, shrink: float | Tensor) -> BlockGrid:
    """Choose the grid; granularity says how far an outer scale reaches."""
    if format.two_level:
        return format.fit(blocks, shrink, per_row=granularity in ROWS)  # type: ignore[call-arg]
    return format.fit(blocks, shrink)


def _squeezed(part: Tensor | None) -> Tensor | None:
    return None if part is None else part.squeeze(-1)


def _check_overflow(values: Tensor, blocks: Tensor, format: Format) -> None:
    if not format.scaled and not torch.isfinite(values).all():
        peak = float(blocks.abs().amax())
        raise EdgelibError(f"values up to {peak:.3g} overflow in {format.name}; use bf16 or fp32")


def encode(x: Tensor, format: str | Format, granularity: str | int = "tensor", shrink: float | Tensor = 1.0) -> Encoded:
    """Encode a floating tensor x; granularity as in `fake_quantize`. Half-precision input is divided in float32.

    shrink multiplies the range that scales are chosen from, 1 being the largest value: a number, or a tensor that
    broadcasts against [..., groups, 1]. Raises EdgelibError as `as_blocks` does, and for overflow in a cast.
    """
    format = by_name(format)
    blocks = as_blocks(x, format, granularity)
    grid = _fitted(blocks, format, granularity, shrink)
    if format.own_scales:
        return Encoded(format, format.encode(joined(blocks, x.shape), grid), None)
    codes = format.encode(blocks, grid)
    _check_overflow(codes, blocks, format)
    return Encoded(format, joined(codes, x.shape), *map(_squeezed, grid))


def codes_on_grid(x: Tensor, format: Format, scale: Tensor | None, zero: Tensor | None = None) -> Tensor:
    """Return the codes of x [..., size] on a grid chosen before (`scale`, `zero` shaped as in `Encoded`)."""
    if scale is None:
        return format.encode(x, NO_GRID)
    blocks = split(x.to(scale.dtype), _size(x, format, scale))
    return joined(format.encode(blocks, _grid(scale, zero)), x.shape)


def decode(encoded: Encoded) -> Tensor:
    """Return the values of an encoded tensor, in the dtype of its scale (float32 for a cast)."""
    format, codes, scale = encoded.format, encoded.codes, encoded.scale
    if scale is None:
        return format.decode(codes, NO_GRID)
    blocks = codes.reshape(codes.shape or (1,))
    blocks = split(blocks, _size(blocks, format, scale))
    return joined(format.decode(blocks, _grid(scale, encoded.zero)), codes.shape)


def _size(x: Tensor, format: Format, scale: Tensor) -> int:
    return format.block or x.shape[-1] // scale.shape[-1]


def _grid(scale: Tensor, zero: Tensor | None) -> BlockGrid:
    return BlockGrid(scale.unsqueeze(-1), None if zero is None else zero.unsqueeze(-1))


def fake_quantize(
    x: Tensor,
    format: str | Format,
    *,
    granularity: str | int = "tensor",
    symmetric: bool = True,
    full_range: bool = False,
    scale_rule: str | None = None,
    importance: Tensor | None = None,
) -> Tensor:
    """Return x rounded to `format` and decoded again, in x's own shape and dtype; x is not changed.

    format: int2, int3, int4, int8, fp8_e4m3, fp8_e5m2, mxfp8, mxfp4, nvfp4, the casts fp16, bf16, fp32, or a GGUF
    type (q4_0, q4_k and the like, see `gguf_encode`).
    granularity: "tensor" (one scale), "channel" or "token" (one scale per row: every vector along the last
    axis, so flatten a convolution weight to [out, -1] first), or an integer group size that divides the last axis.
    The mx formats and nvfp4 have blocks of their own along the last axis, 32 and 16, the last one filled up with zeros;
    there granularity says only whether nvfp4's outer scale belongs to the tensor or to each row.
    symmetric, full_range: the integer grids described at `Integer`. scale_rule: "floor" (the default), "rceil" or
    "even" for the mx formats, see `MX`; "fouroversix" for nvfp4, see `NVFP4`. importance [columns]: for GGUF types
    only; see `gguf_encode`.
    All-zero rows stay zero, and the result is finite: grids saturate at the largest number of x's dtype. No gradient
    passes: rounding has none.
    Raises EdgelibError for NaN or inf, a cast that overflows (1e6 in fp16), an empty or integer tensor, a list or array
    (pass torch.as_tensor(x)), an unknown format or granularity, a group size that does not divide, and options that the
    format does not have.
    """
    chosen = by_name(format).variant(symmetric, full_range, scale_rule)
    blocks = as_blocks(x, chosen, granularity)
    if importance is None:
        values = chosen.snap(blocks, _fitted(blocks, chosen, granularity, 1.0))
    else:
        values = decode(chosen.encode_weighed(blocks.reshape(-1, x.shape[-1]), importance))
    _check_overflow(values, blocks, chosen)
    return saturated(joined(values, x.shape), x.dtype).to(x.dtype)
