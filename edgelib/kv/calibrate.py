"""Statistics of keys and values: what a cache is given to store, in one streaming pass.

Ranges, means and histograms per layer, head, channel and modality, of the states themselves and of keys without the
mean of their sequence or without the rotated bias of k_proj. Padding is left out. The result does not depend on how the
tokens were cut into batches, up to the order in which sums are rounded.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache, DynamicLayer

from edgelib.errors import EdgelibError
from edgelib.kv.context import UNSTABLE_ROPE, Context, Decoder, decoder_of, rotated_bias, token_mean
from edgelib.kv.rotate import turned
from edgelib.kv.scheme import KVScheme
from edgelib.observe.calibrate import weight_norm
from edgelib.observe.tallies import bucket_counts, counted_percentile

MODALITIES = ("text", "image")  # rows of every statistic by modality
ROTATED = "rotated "  # how the offsets of states begin that were turned after it was taken off


@dataclass
class StateStatistics:
    """States of K or V of one layer, [tokens, H, D]; modalities are text and image, in this order.

    low, high: float32 [2, H, D]. total, squares: sums, float64 [2, H, D]. tokens: int64 [2]. counts: histogram of
    absolute values, int64 [buckets].
    """

    low: Tensor
    high: Tensor
    total: Tensor
    squares: Tensor
    tokens: Tensor
    counts: Tensor

    @staticmethod
    def of(x: Tensor, image: Tensor) -> StateStatistics:
        """The statistics of tokens x [N, H, D], `image` bool [N] telling which are of an image."""
        x = x.float()
        masks = (~image, image)
        empty = x.new_zeros(x.shape[1:])
        parts = [x[mask] for mask in masks]
        return StateStatistics(
            torch.stack([p.amin(0) if len(p) else empty + torch.inf for p in parts]),
            torch.stack([p.amax(0) if len(p) else empty - torch.inf for p in parts]),
            torch.stack([p.double().sum(0) for p in parts]),
            torch.stack([p.double().square().sum(0) for p in parts]),
            torch.tensor([len(p) for p in parts]),
            bucket_counts(x.abs()),
        )

    def add(self, other: StateStatistics) -> None:
        """Add the statistics of other tokens in place."""
        self.low, self.high = torch.minimum(self.low, other.low), torch.maximum(self.high, other.high)
        self.total, self.squares = self.total + other.total, self.squares + other.squares
        self.tokens, self.counts = self.tokens + other.tokens, self.counts + other.counts

    @property
    def mean(self) -> Tensor:
        """Mean per head and channel over all tokens, float32 [H, D]."""
        return (self.total.sum(0) / self.tokens.sum()).float()

    def abs_max(self, center: Tensor | None = None) -> Tensor:
        """Largest distance from `center` [H, D] (zero if None) per modality, head and channel, float32 [2, H, D]."""
        center = 0 if center is None else center
        return torch.maximum(self.high - center, center - self.low).clamp(min=0)

    def spread(self) -> Tensor:
        """Standard deviation over tokens per modality, head and channel, float32 [2, H, D]."""
        n = self.tokens.clamp(min=1).view(2, 1, 1)
        return (self.squares / n - (self.total / n).square()).clamp(min=0).sqrt().float()

    def percentile(self, q: float) -> float:
        """Smallest value that q % of the absolute values do not exceed, rounded up by less than one part in 256."""
        return counted_percentile(self.counts, q, float(self.abs_max().max()))


@dataclass(frozen=True)
class KVStatistics:
    """What calibration saw of the keys and values of a model.

    states: by (layer, part, offset), part "k" or "v" and offset "none", of K also "tokenmean" and, for a model whose
    k_proj has a bias, "bias"; of each also turned as rotated schemes store them, "rotated none" and so on.
    fingerprint: norms of the projections, which tell statistics of another model apart.
    """

    states: dict[tuple[int, str, str], StateStatistics]
    fingerprint: Tensor

    @property
    def image_tokens(self) -> int:
        """How many tokens of images calibration saw."""
        return int(self.states[0, "k", "none"].tokens[MODALITIES.index("image")])

    def require_of(self, decoder: Decoder) -> None:
        """Raise EdgelibError unless these statistics are of the model with this decoder."""
        norms = fingerprint_of(decoder)
        if norms.shape != self.fingerprint.shape or not torch.allclose(norms, self.fingerprint, rtol=1e-3, atol=1e-6):
            raise EdgelibError("these KV statistics are of another model: run calibrate_kv on this one")

    def mean(self, layer: int, part: str) -> Tensor:
        """The static offset of a layer's K or V, [H, 1, D]."""
        return self.states[layer, part, "none"].mean.unsqueeze(1)

    def scale(self, scheme: KVScheme, layer: int, part: str) -> Tensor:
        """The static scale of a scheme, [1], [H, 1, 1] or [H, 1, D]: the range over the format's largest number.

        Raises EdgelibError for an offset that calibration could not see.
        """
        offset = scheme.offset if part == "k" and scheme.offset in ("tokenmean", "bias") else "none"
        if (layer, part, offset) not in self.states:
            raise EdgelibError(f"these statistics hold no keys without {offset!r}: run calibrate_kv on this model")
        turned = f"{ROTATED}{offset}" if scheme.rotated else offset
        states, qmax = self.states[layer, part, turned], scheme.number.qmax
        center = states.mean if scheme.offset == "mean" else None
        peak = states.abs_max(center).amax(0)
        if scheme.scale == "head":
            scale = peak.amax(-1)[:, None, None] / qmax
        elif scheme.scale == "channel":
            scale = peak.unsqueeze(1) / qmax
        elif scheme.scale == "percentile":
            scale = torch.tensor([states.percentile(scheme.percentile) / qmax])
        else:
            scale = peak.amax().view(1) / qmax
        return scale.clamp(min=1.0 if scheme.scale == "floor" else torch.finfo(torch.float32).tiny)


