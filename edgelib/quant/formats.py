"""Number formats as values: fit a scale, encode to codes, decode back.

A format answers three questions about blocks [..., size] that share one scale each: `fit` chooses the
grid, `encode` gives codes, `decode` gives values. `FORMATS` is the list of all of them; a new format is
a frozen class with those verbs and one line in that table.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from edgelib.errors import EdgelibError, choose


class Grid(NamedTuple):
    """Where a block's codes lie: value = (code - zero) * scale; zero is None on a symmetric grid."""

    scale: Tensor | None
    zero: Tensor | None = None


@dataclass(frozen=True)
class Integer:
    """Signed integers of 2 to 8 bits with one scale per block, symmetric or with a zero point.

    symmetric: scale = amax / qmax, codes in [-qmax, qmax], qmax = 2**(bits - 1) - 1 (SmoothQuant, modelopt, ORT).
    full_range: scale = 2 amax / (2**bits - 1), codes in [-qmax - 1, qmax] (torchao, compressed-tensors, GPTQ).
    not symmetric: scale = (max - min) / (2**bits - 1) over a range that includes 0, zero = round(qmin - min / scale)
    (torchao, compressed-tensors, llm-awq, ORT). Rounding is to nearest, ties to even, after a true division. A grid may
    reach beyond the data; a value beyond the largest finite number of its dtype is decoded to that number.
    """

    name: str
    bits: int
    symmetric: bool = True
    full_range: bool = False
    storage: ClassVar[torch.dtype] = torch.int8

    @property
    def qmax(self) -> int:
        return 2 ** (self.bits - 1) - 1

    @property
    def qmin(self) -> int:
        return -self.qmax if self.symmetric and not self.full_range else -self.qmax - 1

    def variant(self, symmetric: bool = True, full_range: bool = False, scale_rule: str | None = None) -> Integer:
        """Return this format with another grid; raises EdgelibError for a combination that does not exist."""
        if scale_rule is not None:
            raise EdgelibError(f"scale_rule={scale_rule!r} belongs to the mx formats; {self.name} takes none")
        if full_range and not symmetric:
            raise EdgelibError("full_range=True is a symmetric grid; an asymmetric one uses every code anyway")
        return replace(self, symmetric=symmetric, full_range=full_range)

    def fit(self, blocks: Tensor) -> Grid:
        """Choose scale (and zero) [..., 1] for blocks [..., size]; an all-zero block gets the smallest normal scale."""
        smallest = torch.finfo(blocks.dtype).tiny
        if self.symmetric:
            amax = blocks.abs().amax(-1, keepdim=True)
            return Grid((amax / ((self.qmax - self.qmin) / 2)).clamp_(min=smallest))
        low, high = blocks.amin(-1, keepdim=True).clamp_(max=0), blocks.amax(-1, keepdim=True).clamp_(min=0)
        # halved, which is exact, because max - min may overflow
        scale = ((high / 2 - low / 2) / ((self.qmax - self.qmin) / 2)).clamp_(min=smallest)
        return Grid(scale, (self.qmin - low / scale).round_().clamp_(self.qmin, self.qmax))

    def encode(self, blocks: Tensor, grid: Grid) -> Tensor:
        """Return int8 codes of blocks [..., size]."""
        codes = (blocks / grid.scale).round_()
        if grid.zero is not None:
            codes += grid.zero
        return codes.clamp_(self.qmin, self.qmax).to(self.storage)

    def decode(self, codes: Tensor, grid: Grid) -> Tensor:
        """Return the values of codes [..., size] in the scale's dtype."""
        values = codes.to(grid.scale.dtype)
        return saturated((values if grid.zero is None else values - grid.zero) * grid.scale, values.dtype)

    def round_rows(self, x: Tensor) -> Tensor:
        """Round x [..., size] with a fresh symmetric scale per row: fake_quantize(x, self, granularity="token"), fast.

        The hot path of every quantized layer, so one temporary and no clamp: |x| / scale cannot pass qmax by
        more than a rounding error. A row that holds NaN or inf comes back as NaN, never as a plausible number.
        No gradient passes: rounding has none.
        """
        wide = x.detach() if x.dtype == torch.float64 else x.detach().float()
        rounded = wide.abs()
        # abs().amax() is vectorised along the last axis; aminmax and the inf-norm are several times slower there
        scale = rounded.amax(-1, keepdim=True).div_(self.qmax).clamp_(min=torch.finfo(wide.dtype).tiny)
        return torch.div(wide, scale, out=rounded).round_().mul_(scale).to(x.dtype)

    def round_static(self, x: Tensor, scale: Tensor) -> Tensor:
        """Round x with a scale chosen beforehand; values beyond qmax * scale saturate."""
        wide = x.detach() if x.dtype == torch.float64 else x.detach().float()
        return (wide / scale).round_().clamp_(self.qmin, self.qmax).mul_(scale).to(x.dtype)

    def bits_per_element(self, group_size: int, scale_bits: int = 32) -> float:
        """Return stored bits per element when each group of `group_size` carries one scale (and one zero point)."""
        return self.bits + (scale_bits + (0 if self.symmetric else self.bits)) / group_size


