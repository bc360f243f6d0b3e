"""How far the largest values of a tensor stand out, from its channels and its tokens: the shape of its outliers.

Sums, peaks and a histogram, which add up over batches in any cut; memory grows by one number a token.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from edgelib.errors import EdgelibError
from edgelib.observe.tallies import bucket_counts, bucket_tops, counted_percentile

STANDS_OUT = 6.0  # times the median peak: a channel or a token of outliers (Dettmers et al., 2022, take a fixed 6.0)
MASSIVE = 1000.0  # times the median value, and above 100: a massive activation (Sun et al., 2024, arXiv:2402.17762)


@dataclass
class Extremes:
    """What stands out in rows x [N, C]: peaks float32 [C] of the channels and [N] of the rows (tokens), float64 sums.

    powers: sums of x, x^2, x^3, x^4. counts: histogram of |x| (`tallies.bucket_counts`). size: N * C.
    """

    channels: Tensor
    rows: Tensor
    powers: Tensor
    counts: Tensor
    size: int

    @staticmethod
    def of(x: Tensor) -> Extremes:
        """The extremes of x [..., C], any floating type; at least one row."""
        x = x.detach().float().flatten(0, -2).cpu()
        magnitude, wide = x.abs(), x.double()
        square = wide.square()
        powers = torch.stack([wide.sum(), square.sum(), (square * wide).sum(), square.square().sum()])
        return Extremes(magnitude.amax(0), magnitude.amax(1), powers, bucket_counts(magnitude), x.numel())

    def add(self, other: Extremes) -> None:
        """Add other rows of the same channels in place."""
        self.channels = torch.maximum(self.channels, other.channels)
        self.rows = torch.cat([self.rows, other.rows])
        self.powers, self.counts, self.size = (
            self.powers + other.powers,
            self.counts + other.counts,
            self.size + other.size,
        )

    def beyond(self, bound: float) -> float:
        """Share of the values whose size exceeds `bound`, in [0, 1], counted to one part in 256 of the bound."""
        return float(self.counts[bucket_tops().nan_to_num(torch.inf) > bound].sum()) / self.size

    def summary(self) -> dict[str, float]:
        """Return peak, median, kurtosis and how far channels and tokens stand out.

        peak, median: of |x|. peak_ratio: the one over the other, at least 1. kurtosis: of all values around their mean,
        3 for normal ones, at least 1. channel_ratio, token_ratio: the largest peak of a channel (a row) over the median
        one, at least 1. outlier_channels, outlier_tokens: shares in [0, 1] whose peak is beyond STANDS_OUT times the
        median one. massive: values for each row beyond MASSIVE times the median and beyond 100.
        Raises EdgelibError for values that are all zero, whose ratios mean nothing.
        """
        peak, median = float(self.channels.max()), counted_percentile(self.counts, 50, float(self.channels.max()))
        if not peak > 0 or not self.powers.isfinite().all():
            raise EdgelibError("the shape of outliers is that of finite values, not all zero; check images and weights")
        mean, square, cube, fourth = (self.powers / self.size).tolist()
        variance = square - mean**2
        centred = fourth - 4 * mean * cube + 6 * mean**2 * square - 3 * mean**4
        tiny = torch.finfo(torch.float32).tiny
        ratios = {
            "peak_ratio": peak / max(median, tiny),
            "kurtosis": centred / max(variance**2, tiny),
        }
        for name, peaks in (("channel", self.channels), ("token", self.rows)):
            usual = max(float(peaks.median()), tiny)
            ratios |= {f"{name}_ratio": peak / usual}
            ratios |= {f"outlier_{name}s": float((peaks > STANDS_OUT * usual).float().mean())}
        massive = self.beyond(max(100.0, MASSIVE * median)) * self.size / len(self.rows)
        return {"peak": peak, "median": median, **ratios, "massive": massive}
