"""Outlier twins: the same function with outliers planted in chosen places, by rescaling pairs that cancel.

Large networks carry outlier channels that wreck low-bit formats; a small one does not. A twin has them, with a known
cause and a dose, and computes what the original computes (up to float rounding), so it is the controlled experiment:
- "activation": channels of each LayerNorm that only Linears read grow by `strength`, their weight columns shrink;
- "weight": the reverse, weight columns grow;
- "key": channels of K grow in every attention block, the same channels of Q shrink;
- "value": channels of V grow, the columns of the output projection shrink;
- "key-offset": keys of a decoder get a constant of `strength` standard deviations (see `twins_kv`);
- "key-all", "value-all": every channel of a decoder's K or V grows, as no scale minds and no format without one holds;
- "spike": the first token of a decoder grows in what down_proj reads (see `twins_tokens`).
"""

from __future__ import annotations

import math
import re
from numbers import Real
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor, nn

from edgelib.errors import EdgelibError, choose
from edgelib.ground.checks import plain_number
from edgelib.ground.modules import shared_copy
from edgelib.models.twins_kv import EVERY, OFFSET, chosen_channels, plant_in_decoder
from edgelib.models.twins_tokens import SPIKE, plant_spikes
from edgelib.models.zero_shot import ZeroShotModel
from edgelib.observe.attention import attention_blocks
from edgelib.observe.watch import norm_readers, observing

if TYPE_CHECKING:
    from edgelib.data.labelled import Dataset
    from edgelib.models.generative import GenerativeModel

KINDS = ("activation", "weight", "key", "value")
WRITERS_ONLY = (OFFSET, *EVERY, SPIKE)  # kinds of a model that writes
Loaded = TypeVar("Loaded", "ZeroShotModel", "GenerativeModel")
STRONGEST = 10**9  # outliers of networks reach thousands; far beyond, 1 / strength underflows in half precision


def with_outliers(model: Loaded, kind: str, strength: float, seed: int = 0) -> Loaded:
    """Return a copy of `model` that computes the same function and carries outliers `strength` times the usual size.

    kind is one of KINDS, or of WRITERS_ONLY for a model that writes; where it speaks of no other share, 5 % of the
    channels (at least one) of every layer are chosen by (seed, layer's name).
    Raises EdgelibError for an unknown kind, a strength that is not positive and finite, and a model that has no place
    for the kind.
    """
    choose(dict.fromkeys((*KINDS, *WRITERS_ONLY)), kind, "kind of outliers")
    if not hasattr(model, "with_module"):
        raise EdgelibError(f"model must be a loaded model, got {type(model).__name__}; use edgelib.load(name or path)")
    if isinstance(strength, bool) or not isinstance(strength, Real) or not 0 < strength < math.inf:
        raise EdgelibError(f"strength is how many times larger the outliers get, a positive number, got {strength!r}")
    module = shared_copy(model.module)
    if kind in ("activation", "weight"):
        factor = strength if kind == "activation" else 1 / strength
        readers = norm_readers(model.module, model.probe)
        changed = _rescale_norms(dict(module.named_modules()), readers, factor, seed)
    elif kind == SPIKE:
        writes = hasattr(model, "towers")
        changed = plant_spikes(module, lambda m: model.with_module(m).probe(), strength) if writes else 0
    elif hasattr(model, "towers"):  # a model that writes
        changed = plant_in_decoder(module, kind, strength, seed)
    else:
        changed = 0 if kind in WRITERS_ONLY else _rescale_attention(module, kind, strength, seed)
    if not changed:
        place = (
            "LayerNorm read only by Linears"
            if kind in ("activation", "weight")
            else "decoder with a gated MLP without biases"
            if kind == SPIKE
            else "attention with q, k, v and output Linears"
        )
        raise EdgelibError(
            f"{model.name} has no {place}, so {kind} outliers cannot be planted without changing its function"
        )
    if not all(bool(torch.isfinite(p).all()) for p in module.parameters()):
        raise EdgelibError(
            f"strength {strength:g} leaves the range of {model.dtype}, which changes the function; take less"
        )
    return model.with_module(module, f"{model.name}+{kind}:{strength:g}")


