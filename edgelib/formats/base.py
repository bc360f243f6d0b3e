"""What a number format is: one value that answers what the rest of the library asks about numbers.

Rounding asks for its grid (`fit`, `encode`, `decode`), a scheme for its words and for what goes with it, a file for its
tensors (`parts`), a cache for its codes (`cache_encode`), a kernel or an export for the arithmetic that it belongs to.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from edgelib.errors import EdgelibError
from edgelib.formats.bits import pack_bits, pack_channels, packed_width, unpack_bits, unpack_channels
from edgelib.formats.blocks import BlockGrid, joined, narrowed, split, widened

ONE = BlockGrid(torch.ones(()))
LABELS = {
    torch.float32: "fp32",
    torch.float16: "fp16",
    torch.bfloat16: "bf16",
    torch.float8_e4m3fn: "e4m3",
    torch.float8_e8m0fnu: "e8m0",
}


def dtype_label(dtype: torch.dtype) -> str:
    """Return what files call a dtype, such as "fp32", "e8m0" or "int64"."""
    return LABELS.get(dtype, str(dtype).removeprefix("torch."))


class Part(NamedTuple):
    """One tensor of a packed weight. kind: its class of bytes. name: the attribute of `Encoded` that it stores.

    Parts of one kind and label lie in one tensor of the file.
    """

    kind: str
    name: str
    label: str
    dtype: torch.dtype
    shape: tuple[int, ...]


class Format(ABC):
    """A number format. A new one is a frozen dataclass in a file of its own and one name in `edgelib.formats.table`.

    It says name, bits (of a code), storage (the dtype of codes in memory, a byte each up to 8 bits), qmax (the largest
    value on scale 1), and has the verbs `fit`, `encode` and `decode`. All else has a default, which a format overrides
    where it differs or can be faster. Integers are `Integer`, small floats on a scale `ScaledFloat`, blocks of them on
    powers of two `MX`: another one of these is one line.

    Its grid. scaled: whether values lie on a scale; a cast has none. symmetric: whether 0 is code 0; else blocks have
    zero points, of the width of a code. even: whether values are (code - zero) * scale, which integer kernels and KIVI
    build on. block: elements along the last axis that share a scale by definition. two_level: whether block scales are
    relative to an outer scale; `fit` then takes `outer` and `per_row`, as `NVFP4.fit` does. scale_storage: dtype of
    stored scales, None for that of the grid. scale_rules: the ways to choose a scale that `variant` takes. static:
    whether an activation scale chosen beforehand means something to it. own_scales: whether codes are bytes [rows,
    bytes] that hold their scales, as GGUF's do; a layer then keeps them as they are. methods: the names of those that
    can choose its codes, () for all.
    Its words. word: what scheme names call it, None for its name, "" for its width alone, as in w4a8. partners: names
    of the formats of inputs that go with these weights, the usual one first; () for itself. beside: whether inputs may
    stay in it beside any narrow weights, as in w4a16. cache_name: what KV schemes call it, None if no cache holds it.
    Who computes with it. unit: the arithmetic unit of a device (`edgelib.devices`). compressed_tensors: its type in
    checkpoints of that name, "int" or "float"; None where they have none.
    """

    name: str
    bits: int
    if TYPE_CHECKING:  # a field or a property

        @property
        def storage(self) -> torch.dtype: ...

        @property
        def qmax(self) -> float: ...

    scaled: bool = True
    symmetric: bool = True
    even: bool = False
    block: int | None = None
    two_level: bool = False
    scale_storage: torch.dtype | None = None
    scale_rules: tuple[str, ...] = ()
    static: bool = True
    own_scales: bool = False
    methods: tuple[str, ...] = ()
    word: str | None = None
    partners: tuple[str, ...] = ()
    beside: bool = False
    cache_name: str | None = None
    unit: str = "fp16"
    compressed_tensors: str | None = None

    def check_width(self, width: int) -> None:
        """Raise EdgelibError for a width of rows that the format cannot hold; by default it holds all."""
        return None

    @abstractmethod
    def fit(self, blocks: Tensor, shrink: float | Tensor = 1.0) -> BlockGrid:
        """Choose scale (and zero) [..., 1] for blocks [..., size]; shrink multiplies the range that it is chosen from.

        A value beyond the grid saturates, an all-zero block gets a scale above 0, one with NaN or inf is not finite.
        """

    @abstractmethod
    def encode(self, blocks: Tensor, grid: BlockGrid) -> Tensor:
        """Return codes of blocks [..., size]; grid need only broadcast, so one column at a time will do."""

    @abstractmethod
    def decode(self, codes: Tensor, grid: BlockGrid) -> Tensor:
        """Return the values of codes [..., size] in the scale's dtype."""

    def variant(self, symmetric: bool = True, full_range: bool = False, scale_rule: str | None = None) -> Format:
        """Return the format with another grid; raises EdgelibError for one that it does not have."""
        one_grid(self.name, symmetric, full_range, scale_rule)
        return self

    @property
    def options(self) -> dict[str, object]:
        """The arguments of `variant` that lead from the format of this name in the table to this one."""
        return {}

    def snap(self, blocks: Tensor, grid: BlockGrid) -> Tensor:
        """Return decode(encode(blocks, grid), grid), where possible without making codes."""
        return self.decode(self.encode(blocks, grid), grid)

    def nearest_(self, values: Tensor) -> Tensor:
        """Round values that were divided by their scale, in place, and let none saturate."""
        raise EdgelibError(f"{self.name} does not round without saturating; choose another format for this fault")

    def encode_weighed(self, weight: Tensor, importance: Tensor | None) -> Encoded:
        """Encode a weight [out, in] so that errors count by the importance [in] of their input; with own_scales only.

        Raises EdgelibError for a format that does not choose its own scales, and for an importance that says nothing.
        """
        raise EdgelibError(f"{self.name} takes no importance; GGUF types such as q4_k do")

    def round_rows(self, x: Tensor) -> Tensor:
        """Round x [..., size] with a fresh scale per row: fake_quantize(x, self, granularity="token"), unchecked."""
        wide = widened(x.detach())
        blocks = wide.unsqueeze(-2) if self.block is None else split(wide, self.block)
        return joined(self.snap(blocks, self.fit(blocks)), x.shape).to(x.dtype)

    def round_static(self, x: Tensor, scale: float | Tensor) -> Tensor:
        """Round x with a scale chosen beforehand; values beyond qmax * scale saturate."""
        wide = widened(x.detach())
        return self.snap(wide, BlockGrid(torch.as_tensor(scale).to(wide))).to(x.dtype)

    def bits_per_element(self, group_size: int | None = None, scale_bits: int = 32, numel: int | None = None) -> float:
        """Return stored bits per element when each group of `group_size` carries one scale (and one zero point).

        A format with blocks or stored scales of its own takes those, whatever is passed. numel: how many elements share
        an outer scale of 32 bits, to count it as well.
        """
        if not self.scaled:
            return float(self.bits)
        size = self.block or group_size
        if size is None:
            raise EdgelibError(
                f"{self.name} has no blocks of its own: say how many elements share a scale (group_size)"
            )
        scale_bits = scale_bits if self.scale_storage is None else 8 * self.scale_storage.itemsize
        shared = (scale_bits + (0 if self.symmetric else self.bits)) / size
        return self.bits + shared + (32 / numel if self.two_level and numel is not None else 0)

    # What a packed file stores

    def scale_codes(self, grid: BlockGrid) -> Tensor:
        """Return the scales of a grid as they are stored."""
        return grid.scale

    def parts(self, rows: int, width: int, groups: int, wide: torch.dtype) -> Iterator[Part]:
        """Yield the tensors that a weight [rows, width] is packed into, with `groups` scales a row (0 for a cast).

        wide: the dtype in which its grid is computed.
        """
        yield self._code_part("linear_weights", "codes", rows, width)
        if groups:
            dtype = self.scale_storage or wide
            yield Part("scales", "scale", dtype_label(dtype), dtype, (rows, groups))
        if self.two_level:
            yield Part("scales", "outer", dtype_label(wide), wide, (1, 1))
        if not self.symmetric:
            yield self._code_part("zero_points", "zero", rows, groups)

    def _code_part(self, kind: str, name: str, rows: int, count: int) -> Part:
        if self.bits < 8:
            return Part(kind, name, self.name, torch.uint8, (rows, packed_width(count, self.bits)))
        return Part(kind, name, self.name, self.storage, (rows, count))

    def stored(self, encoded: Encoded) -> dict[str, Tensor | None]:
        """Return what the parts of an encoded weight hold, by their names."""
        zero = None if encoded.zero is None else self._packed(encoded.zero.to(self.storage))
        codes = self._packed(encoded.codes.to(self.storage))
        return {"codes": codes, "scale": encoded.scale_codes(), "outer": encoded.outer, "zero": zero}

    def _packed(self, codes: Tensor) -> Tensor:
        return pack_bits(codes, self.bits) if self.bits < 8 else codes

    def restored(self, stored: Mapping[str, Tensor], width: int, groups: int, wide: torch.dtype) -> Encoded:
        """Return the weight of which the parts hold `stored`: what `stored` was made from, to the last bit."""
        scale, zero, outer = (stored.get(name) for name in ("scale", "zero", "outer"))
        if scale is not None and self.scale_storage is not None:
            scale = scale.float().to(wide)
        if scale is not None and outer is not None:
            scale = scale * outer
        zero = None if zero is None else self._unpacked(zero, groups).to(wide)
        return Encoded(self, self._unpacked(stored["codes"], width), scale, zero, outer)

    def _unpacked(self, packed: Tensor, width: int) -> Tensor:
        return unpack_bits(packed, self.bits, width, self.storage == torch.int8) if self.bits < 8 else packed

    # How a key-value cache holds it

    def cache_codes(self, scaled: Tensor) -> Tensor:
        """Return codes of values [..., D] that were divided by their scale, D * bits / 8 bytes; `scaled` may change."""
        return pack_channels(self.encode(scaled, ONE), self.bits)

    def cache_values(self, codes: Tensor) -> tuple[Tensor, float]:
        """Return values [..., D] and a factor, whose product is what `cache_codes` encoded, in any dtype."""
        return self.decode(unpack_channels(codes, self.bits, self.storage == torch.int8), ONE), 1.0

    def cache_encode(self, x: Tensor, scale: Tensor) -> tuple[Tensor, ...]:
        """Return the parts in which states x [B, H, T, D] are stored on a static scale, codes first, [B, H, T, *] each.

        scale: [1], [H, 1, 1] or [H, 1, D]; the outer one where there are two.
        """
        return (self.cache_codes(x / scale),)

    def cache_decode(self, parts: tuple[Tensor, ...], scale: Tensor, dtype: torch.dtype) -> Tensor:
        """Return the states of `cache_encode` in `dtype`, in few passes: every step of generation reads all of them."""
        values, factor = self.cache_values(parts[0])
        return times(values, scale * factor, dtype)


