"""Attention blocks made of q, k, v and output Linears: where they are, and which can be rescaled from within."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from edgelib.ground.modules import shared_copy
from edgelib.ground.randomness import address, bits, keys_for
from edgelib.observe.tallies import Tally
from edgelib.observe.watch import observing


@dataclass(frozen=True)
class Attention:
    """The projections of one attention block; `names` are their qualified names in the same order."""

    name: str
    block: nn.Module
    q: nn.Linear
    k: nn.Linear
    v: nn.Linear
    out: nn.Linear
    names: tuple[str, str, str, str]


def attention_blocks(module: nn.Module) -> Iterator[Attention]:
    """Yield the blocks with Linears called q_proj, k_proj, v_proj and out_proj or o_proj, as transformers names them.

    Heads may be grouped: k and v can be narrower than q.
    """
    for name, block in module.named_modules():
        last = "out_proj" if hasattr(block, "out_proj") else "o_proj"
        keys = ("q_proj", "k_proj", "v_proj", last)
        q, k, v, out = found = [getattr(block, key, None) for key in keys]
        if all(isinstance(layer, nn.Linear) for layer in found):
            names = [f"{name}.{key}" if name else key for key in keys]
            yield Attention(name, block, q, k, v, out, (names[0], names[1], names[2], names[3]))


def value_sources(module: nn.Module, run: Callable[[nn.Module], object], before: dict[str, Tally]) -> dict[str, str]:
    """Return output projection -> value projection where channel c of the one reads only channel c of the other.

    run(module) runs a network of this shape, and `before` is what Linears read in such a run of the module itself. It
    is repeated on a copy in which the value channels grow by powers of two and the output projection's columns shrink
    by as much: the input of each output projection has to grow exactly so, and no other Linear may see a change. A kind
    of block that has a norm in between, or another reader of the values, is left out, and so are grouped values, which
    are narrower than the output projection.
    """
    place = {name: i for i, name in enumerate(before)}
    pairs = [a for a in attention_blocks(module) if a.v.out_features == a.out.in_features]
    pairs = [a for a in pairs if a.names[2] in place and a.names[3] in place]
    while pairs:
        scales = {a.names[3]: _powers_of_two(a.v.out_features, a.name) for a in pairs}
        twin = _grown(module, pairs, scales)
        with observing(twin) as observer:
            run(twin)
        after = observer.tallies()
        changed = [name for name in before if not _grew(before[name], after.get(name), scales.get(name))]
        if not changed:
            break
        earlier = [a for a in pairs if place[a.names[2]] < place[changed[0]]]
        if not earlier:  # the network answers differently each time, so nothing can be learned about it
            return {}
        culprit = max(earlier, key=lambda a: place[a.names[2]])
        pairs = [a for a in pairs if type(a.block) is not type(culprit.block)]
    return {a.names[3]: a.names[2] for a in pairs}


def _powers_of_two(width: int, name: str) -> Tensor:
    """1, 2, 4 or 8 for each channel: they multiply floats without rounding."""
    draw = bits(keys_for(address("value sources", name), torch.zeros(1)), width)[0]
    return 2.0 ** (draw & 3)


def _grown(module: nn.Module, pairs: list[Attention], scales: dict[str, Tensor]) -> nn.Module:
    twin = shared_copy(module)
    layers = dict(twin.named_modules())
    for a in pairs:
        v, out = layers[a.names[2]], layers[a.names[3]]
        scale = scales[a.names[3]].to(v.weight)
        v.weight.data = v.weight.data * scale[:, None]
        if v.bias is not None:
            v.bias.data = v.bias.data * scale
        out.weight.data = out.weight.data / scale
    return twin


def _grew(before: Tally, after: Tally | None, scale: Tensor | None) -> bool:
    """Whether the moments are those of before, times the scale where there is one and there is anything to scale."""
    if after is None or (scale is not None and not before.peak.any()):
        return False
    factor = 1.0 if scale is None else scale.to(before.peak.device)
    return all(
        torch.allclose(now, then * factor, rtol=1e-2, atol=1e-3 * float(then.max()))
        for then, now in ((before.peak, after.peak), (before.total, after.total))
    )
