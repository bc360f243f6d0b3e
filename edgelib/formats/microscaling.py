"""Block formats: small floats whose blocks of 16 or 32 along the last axis share a scale that is itself one byte.

The block is part of the format, so granularity does not choose it. Zeros fill up a last block that the axis leaves
short, as packers do, and are stored with it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from edgelib.errors import EdgelibError, choose
from edgelib.formats.base import one_grid, times
from edgelib.formats.bits import pack_channels, unpack_channels
from edgelib.formats.blocks import BlockGrid, block_amax, joined, shrunk, split, widened
from edgelib.formats.floating import E2M1, E4M3, Minifloat, SmallFloats

# Which blocks get twice the scale of the rule "floor", from their amax = fraction * 2**e with fraction in [1, 2)
SCALE_RULES: dict[str, Callable[[Tensor, Minifloat], Tensor]] = {
    "floor": lambda fraction, element: fraction >= 2,
    "rceil": lambda fraction, element: fraction > element.largest / 2.0**element.emax,
    "even": lambda fraction, element: fraction >= 2 - 2.0 ** -(element.mantissa + 1),
}

FOUR_OVER_SIX = "fouroversix"  # the scale rule of NVFP4


@dataclass(frozen=True)
class MX(SmallFloats):
    """OCP Microscaling (MX specification 1.0): blocks of 32 small floats on one power of two (e8m0, a byte).

    scale_rule "floor": scale = 2**(floor(log2 amax) - emax), emax the exponent of the largest element; what lies
    beyond the largest element saturates (the specification's rule, torchao's default, and ours). "rceil": scale =
    2**ceil(log2(amax / largest)), nothing saturates (cuBLAS, modelopt). "even": amax is first rounded to the
    element's own mantissa, then floor (torchao EVEN, compressed-tensors for mxfp4).
    The byte is log2(scale) + 127, from 0 to 254, so float64 values beyond largest * 2**127 saturate; an all-zero block
    has byte 0. Codes are float8, or e2m1 as 4 bits.
    """

    name: str
    bits: int
    element: Minifloat
    scale_rule: str = "floor"
    partners: tuple[str, ...] = ()
    unit: str = "mxfp8"

    block = 32
    scale_storage = torch.float8_e8m0fnu
    scale_rules = tuple(SCALE_RULES)
    static = False

    @property
    def options(self) -> dict[str, object]:
        return {"scale_rule": self.scale_rule}

    def variant(self, symmetric: bool = True, full_range: bool = False, scale_rule: str | None = None) -> MX:
        """Return this format with another scale rule; raises EdgelibError for an unknown one or an integer option."""
        one_grid(self.name, symmetric, full_range, None)
        if scale_rule is None:
            return self
        choose(SCALE_RULES, scale_rule, "scale rule")
        return replace(self, scale_rule=scale_rule)

    def fit(self, blocks: Tensor, shrink: float | Tensor = 1.0) -> BlockGrid:
        """Choose scale [..., 1] for blocks [..., 32]; shrink multiplies amax, and values beyond the grid saturate.

        A block that holds NaN or inf gets the scale NaN.
        """
        return BlockGrid(self._scale(shrunk(block_amax(blocks.abs()), shrink)))

    def _scale(self, amax: Tensor) -> Tensor:
        half_fraction, exponent = torch.frexp(amax.clamp(min=torch.finfo(amax.dtype).tiny))
        doubled = SCALE_RULES[self.scale_rule](2 * half_fraction, self.element)
        byte = (exponent + doubled).add_(126 - self.element.emax).clamp_(0, 254)
        scale = byte.to(torch.uint8).view(torch.float8_e8m0fnu).float().to(amax.dtype)
        return scale.add_(half_fraction - half_fraction)  # NaN where amax is NaN or inf, else + 0

    def scale_codes(self, grid: BlockGrid) -> Tensor:
        """Return the stored scales as float8_e8m0fnu, whose bytes `.view(torch.uint8)` shows."""
        return (torch.frexp(grid.scale).exponent + 126).to(torch.uint8).view(torch.float8_e8m0fnu)

    def round_rows(self, x: Tensor) -> Tensor:
        """Round x [..., size] with a fresh scale per block of 32: fake_quantize(x, self), fast.

        A block that holds NaN or inf comes back as NaN. No gradient passes: rounding has none.
        """
        blocks = split(widened(x.detach()), self.block)
        rounded = blocks.abs()
        scale = self._scale(block_amax(rounded))
        return joined(self.element.round_(torch.div(blocks, scale, out=rounded)).mul_(scale), x.shape).to(x.dtype)

    def round_static(self, x: Tensor, scale: float | Tensor) -> Tensor:
        """Round x / scale with fresh block scales and multiply by scale again; with scale 1 this is round_rows."""
        wide = widened(x.detach())
        return self.round_rows(wide / scale).mul_(scale).to(x.dtype)


@dataclass(frozen=True)
class NVFP4(SmallFloats):
    """NVIDIA's 4-bit float: blocks of 16 e2m1 values on an e4m3 scale, all on one outer fp32 scale.

    outer = amax / (6 * 448); block scale = e4m3(amax_block / (6 * outer)), at least 2**-9; value = e2m1 * (block
    scale * outer), after modelopt's NVFP4QTensor. `BlockGrid.scale` is that product, `BlockGrid.outer` the outer scale.
    Peers differ for blocks far below the tensor's amax: the smallest block scale is 2**-9 here and in modelopt, 2**-6
    in torchao, and compressed-tensors turns 0 into 0.125. An all-zero block decodes to zeros everywhere; its scale is
    2**-9 here and 1 in modelopt. In such small blocks rounding twice is not rounding once, because a block scale of a
    few times 2**-9 is coarse and follows the rounded amax.
    Codes are e2m1 as 4 bits in uint8: sign, then magnitude 0 .5 1 1.5 2 3 4 6.

    scale_rule "fouroversix" (Cook et al., 2025, arXiv:2512.02010): a block's amax becomes 6 or 4, whichever leaves the
    smaller sum of squared errors, 6 where they are equal. Between 4 and 6 there is no value, so a block with several
    values just below its amax does better on 4. The paper also lowers the largest block scale to 256, so that every
    block has the choice; here the outer scale stays, so that no block is worse off than without the rule, and a block
    whose scale would pass 448 tries 448.
    """

    name: str
    scale_rule: str | None = None

    bits = 4
    scale_rules = (FOUR_OVER_SIX,)
    element = E2M1
    block = 16
    two_level = True
    scale_storage = E4M3.storage
    qmax = E2M1.largest * E4M3.largest  # what the outer scale is multiplied by at most
    partners = ("nvfp4", "fp8_e4m3")
    cache_name = "nvfp4"
    unit = "fp4"

    @property
    def options(self) -> dict[str, object]:
        return {} if self.scale_rule is None else {"scale_rule": self.scale_rule}

    def variant(self, symmetric: bool = True, full_range: bool = False, scale_rule: str | None = None) -> NVFP4:
        """Return this format with a scale rule; raises EdgelibError for one of other formats or an integer option."""
        one_grid(self.name, symmetric, full_range, None)
        if scale_rule not in (None, FOUR_OVER_SIX):
            raise EdgelibError(
                f"scale_rule={scale_rule!r} belongs to the mx formats; {self.name} takes {FOUR_OVER_SIX} or none"
            )
        return self if scale_rule is None else replace(self, scale_rule=scale_rule)

    def fit(
        self,
        blocks: Tensor,
        shrink: float | Tensor = 1.0,
        outer: float | Tensor | None = None,
        per_row: bool = False,
    ) -> BlockGrid:
        """Choose scale [..., groups, 1] for blocks [..., groups, 16].

        shrink multiplies the amax of blocks. outer: the outer scale, where it was chosen before; by default that of
        all blocks together, or, per_row, of each row of groups, unshrunk in both cases.
        """
        grid = self._grid(block_amax(blocks.abs()), shrink, outer, per_row)
        return grid if self.scale_rule is None else self._four_over_six(blocks, shrink, grid)

    def _four_over_six(self, blocks: Tensor, shrink: float | Tensor, six: BlockGrid) -> BlockGrid:
        """For each block the scale on which its amax is 6, or that on which it is 4, by the smaller squared error."""
        peaks = block_amax(blocks.abs())
        four = self._grid(peaks, torch.as_tensor(shrink).to(peaks) * 1.5, six.outer, False)
        errors = [(self.snap(blocks, grid) - blocks).square_().sum(-1, keepdim=True) for grid in (four, six)]
        return BlockGrid(torch.where(errors[0] < errors[1], four.scale, six.scale), None, six.outer)

    def _grid(self, peaks: Tensor, shrink: float | Tensor, outer: float | Tensor | None, per_row: bool) -> BlockGrid:
        if outer is None:
            outer = peaks.amax(-2 if per_row else tuple(range(peaks.dim())), keepdim=True) / self.qmax
        # so large that 2**-9 of it is a normal number
        outer = torch.as_tensor(outer).to(peaks).clamp(min=2.0**9 * torch.finfo(peaks.dtype).tiny)
        inner = E4M3.round_(shrunk(peaks, shrink) / (E2M1.largest * outer)).clamp_(min=2.0**-9)
        return BlockGrid(inner * outer, None, outer)

    def scale_codes(self, grid: BlockGrid) -> Tensor:
        """Return the stored block scales as float8_e4m3fn."""
        return E4M3.encode(grid.scale / grid.outer)  # type: ignore[operator]

    def round_rows(self, x: Tensor) -> Tensor:
        """Round x [..., size] with a fresh outer scale per row: fake_quantize(x, self, granularity="token"), fast.

        Per row, so that no result depends on the batch; modelopt fixes one outer scale per tensor in calibration,
        which is `round_static`. A row that holds NaN or inf comes back as NaN. No gradient passes: rounding has none.
        """
        return self._rounded(x, None)

    def round_static(self, x: Tensor, scale: float | Tensor) -> Tensor:
        """Round x with an outer scale chosen beforehand and fresh block scales; beyond qmax * scale values saturate.

        scale: a number, or one per row [..., 1]. Scale 1 leaves one level of scaling, torchao's "single level".
        """
        outer = torch.as_tensor(scale, device=x.device)
        return self._rounded(x, outer.unsqueeze(-1) if outer.dim() else outer)

    def _rounded(self, x: Tensor, outer: Tensor | None) -> Tensor:
        blocks = split(widened(x.detach()), self.block)
        if self.scale_rule is not None:
            return joined(self.snap(blocks, self.fit(blocks, 1.0, outer, per_row=True)), x.shape).to(x.dtype)
        rounded = blocks.abs()
        scale = self._grid(block_amax(rounded), 1.0, outer, per_row=True).scale
        return joined(self.element.round_(torch.div(blocks, scale, out=rounded)).mul_(scale), x.shape).to(x.dtype)

    def cache_encode(self, x: Tensor, scale: Tensor) -> tuple[Tensor, ...]:
        """Return codes in pairs and one e4m3 scale per 16 channels, on the outer scale [1] or [H, 1, 1]."""
        blocks, outer = split(widened(x), self.block), scale.unsqueeze(-1)
        # as `fit` and `encode` do, in fewer passes
        inner = block_amax(blocks.abs()).div_(E2M1.largest * outer).clamp_(2.0**-9, E4M3.largest).to(E4M3.storage)
        values = E2M1.round_(blocks / (inner.to(outer.dtype) * outer))
        bits = values.mul_(2.0**-14).half().view(torch.int16)  # the inverse of `Minifloat.halves`
        codes = (bits >> 9).bitwise_and_(7).bitwise_or_((bits >> 12).bitwise_and_(8)).to(torch.int8)
        return pack_channels(codes.flatten(-2), self.bits), inner.squeeze(-1)

    def cache_decode(self, parts: tuple[Tensor, ...], scale: Tensor, dtype: torch.dtype) -> Tensor:
        values, factor = E2M1.halves(unpack_channels(parts[0], self.bits, signed=True))
        inner, inner_factor = E4M3.halves(parts[1].view(torch.int8))
        scales = (inner.to(scale.dtype) * (scale * (factor * inner_factor))).unsqueeze(-1)
        return times(split(values, self.block), scales, dtype).flatten(-2)


FORMATS = (
    MX("mxfp8", 8, E4M3),
    MX("mxfp4", 4, E2M1, partners=("mxfp4", "mxfp8"), unit="fp4"),
    NVFP4("nvfp4"),
)