def times(values: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    """Return values * scale, multiplied in the scale's dtype, in `dtype`."""
    return narrowed(values.to(scale.dtype).mul_(scale), dtype)


def one_grid(name: str, symmetric: bool, full_range: bool, scale_rule: str | None) -> None:
    """Raise EdgelibError when a format whose grid is fixed is asked for another one."""
    if not symmetric or full_range:
        raise EdgelibError(f"symmetric and full_range choose integer grids; {name} has one grid, so leave them alone")
    if scale_rule is not None:
        raise EdgelibError(f"scale_rule={scale_rule!r} belongs to the mx formats; {name} takes none")


@dataclass(frozen=True)
class Encoded:
    """A tensor as codes (its own shape) and one scale per group along the last axis [..., groups].

    The shape of `scale` says how it is shared: [1, ..., 1] for a whole tensor, [..., 1] for rows. `outer` is the second
    level of nvfp4, which `scale` contains: [1, ..., 1] or [..., 1].
    """

    format: Format
    codes: Tensor
    scale: Tensor | None
    zero: Tensor | None = None
    outer: Tensor | None = None

    def scale_codes(self) -> Tensor | None:
        """Return the scales as the format stores them: e8m0 for mx, e4m3 for nvfp4, `scale` itself for the others."""
        return None if self.scale is None else self.format.scale_codes(BlockGrid(self.scale, None, self.outer))
