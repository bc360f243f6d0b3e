"""Statistics of calibration: what the inputs of every Linear look like, for any number of schemes."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from edgelib.errors import EdgelibError
from edgelib.inputs.tallies import bucket_tops


@dataclass(frozen=True)
class LayerStatistics:
    """Inputs x [rows, in] of one Linear over the calibration set.

    abs_max, abs_mean, square_mean: max |x|, mean |x| and mean x^2 by channel, float32 [in]; abs_max is 0 where a
        channel is dead. tokens: how many rows there were.
    weight_norm: Frobenius norm of the layer's weight, which tells statistics of another model apart.
    hessian: mean of x x^T, float32 [in, in], symmetric; half the Hessian of the layer's mean squared error in each row
        of its weight, which is what GPTQ works on.
    rows: a uniform sample of at most `row_limit` inputs, float32 [n, in], and of each the item of the calibration set
        (the running number of the row where a bare module was calibrated), the position within the item and the
        modality as an index into `MODALITIES`, int64 [n]; sorted by modality, item and position.
    counts: histogram of |x| over rows and channels, which `percentile` reads.

    What `calibrate` was not asked for is None. Linears that read the same tensor (q, k and v) share these tensors: do
    not change them in place.
    """

    abs_max: Tensor
    abs_mean: Tensor
    square_mean: Tensor
    tokens: int
    weight_norm: float
    hessian: Tensor | None = None
    rows: Tensor | None = None
    row_items: Tensor | None = None
    row_positions: Tensor | None = None
    row_modalities: Tensor | None = None
    counts: Tensor | None = None

    def percentile(self, q: float) -> float:
        """Smallest value that at least q % of |x| do not exceed, over all rows and channels; 100 is the peak.

        Read from a histogram with 256 buckets in each power of two, as the largest value of its bucket: never below
        the exact order statistic (numpy's "inverted_cdf") and above it by less than one part in 256. EdgeVLM-Bench
        names an AbsPercentileObserver without saying how it works.
        Raises EdgelibError for q outside (0, 100], and where calibration kept no histogram.
        """
        if isinstance(q, bool) or not isinstance(q, int | float) or not 0 < q <= 100:
            raise EdgelibError(f"a percentile is a number above 0 and at most 100, such as 99.9, got {q!r}")
        if self.counts is None:
            raise EdgelibError('these statistics hold no percentiles; calibrate with needs=("percentiles",)')
        total = int(self.counts.sum())
        rank = min(max(math.ceil(total * (q / 100)), 1), total)
        bucket = int(torch.searchsorted(self.counts.cumsum(0), rank))
        return min(float(bucket_tops()[bucket]), float(self.abs_max.max()))


@dataclass(frozen=True)
class Statistics:
    """What one calibration pass saw; it serves any number of schemes of the same model.

    layers: by qualified name of the Linear. unreached: Linears that no input came to.
    fed_by_norm: LayerNorm name -> the Linears that are its only readers, so that scales can be folded into it.
    fed_by_value: output projection -> the value projection of the same attention, when they are equally wide and
        channel c of the one's input is a mixture of channel c of the other's output, so that scales can be folded
        into the rows (and the bias) of the value projection.
    """

    layers: dict[str, LayerStatistics]
    unreached: tuple[str, ...]
    fed_by_norm: dict[str, tuple[str, ...]]
    fed_by_value: dict[str, str] = field(default_factory=dict)
