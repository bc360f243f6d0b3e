"""What a method is given and what it gives back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import NamedTuple

import torch
from torch import Tensor

from edgelib.formats.table import Encoded
from edgelib.observe.statistics import LayerStatistics
from edgelib.quant.setting import Setting

NOTHING: Mapping[str, object] = MappingProxyType({})


class Rounded(NamedTuple):
    """A layer's weight as codes, and what was decided on the way: plain values, one column each of the report."""

    encoded: Encoded
    notes: Mapping[str, object] = NOTHING


class Migration(NamedTuple):
    """Scales s [in] that divide an input and multiply the weights that read it, and what was decided on the way."""

    scales: Tensor
    notes: Mapping[str, object] = NOTHING


@dataclass(frozen=True)
class Layer:
    """One Linear as a method sees it: weight [out, in], its setting, and what calibration saw of its input.

    `seen` holds what the scheme's `needs` name; it may be None where there are none.
    """

    name: str
    weight: Tensor
    scheme: Setting
    seen: LayerStatistics | None = None

    def scaled(self, scales: Tensor) -> Layer:
        """The same layer after a migration by s [in]: it computes (x / s)(W s)^T."""
        seen = None if self.seen is None else divided(self.seen, scales)
        return replace(self, weight=self.weight * scales.to(self.weight), seen=seen)

    def part(self, name: str) -> Tensor:
        """The statistic called `name`, in the weight's dtype and on its device."""
        return getattr(self.seen, name).to(self.weight)

    def rounded_inputs(self) -> Tensor:
        """The sampled inputs [n, in] as the quantized layer rounds them."""
        rows, format = self.part("rows"), self.scheme.activation_format
        if self.scheme.activation_granularity == "token":
            return format.round_rows(rows)
        return format.round_static(rows, self.input_scale())

    def input_scale(self) -> Tensor:
        """The static activation scale: the largest value seen, or a percentile, becomes the largest of the format."""
        q = self.scheme.percentile
        peak = self.part("abs_max").amax() if q is None else self.weight.new_tensor(self.seen.percentile(q))
        return (peak / self.scheme.activation_format.qmax).clamp_(min=torch.finfo(peak.dtype).tiny)


def divided(seen: LayerStatistics, scales: Tensor) -> LayerStatistics:
    """Return the statistics of x / s for those of x; percentiles, which are not kept by channel, are lost."""
    s = scales.to(seen.abs_max)
    return replace(
        seen,
        abs_max=seen.abs_max / s,
        abs_mean=seen.abs_mean / s,
        square_mean=seen.square_mean / s.square(),
        hessian=None if seen.hessian is None else seen.hessian / s / s[:, None],
        rows=None if seen.rows is None else seen.rows / s,
        counts=None,
        drift=None if seen.drift is None else seen.drift / s / s[:, None],
    )
