"""A connector by least squares: from features of patches to the decoder's own embeddings of what they show.

The first layer is random and stays so, a fixed set of smooth functions of the whitened features; the second is ridge
regression on them, in closed form. Which state of the tower is read, and how strong the ridge is, say scenes held out.
"""

from __future__ import annotations

from itertools import islice
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgelib.ground.randomness import address, keys_for, normal
from edgelib.train.graft.sources import Tower
from edgelib.train.graft.world import Sights, patch_shares, sights, words_of

LAYERS = (-1, -2)  # states of the tower that are tried
RIDGES = (1e-4, 1e-3, 1e-2, 1e-1)  # of the mean square of a feature
BATCH = 128  # scenes


class Fit(NamedTuple):
    """A connector and how well it does on held-out scenes.

    weights: of linear_1 and linear_2 by name. layer: the state of the tower that it reads. explained: share of the
    variance of the embeddings, at most 1.
    """

    weights: dict[str, Tensor]
    layer: int
    ridge: float
    explained: float


@torch.no_grad()
def least_squares(
    vision: nn.Module, tower: Tower, tokenizer: Any, table: Tensor, seed: int, batches: tuple[int, int]
) -> Fit:
    """Return the connector of a tower to the table of embeddings [vocabulary, width], in closed form.

    batches: how many of BATCH scenes it is fitted to, and how many are held out. The same arguments give the same
    connector.
    """
    said = _Embedded(tokenizer, table)
    halves = {}
    for layer in LAYERS:
        halves[layer] = _random_half(vision, tower, layer, table.shape[1], seed)
    sums = {layer: _Sums(table.shape[1]) for layer in LAYERS}
    for seen in islice(sights(BATCH, "train", seed), batches[0]):
        target = said(seen, tower)
        for layer, states in _features(vision, tower, seen.images).items():
            sums[layer].add(_hidden(halves[layer], states), target)
    held = list(islice(sights(BATCH, "validation", seed), batches[1]))
    targets = [said(seen, tower) for seen in held]
    features = [_features(vision, tower, seen.images) for seen in held]
    best: Fit | None = None
    for layer in LAYERS:
        for ridge in RIDGES:
            weight, bias = sums[layer].solved(ridge)
            off = total = 0.0
            for states, target in zip(features, targets, strict=True):
                made = _hidden(halves[layer], states[layer]) @ weight.T + bias
                off += float((made - target).square().sum())
                total += float((target - sums[layer].mean).square().sum())
            explained = 1 - off / total
            if best is None or explained > best.explained:
                first, shift = halves[layer]
                named = {"linear_1.weight": first, "linear_1.bias": shift}
                named |= {"linear_2.weight": weight, "linear_2.bias": bias}
                best = Fit(named, layer, ridge, explained)
    assert best is not None
    return best


class _Embedded:
    """Targets of patches: the mean embedding of the words for what covers them, by share of the patch."""

    def __init__(self, tokenizer: Any, table: Tensor):
        self._tokenizer, self._table, self._known = tokenizer, table, {"": torch.zeros(table.shape[1])}

    def _of(self, text: str) -> Tensor:
        if text not in self._known:
            ids = self._tokenizer(f" {text}", add_special_tokens=False)["input_ids"]
            self._known[text] = self._table[ids].mean(0)
        return self._known[text]

    def __call__(self, seen: Sights, tower: Tower) -> Tensor:
        """[scenes * patches, width]"""
        shares = patch_shares(seen.cover, tower.grid)
        names = [words_of(scene, shares.shape[2] - 1) for scene in seen.scenes]
        spoken = torch.stack([torch.stack([self._of(name) for name in own]) for own in names])
        return (shares @ spoken).flatten(0, 1)


class _Sums:
    """Normal equations, summed up batch by batch in double precision."""

    def __init__(self, width: int):
        self._gram = torch.zeros(width + 1, width + 1, dtype=torch.float64)
        self._cross = torch.zeros(width + 1, width, dtype=torch.float64)

    def add(self, hidden: Tensor, target: Tensor) -> None:
        one = F.pad(hidden, (0, 1), value=1.0)
        self._gram += (one.T @ one).double()
        self._cross += (one.T @ target).double()

    @property
    def mean(self) -> Tensor:
        """The mean target [width]."""
        return (self._cross[-1] / self._gram[-1, -1]).float()

    def solved(self, ridge: float) -> tuple[Tensor, Tensor]:
        """Weight [out, in] and bias [out] of ridge regression; the bias is not drawn to 0."""
        damped = self._gram.clone()
        inner = damped.diagonal()[:-1]
        inner += ridge * inner.mean()
        found = torch.linalg.solve(damped, self._cross).float()
        return found[:-1].T.contiguous(), found[-1].contiguous()


def tower_pixels(tower: Tower, images: Tensor) -> Tensor:
    """uint8 [N, 3, H, W] -> what the tower takes, as its own image processor makes it."""
    return tower.processor(images=list(images), return_tensors="pt")["pixel_values"]


@torch.no_grad()
def tower_states(vision: nn.Module, tower: Tower, images: Tensor, layer: int) -> Tensor:
    """One hidden state of the tower's patches [N, patches, width]."""
    states = vision(pixel_values=tower_pixels(tower, images), output_hidden_states=True).hidden_states[layer]
    return states[:, int(tower.class_token) :]


def _features(vision: nn.Module, tower: Tower, images: Tensor) -> dict[int, Tensor]:
    states = vision(pixel_values=tower_pixels(tower, images), output_hidden_states=True).hidden_states
    return {layer: states[layer][:, int(tower.class_token) :].flatten(0, 1) for layer in LAYERS}


def _random_half(vision: nn.Module, tower: Tower, layer: int, width: int, seed: int) -> tuple[Tensor, Tensor]:
    """Weight [width, in] and bias of the first layer: random directions in the whitened features of some scenes."""
    some = next(sights(BATCH, "train", seed))
    states = _features(vision, tower, some.images)[layer]
    mean, spread = states.mean(0), states.std(0).clamp(min=1e-6)
    drawn = normal(keys_for(address("graft connector", seed), torch.arange(width)), states.shape[1] + 1)
    weight = drawn[:, :-1] / states.shape[1] ** 0.5 / spread
    return weight, drawn[:, -1] - weight @ mean


def _hidden(half: tuple[Tensor, Tensor], states: Tensor) -> Tensor:
    return F.gelu(F.linear(states, *half))
