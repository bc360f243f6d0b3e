"""Activations, weights, keys and values of a decoder, layer by layer: the shape of their outliers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import numpy as np
import pandas as pd
import torch
from scipy.stats import wasserstein_distance
from torch import Tensor, nn

from edgelib.errors import EdgelibError
from edgelib.kv.attention import seen_states
from edgelib.kv.context import decoder_of
from edgelib.observe.calibrate import module_of
from edgelib.observe.outliers import Extremes

PLACES = {"q_proj": "attention in", "o_proj": "attention out", "gate_proj": "mlp in", "down_proj": "mlp out"}
PARTS = ("activation", "weight", "key", "value")  # of which distances are made
SHAPES = ("peak_ratio", "kurtosis", "channel_ratio", "token_ratio")
SINK = 0.3  # mean probability on the first token beyond which a head counts as sinking (Gu et al., 2024)
LARGEST_E4M3 = 448.0


@torch.no_grad()
def state_table(model, passes: Iterable[Callable[[], object]]) -> pd.DataFrame:
    """Run a decoder and return one row per layer and place: part, place, layer, and what `Extremes.summary` says.

    model: a loaded model that writes, or a decoder of transformers. passes: runs of it, whose prompts are not padded.
    part: "activation" (place: "attention in", "attention out", "mlp in", "mlp out"), "residual" (what a layer hands
    on), "weight" (place: the Linear; channels are its inputs), "key" and "value" (as attention reads them, beyond448:
    share of larger values), "attention" (sink_mass: mean probability on the first token; sink_heads: share of heads
    beyond SINK).
    """
    decoder, module = decoder_of(model), module_of(model)
    stem = decoder.blocks[0].name.rpartition(".layers.")[0]
    found: dict[tuple[str, str, int], Extremes] = {}
    sinks: dict[int, list[Tensor]] = {}
    hooks = []

    def note(part: str, place: str, layer: int, x: Tensor) -> None:
        own = Extremes.of(x)
        if (part, place, layer) in found:
            found[part, place, layer].add(own)
        else:
            found[part, place, layer] = own

    def watch(layer: int, key: Tensor, value: Tensor, shares: Tensor) -> None:
        for part, x in (("key", key), ("value", value)):
            note(part, "cache", layer, x.transpose(1, 2).flatten(2))
        if shares.shape[-2] > 1:
            sinks.setdefault(layer, []).append(shares[..., 1:, 0].mean((0, 2)))  # of each head

    linears = []
    for layer in range(len(decoder.blocks)):
        block = module.get_submodule(f"{stem}.layers.{layer}")
        hooks.append(block.register_forward_hook(_output(note, layer)))
        for name, linear in block.named_modules():
            if isinstance(linear, nn.Linear):
                last = name.rpartition(".")[2]
                linears.append((last, layer, linear))
                if last in PLACES:
                    hooks.append(linear.register_forward_pre_hook(_input(note, PLACES[last], layer)))
    try:
        with seen_states(model, watch):
            for run in passes:
                run()
    finally:
        for hook in hooks:
            hook.remove()
    if not found:
        raise EdgelibError("there is no prompt to look at: the data set is empty")
    rows = [
        {"part": part, "place": place, "layer": layer} | seen.summary() | _beyond(part, seen)
        for (part, place, layer), seen in found.items()
    ]
    rows += [
        {"part": "weight", "place": name, "layer": layer} | Extremes.of(linear.weight).summary()
        for name, layer, linear in linears
    ]
    for layer, parts in sinks.items():
        mass = torch.stack(parts).mean(0)
        said = {"sink_mass": float(mass.mean()), "sink_heads": float((mass > SINK).float().mean())}
        rows.append({"part": "attention", "place": "first token", "layer": layer} | said)
    return pd.DataFrame(rows)


def _input(note: Callable, place: str, layer: int):
    def hook(_, args) -> None:
        note("activation", place, layer, args[0])

    return hook


def _output(note: Callable, layer: int):
    def hook(_, args, output) -> None:
        note("residual", "layer out", layer, output[0] if isinstance(output, tuple) else output)

    return hook


def _beyond(part: str, seen: Extremes) -> dict[str, float]:
    return {"beyond448": seen.beyond(LARGEST_E4M3)} if part in ("key", "value") else {}


def distances(nature: pd.DataFrame, twins: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Return how far each twin's `state_table` is from nature's: one row per twin, a column per part, and `all`.

    A part's distance is the mean over SHAPES of the Wasserstein distance between the two sets of layers' values, on a
    base-2 logarithm: octaves by which the ratios differ, 0 for the same. `all`: the mean over the parts.
    """
    rows = []
    for twin, states in twins.items():
        own = {part: _distance(nature[nature.part == part], states[states.part == part]) for part in PARTS}
        rows.append({"twin": twin, **own, "all": float(np.mean(list(own.values())))})
    return pd.DataFrame(rows)


def _distance(one: pd.DataFrame, other: pd.DataFrame) -> float:
    places = [place for place in one.place.unique() if place in set(other.place)]
    gaps = [
        wasserstein_distance(*(np.log2(table.loc[table.place == place, shape]) for table in (one, other)))
        for place in places
        for shape in SHAPES
    ]
    return float(np.mean(gaps)) if gaps else float("nan")


def shape_table(states: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Return the medians over layers and places of several `state_table`s, one row per subject and part.

    Columns: subject, part, SHAPES, outlier_channels, outlier_tokens, massive (the largest of a layer, as peak and
    beyond448), sink_mass, sink_heads.
    """
    rows = []
    for subject, table in states.items():
        for part, own in table.groupby("part", sort=False):
            medians = own[[*SHAPES, "outlier_channels", "outlier_tokens", "sink_mass", "sink_heads"]].median()
            largest = own[["massive", "peak", "beyond448"]].max()
            rows.append({"subject": subject, "part": part, **medians, **largest})
    return pd.DataFrame(rows)