@dataclass(frozen=True)
class Cast:
    """A floating format without scale: values are rounded to `dtype`, ties to even.

    A cast does not saturate: overflow becomes inf (1e6 in fp16), which the function `encode` refuses.
    """

    name: str
    bits: int
    dtype: torch.dtype

    def variant(self, symmetric: bool = True, full_range: bool = False, scale_rule: str | None = None) -> Cast:
        """Return self; raises EdgelibError, since a cast has no grid to choose."""
        if not symmetric or full_range or scale_rule is not None:
            raise EdgelibError(f"{self.name} is a cast without scale: leave symmetric, full_range and scale_rule alone")
        return self

    def fit(self, blocks: Tensor) -> Grid:
        """Return an empty grid: there is nothing to choose."""
        return Grid(None)

    def encode(self, blocks: Tensor, grid: Grid) -> Tensor:
        """Return blocks in the storage dtype."""
        return blocks.to(self.dtype)

    def decode(self, codes: Tensor, grid: Grid) -> Tensor:
        """Return the values as float32."""
        return codes.float()

    def round_rows(self, x: Tensor) -> Tensor:
        """Round x to the format and return it in its own dtype."""
        return x.to(self.dtype).to(x.dtype)

    def bits_per_element(self, group_size: int, scale_bits: int = 32) -> float:
        """Return the bits of one element; a cast stores no scales."""
        return float(self.bits)


Format = Integer | Cast

FORMATS: dict[str, Format] = {
    "int2": Integer("int2", 2),
    "int3": Integer("int3", 3),
    "int4": Integer("int4", 4),
    "int8": Integer("int8", 8),
    "fp16": Cast("fp16", 16, torch.float16),
    "bf16": Cast("bf16", 16, torch.bfloat16),
    "fp32": Cast("fp32", 32, torch.float32),
}


@dataclass(frozen=True)
class Encoded:
    """A tensor as codes (its own shape) and one scale per group along the last axis [..., groups].

    The shape of `scale` says how it is shared: [1, ..., 1] for a whole tensor, [..., 1] for rows.
    """

    format: Format
    codes: Tensor
    scale: Tensor | None
    zero: Tensor | None


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


def _blocks(x: Tensor, granularity: str | int) -> Tensor:
    """View x as [..., groups, size] with one scale for every vector along the last axis."""
    if granularity == "tensor":
        return x.reshape(*[1] * x.dim(), -1)
    if granularity in ("channel", "token"):
        return x.unsqueeze(-2)
    if isinstance(granularity, str):
        raise EdgelibError(f"unknown granularity {granularity!r}; choose tensor, channel, token or a group size")
    return x.unflatten(-1, (-1, check_group_size(granularity, x.shape[-1])))


