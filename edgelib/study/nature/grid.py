"""What methods of quantization cost a real decoder and the twins: divergences of next tokens, cell by cell."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pandas as pd
from torch import Tensor, nn

from edgelib.corruptions.condition import Condition
from edgelib.data.questions import QuestionSet
from edgelib.infer.generate import answers
from edgelib.infer.text import token_rows
from edgelib.models.generative import GenerativeModel
from edgelib.models.twins import PLAIN, parse_twin, planted
from edgelib.observe.calibrate import calibrate
from edgelib.observe.statistics import Statistics, load_statistics, save_statistics
from edgelib.quant.quantize import quantize
from edgelib.quant.scheme import scheme
from edgelib.study.nature.decoder import Remembered, TextDecoder, batches

# By what they leave of weights and inputs: methods within a line compete for the same bytes.
LINES: dict[str, tuple[str, ...]] = {
    "W8A8": ("w8a8-minmax", "w8a8-minmax-static", "w8a8-smoothquant"),
    "FP8": ("fp8",),
    "W4A16": ("w4a16-minmax-g64", "w4a16-imatrix-g64", "w4a16-awq-g64", "w4a16-gptq-g64"),
    "W3A16": ("w3a16-minmax-g64", "w3a16-imatrix-g64", "w3a16-awq-g64", "w3a16-gptq-g64"),
    "W4A8": ("w4a8-minmax", "w4a8-awq-fixed", "w4a8-awq"),
    "FP4": ("nvfp4", "mxfp4"),
}
SCHEMES = tuple(name for line in LINES.values() for name in line)
# Methods that walk the network layer by layer: asked of the decoder alone, where GPTQ is examined.
WALKING = ("w3a16-gptq-g64-sequential", "w3a16-gptaq-g64", "w4a16-gptq-g64-sequential", "w4a16-gptaq-g64")


def line_of(name: str) -> str:
    """The line that a scheme competes in."""
    return next((line for line, names in LINES.items() if name in names), scheme(name).label.split()[0])


def needs_of(names: Sequence[str]) -> tuple[str, ...]:
    """What calibration has to keep for all of these schemes."""
    return tuple(sorted({"moments"} | {need for name in names for need in scheme(name).needs}))


@dataclass(frozen=True)
class DecoderGrid:
    """Schemes on a decoder: every cell reads the same test passages, calibrated on passages of other books.

    store_at: a folder for the statistics of calibration, which take longest and are kept between runs.
    """

    decoder: TextDecoder
    test: list[Tensor]
    calibration: list[Tensor]
    store_at: Path

    @cached_property
    def reference(self) -> Remembered:
        """What the decoder itself says."""
        return Remembered(self.decoder.module, self.test)

    @cached_property
    def statistics(self) -> Statistics:
        """Of every Linear of the decoder, for all schemes that do not walk."""
        path = self.store_at / "statistics.safetensors"
        if not path.is_file():
            save_statistics(calibrate(self.decoder.module, self.inputs, needs=needs_of(SCHEMES)), path)
        return load_statistics(path)

    @property
    def inputs(self) -> list[dict]:
        """The calibration passages as a bare module takes them."""
        return [{"input_ids": ids, "use_cache": False} for ids in batches(self.calibration)]

    def cell(self, name: str) -> pd.DataFrame:
        """Rows of a scheme, one per passage: item, tokens, nll and kl (means, nats), same_top."""
        spec = {"preset": name, "exclude": ["lm_head"]}
        how = scheme(spec)
        calibration = (self.inputs if how.looks_itself else self.statistics) if how.needs_calibration else None
        return self.rows_of(quantize(self.decoder.module, spec, calibration, losses=False))

    def rows_of(self, module: nn.Module) -> pd.DataFrame:
        """One row per test passage of a network that stands in for the decoder."""
        rows = token_rows(module, self.test, reference=self.reference, batch_size=4)
        by = rows.groupby("passage", sort=True)
        means = by[["nll", "reference_nll", "kl", "same_top"]].mean()
        return means.assign(tokens=by.size()).rename_axis("item").reset_index()


def twin_named(model: GenerativeModel, twin: str, seed: int = 0) -> GenerativeModel:
    """The twin "kind:strength" of a model, several planted one after the other where "+" joins them, or "plain"."""
    for part in twin.split("+"):
        model = planted(model, part, seed)
    return model


def check_twin(twin: str) -> None:
    """Raise EdgelibError for a name that `twin_named` would not know."""
    for part in twin.split("+"):
        if part != PLAIN:
            parse_twin(part)


def twin_cell(
    model: GenerativeModel, twin: str, names: Sequence[str], data: QuestionSet, calibration: QuestionSet
) -> pd.DataFrame:
    """Divergence of the first token of the answers on a twin: one row per image, a column per scheme, in nats."""
    own = twin_named(model, twin)
    statistics = calibrate(own, calibration, needs=needs_of(names))
    made = {"reference": own} | {name: quantize(own, name, statistics, losses=False) for name in names}
    rows = answers(made, data, Condition(), reference="reference", max_new_tokens=1)
    found = {name: rows[name].groupby("image_id", sort=True)["kl"].mean() for name in names}
    return pd.DataFrame(found).rename_axis("item").reset_index()