def parse_twin(twin: str) -> tuple[str, float]:
    """Return (kind, strength) of a twin written "kind:strength", such as "activation:32".

    Raises EdgelibError for an unknown kind or a strength that is not a number from 1 to STRONGEST.
    """
    kind, _, text = twin.partition(":")
    choose(dict.fromkeys((*KINDS, *WRITERS_ONLY)), kind, "twin kind")
    # the digits of a number as files write it: float() also takes other scripts, 1_000 and blanks
    strength = float(text) if re.fullmatch(r"(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", text, re.ASCII | re.I) else math.nan
    if not 1 <= strength <= STRONGEST:
        raise EdgelibError(
            f"twin {twin!r} needs a strength of at least 1, and at most {STRONGEST:,}, after the colon: '{kind}:32'"
        )
    return kind, strength


def twin_name(kind: str, strength: float) -> str:
    """Return the one name of a twin that `parse_twin` reads back: "weight:8" for 8.0."""
    return f"{kind}:{plain_number(strength)}"


def _scale(width: int, factor: float, seed: int, layer: str, like: Tensor) -> Tensor:
    scale = torch.ones(width, dtype=like.dtype, device=like.device)
    scale[chosen_channels(width, seed, layer).to(like.device)] = factor
    return scale


def _multiply(parameter: Tensor | None, scale: Tensor) -> None:
    if parameter is not None:
        parameter.data = parameter.data * scale  # a new tensor: the original's storage is shared


def _rescale_norms(layers: dict[str, nn.Module], readers: dict[str, tuple[str, ...]], factor: float, seed: int) -> int:
    for norm, linears in readers.items():
        weight = layers[norm].weight
        scale = _scale(len(weight), factor, seed, norm, weight)
        _multiply(weight, scale)
        _multiply(getattr(layers[norm], "bias", None), scale)
        for linear in linears:
            _multiply(layers[linear].weight, 1 / scale)
    return len(readers)


def _rescale_attention(module: nn.Module, kind: str, strength: float, seed: int) -> int:
    count = 0
    for a in attention_blocks(module):
        if a.k.out_features != a.q.out_features:
            continue
        grown, partner = (a.k, a.q) if kind == "key" else (a.v, a.out)
        scale = _scale(grown.out_features, strength, seed, a.name, grown.weight)
        _multiply(grown.weight, scale[:, None])
        _multiply(grown.bias, scale)
        if kind == "key":
            _multiply(partner.weight, 1 / scale[:, None])
            _multiply(partner.bias, 1 / scale)
        else:
            _multiply(partner.weight, 1 / scale)
        count += 1
    return count


def outlier_ratios(model: ZeroShotModel, data: Dataset) -> dict[str, float]:
    """How far the largest channel stands out on a data set: largest over median channel peak, median over layers.

    Keys: activation (inputs of Linears that a LayerNorm feeds), weight (their weight columns), key and value (outputs
    of k_proj and v_proj). NaN where the model has no such layer.
    """
    layers = dict(model.module.named_modules())
    peaks: dict[str, dict[str, Tensor]] = {"key": {}, "value": {}}

    def watch(kind: str, name: str):
        def hook(module, inputs, output):
            peak = output.abs().flatten(0, -2).amax(dim=0)
            before = peaks[kind].get(name)
            peaks[kind][name] = peak if before is None else torch.maximum(before, peak)

        return hook

    places = {"k_proj": "key", "v_proj": "value"}
    hooks = [
        layer.register_forward_hook(watch(places[name.rpartition(".")[2]], name))
        for name, layer in layers.items()
        if name.rpartition(".")[2] in places
    ]
    try:
        with observing(model.module) as observer:
            for step in model.calibration_passes(data):
                step.run()
    finally:
        for hook in hooks:
            hook.remove()
    fed = [linear for linears in observer.fed_by_norm().values() for linear in linears]
    tallies = observer.tallies()
    found = {
        "activation": [tallies[name].peak for name in fed],
        "weight": [layers[name].weight.abs().amax(dim=0) for name in fed],
        "key": list(peaks["key"].values()),
        "value": list(peaks["value"].values()),
    }
    return {kind: _median_ratio(list_of_peaks) for kind, list_of_peaks in found.items()}


def _median_ratio(peaks: list[Tensor]) -> float:
    ratios = [float(p.max() / p.median()) for p in peaks]
    return float(torch.tensor(ratios).median()) if ratios else math.nan


PLAIN = "plain"


def planted(model: Loaded, twin: str, seed: int = 0) -> Loaded:
    """The twin called "kind:strength" of a model, or the model itself for "plain"; seed chooses its channels."""
    return model if twin == PLAIN else with_outliers(model, *parse_twin(twin), seed)
