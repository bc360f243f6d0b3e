"""Statistics of calibration: what the inputs of every Linear look like, for any number of schemes."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field, fields
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from edgelib.errors import EdgelibError
from edgelib.ground.paths import from_home, whole_file
from edgelib.observe.tallies import counted_percentile


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
    drift: mean of d x^T, float32 [in, in], where x is read behind rounded layers and x + d in the unrounded network;
        only methods that compare the two have it.

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
    drift: Tensor | None = None

    def percentile(self, q: float) -> float:
        """Smallest value that at least q % of |x| do not exceed, over all rows and channels; 100 is the peak.

        Read from a histogram with 256 buckets in each power of two, as `counted_percentile` says. The static scales of
        "-p99.9" and the like (Wu et al., 2020, arXiv:2004.09602) are made of it; EdgeVLM-Bench names an
        AbsPercentileObserver without saying how it works.
        Raises EdgelibError for q outside (0, 100], and where calibration kept no histogram.
        """
        if isinstance(q, bool) or not isinstance(q, int | float) or not 0 < q <= 100:
            raise EdgelibError(f"a percentile is a number above 0 and at most 100, such as 99.9, got {q!r}")
        if self.counts is None:
            raise EdgelibError('these statistics hold no percentiles; calibrate with needs=("percentiles",)')
        return counted_percentile(self.counts, q, float(self.abs_max.max()))

    def holds(self, need: str) -> bool:
        """Whether calibration kept what one of the `needs` of a scheme stands for."""
        part = {"moments": "abs_max", "percentiles": "counts"}.get(need, need)
        return getattr(self, part) is not None


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


_TENSORS = tuple(f.name for f in fields(LayerStatistics) if f.name not in ("tokens", "weight_norm"))
_FORMAT = "edgelib statistics 1"


def save_statistics(statistics: Statistics, path: str | os.PathLike) -> Path:
    """Write statistics to a safetensors file, whole or not at all, and return its path; the suffix is the caller's.

    What layers share is written once. Raises EdgelibError if the file cannot be written.
    """
    tensors, groups, layers = {}, {}, {}
    for name, layer in statistics.layers.items():
        present = {key: getattr(layer, key) for key in _TENSORS if getattr(layer, key) is not None}
        group = groups.setdefault(tuple(map(id, present.values())), str(len(groups)))
        tensors |= {f"{group}.{key}": tensor.contiguous() for key, tensor in present.items()}
        layers[name] = {"group": group, "tokens": layer.tokens, "weight_norm": layer.weight_norm}
    known = {
        "layers": layers,
        "unreached": statistics.unreached,
        "fed_by_norm": statistics.fed_by_norm,
        "fed_by_value": statistics.fed_by_value,
    }
    path = from_home(path)
    try:
        with whole_file(path) as place:
            save_file(tensors, place, metadata={"format": _FORMAT, "statistics": json.dumps(known)})
    except (OSError, SafetensorError) as error:
        raise EdgelibError(f"statistics cannot be written to {str(path)!r} ({error})") from None
    return path


def load_statistics(path: str | os.PathLike) -> Statistics:
    """Read what `save_statistics` wrote; layers that shared tensors share them again.

    Raises EdgelibError for a file that is not there, is damaged, or holds something else.
    """
    path = from_home(path)
    if not path.is_file():
        raise EdgelibError(f"there are no statistics at {str(path)!r}; write them with save_statistics")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}
    except (OSError, SafetensorError) as error:
        raise EdgelibError(f"{str(path)!r} is damaged or no safetensors file ({error}); calibrate again") from None
    if metadata.get("format") != _FORMAT:
        raise EdgelibError(f"{str(path)!r} holds no statistics of this version of edgelib; calibrate again")
    known = json.loads(metadata["statistics"])
    layers = {}
    for name, layer in known["layers"].items():
        present = {key: tensors[f"{layer['group']}.{key}"] for key in _TENSORS if f"{layer['group']}.{key}" in tensors}
        layers[name] = LayerStatistics(tokens=layer["tokens"], weight_norm=layer["weight_norm"], **present)
    fed_by_norm = {norm: tuple(readers) for norm, readers in known["fed_by_norm"].items()}
    return Statistics(layers, tuple(known["unreached"]), fed_by_norm, known["fed_by_value"])