def fingerprint_of(decoder: Decoder) -> Tensor:
    """Norms of what makes keys and values, float32 [layers, 5]."""
    rows = []
    for a in decoder.blocks:
        norm = getattr(a.block, "k_norm", None)
        parts = [a.k.weight, a.k.bias, a.v.weight, a.v.bias, getattr(norm, "weight", None)]
        rows.append([0.0 if part is None else weight_norm(part) for part in parts])
    return torch.tensor(rows)


class _Tallying(DynamicLayer):
    """An exact layer that reports what it is given."""

    def __init__(self, report):
        super().__init__()
        self.report = report

    def update(self, key_states: Tensor, value_states: Tensor, *args, **kwargs) -> tuple[Tensor, Tensor]:
        self.report(key_states, value_states)
        return super().update(key_states, value_states, *args, **kwargs)


class _Recorder:
    """Statistics of the forward passes of a model, whose caches are replaced while the block runs."""

    def __init__(self, decoder: Decoder, splits_bias: bool):
        self.decoder, self.splits_bias = decoder, splits_bias
        self.states: dict[tuple[int, str, str], StateStatistics] = {}
        self.context: Context | None = None

    def __enter__(self) -> _Recorder:
        # first in line, so that the context of a new cache sees the pass that the cache is made for
        self.hooks = [
            self.decoder.module.register_forward_pre_hook(self._begin, with_kwargs=True, prepend=True),
            self.decoder.module.register_forward_hook(self._end),
        ]
        return self

    def __exit__(self, *_) -> None:
        for hook in self.hooks:
            hook.remove()

    def _end(self, *_) -> None:
        self.context = None

    def _begin(self, module, args, kwargs):
        cache = kwargs.get("past_key_values")
        if cache is not None and cache.get_seq_length():
            return None
        fresh = Cache(layers=[_Tallying(self._report(i)) for i in range(len(self.decoder.blocks))])
        self.context = Context(self.decoder, self.splits_bias)
        self.context.watch(fresh)
        kwargs = kwargs | {"past_key_values": fresh, "use_cache": True}
        self.context.enter(kwargs, fresh)  # its own hook comes too late for this pass
        return args, kwargs

    def _report(self, layer: int):
        def report(keys: Tensor, values: Tensor) -> None:
            context = self.context
            if context is None:  # a token that the model wrote itself
                return
            self._add(layer, "v", "none", values)
            self._add(layer, "k", "none", keys)
            self._add(layer, "k", "tokenmean", keys - token_mean(keys, context.valid))
            if self.splits_bias:
                self._add(layer, "k", "bias", keys - rotated_bias(context, layer, keys.shape[-2], keys))

        return report

    def _add(self, layer: int, part: str, offset: str, x: Tensor) -> None:
        if not offset.startswith(ROTATED):
            self._add(layer, part, ROTATED + offset, turned(x))
        flat = x.detach().transpose(1, 2)
        image, valid = self.context.image, self.context.valid
        image = torch.zeros(flat.shape[:2], dtype=torch.bool, device=x.device) if image is None else image
        kept = torch.ones_like(image) if valid is None else valid
        tokens = flat[kept]
        if not bool(torch.isfinite(tokens).all()):
            what = "keys" if part == "k" else "values"
            raise EdgelibError(f"the {what} of layer {layer} hold NaN or inf during calibration; check images, weights")
        states = StateStatistics.of(tokens.cpu(), image[kept].cpu())
        if (layer, part, offset) in self.states:
            self.states[layer, part, offset].add(states)
        else:
            self.states[layer, part, offset] = states


