"""What a method reads of a scheme: which numbers, how they are cut, and its own options."""

from __future__ import annotations

from dataclasses import dataclass

from edgelib.formats.table import FORMATS, WEIGHTS, Format


@dataclass(frozen=True)
class Setting:
    """The numbers that a Linear's weight and input become; a `Scheme` is one with a method and targets, checked.

    weight, activation: number formats. group_size: None for one weight scale per output channel, or for the format's
    own blocks. activation_granularity: "token" (dynamic) or "tensor" (static, needs calibration). percentile: that of
    |x| over calibration up to which static scales reach, such as 99.9, while what lies beyond saturates; None for the
    largest |x|. symmetric, full_range, scale_rule: as `fake_quantize` takes them. alpha: strength of a migration in
    [0, 1], or "search"; clip: whether weight ranges are searched after it; weight_range: where gptq takes its grid
    from, a name in RANGES; sequential: whether gptq sees inputs that have passed the rounded layers before;
    rotated: whether the decoder is rotated before anything is rounded.
    """

    weight: str = "int8"
    activation: str = "int8"
    group_size: int | None = None
    activation_granularity: str = "token"
    percentile: float | None = None
    symmetric: bool = True
    full_range: bool = False
    scale_rule: str | None = None
    alpha: float | str | None = None
    clip: bool | None = None
    weight_range: str | None = None
    sequential: bool | None = None
    rotated: bool = False

    @property
    def weight_format(self) -> Format:
        """The format of the weights, on the grid that the scheme asks for."""
        format = WEIGHTS[self.weight]
        return format.variant(self.symmetric, self.full_range, self.scale_rule if format.scale_rules else None)

    @property
    def activation_format(self) -> Format:
        """The format of the activations; always symmetric."""
        format = FORMATS[self.activation]
        return format.variant(scale_rule=self.scale_rule if format.scale_rules else None)

    @property
    def units(self) -> tuple[str, str]:
        """The arithmetic units of weights and activations, which `edgelib.devices` takes in the place of formats."""
        return WEIGHTS[self.weight].unit, FORMATS[self.activation].unit

    @property
    def rounds_inputs(self) -> bool:
        """Whether rounding the inputs costs enough for a search to reckon with; 16 and 32 bits do not."""
        return FORMATS[self.activation].scaled