def saturated(values: Tensor, dtype: torch.dtype) -> Tensor:
    """Return values clamped, in place, to the finite range of `dtype`."""
    largest = torch.finfo(dtype).max
    return values.clamp_(-largest, largest) if torch.finfo(values.dtype).max >= largest else values


def _squeezed(part: Tensor | None) -> Tensor | None:
    return None if part is None else part.squeeze(-1)


def encode(x: Tensor, format: str | Format, granularity: str | int = "tensor") -> Encoded:
    """Encode a floating tensor x; granularity as in `fake_quantize`. Half-precision input is divided in float32.

    Raises EdgelibError for what is not a floating tensor, is empty, holds NaN or inf, or overflows in a cast.
    """
    format = by_name(format)
    if not isinstance(x, Tensor):
        raise EdgelibError(f"only torch tensors can be quantized, got {type(x).__name__}; pass torch.as_tensor(x)")
    if not x.is_floating_point():
        raise EdgelibError(f"only floating tensors can be quantized, got {x.dtype}; convert with .float() first")
    if not x.numel():
        raise EdgelibError(f"cannot choose a scale for an empty tensor of shape {tuple(x.shape)}")
    wide = x if x.dtype == torch.float64 else x.float()
    blocks = _blocks(wide if x.dim() else wide.view(1), granularity)
    if not torch.isfinite(blocks).all():
        raise EdgelibError("cannot quantize a tensor that holds NaN or inf; find the operation that made it")
    grid = format.fit(blocks)
    codes = format.encode(blocks, grid).reshape(x.shape)
    if codes.is_floating_point() and not torch.isfinite(codes).all():
        raise EdgelibError(f"values up to {float(wide.abs().amax()):.3g} overflow in {format.name}; use bf16 or fp32")
    return Encoded(format, codes, _squeezed(grid.scale), _squeezed(grid.zero))


def codes_on_grid(x: Tensor, format: Format, scale: Tensor | None, zero: Tensor | None = None) -> Tensor:
    """Return the codes of x [..., size] on a grid chosen before (`scale`, `zero` shaped as in `Encoded`)."""
    if scale is None:
        return format.encode(x, Grid(None))
    blocks = x.to(scale.dtype).unflatten(-1, (scale.shape[-1], -1))
    grid = Grid(scale.unsqueeze(-1), None if zero is None else zero.unsqueeze(-1))
    return format.encode(blocks, grid).reshape(x.shape)


def decode(encoded: Encoded) -> Tensor:
    """Return the values of an encoded tensor, in the dtype of its scale (float32 for a cast)."""
    if encoded.scale is None:
        return encoded.format.decode(encoded.codes, Grid(None))
    codes = encoded.codes.reshape(encoded.codes.shape or (1,)).unflatten(-1, (encoded.scale.shape[-1], -1))
    zero = None if encoded.zero is None else encoded.zero.unsqueeze(-1)
    return encoded.format.decode(codes, Grid(encoded.scale.unsqueeze(-1), zero)).reshape(encoded.codes.shape)


def fake_quantize(
    x: Tensor,
    format: str | Format,
    *,
    granularity: str | int = "tensor",
    symmetric: bool = True,
    full_range: bool = False,
    scale_rule: str | None = None,
) -> Tensor:
    """Return x rounded to `format` and decoded again, in x's own shape and dtype; x is not changed.

    granularity: "tensor" (one scale), "channel" or "token" (one scale per row: every vector along the last
    axis, so flatten a convolution weight to [out, -1] first), or an integer group size that divides the last axis.
    symmetric, full_range: the integer grids described at `Integer`. scale_rule: for the mx formats only.
    All-zero rows stay zero, and the result is finite: integer grids saturate at the largest number of x's dtype.
    Raises EdgelibError for NaN or inf, a cast that overflows (1e6 in fp16), an empty or integer tensor, a list or array
    (pass torch.as_tensor(x)), an unknown format or granularity, a group size that does not divide, and options that the
    format does not have.
    """
    chosen = by_name(format).variant(symmetric, full_range, scale_rule)
    return saturated(decode(encode(x, chosen, granularity)), x.dtype).to(x.dtype)