@torch.no_grad()
def calibrate_kv(model, calibration, batch_size: int = 32, *, text_only: bool = False) -> KVStatistics:
    """Run a model over a calibration set and return the statistics of its keys and values.

    model: a loaded model that writes text, and a set of questions; or a bare module of transformers and an iterable of
    keyword arguments of its forward, as a processor makes them. It is not changed. text_only: accept a calibration that
    shows no image to a model that reads images, which is the usual mistake, for an experiment on it.

    Raises EdgelibError for a model without a key-value cache, an empty calibration set, one that never shows an image,
    and NaN or inf.
    """
    decoder = decoder_of(model)
    stable = getattr(decoder.rotary, "rope_type", "default") not in UNSTABLE_ROPE
    with _Recorder(decoder, decoder.has_key_bias() and stable) as recorder:
        for run in _passes(model, calibration, batch_size):
            run()
    if not recorder.states:
        raise EdgelibError("calibration saw no token: the calibration set is empty")
    statistics = KVStatistics(recorder.states, fingerprint_of(decoder))
    if decoder.image_tokens and not statistics.image_tokens and not text_only:
        raise EdgelibError(
            "calibration never saw an image, so scales would be those of text alone; calibrate on questions about "
            "images, or pass text_only=True to measure what that costs"
        )
    return statistics


def _passes(model, calibration, batch_size: int) -> Iterable:
    if not isinstance(model, nn.Module):
        return (step.run for step in model.calibration_passes(calibration, batch_size))
    if isinstance(calibration, Mapping | str | Tensor):
        raise EdgelibError(
            "a bare module is calibrated with an iterable of keyword arguments of its forward, such as [inputs]"
        )
    return ((lambda batch=batch: model(**batch)) for batch in calibration)


def bias_share(statistics: KVStatistics) -> dict[int, float]:
    """How much of the range of K is the bias of k_proj, by layer: 1 - max |K - RoPE(b)| / max |K|.

    0 where the bias does not widen the range, negative where it narrows it. Raises EdgelibError for a model whose keys
    have no bias.
    """
    layers = sorted({layer for layer, _, offset in statistics.states if offset == "bias"})
    if not layers:
        raise EdgelibError("the keys of this model have no bias that could be split off")
    peak = {key: float(states.abs_max().max()) for key, states in statistics.states.items()}
    return {i: 1 - peak[i, "k", "bias"] / peak[i, "k", "none"] for i in layers}
