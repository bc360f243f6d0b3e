"""Rotate the residual stream and the values of a decoder, with nothing left to compute at run time.

After QuaRot (Ashkboos et al., NeurIPS 2024, arXiv:2404.00456) and SpinQuant (Liu et al., ICLR 2025, arXiv:2405.16406):
R1 turns the residual stream. An RMSNorm without a weight of its own does not see it, so the norms' weights go into
the Linears that read them, which take R1 along; what writes the stream (embeddings, output projections, the connector
of a vision tower) is turned to it. R2 turns the values of each head, between the value and the output projection.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from edgelib.errors import EdgelibError
from edgelib.ground.modules import shared_copy
from edgelib.ground.rotations import rotation
from edgelib.ground.separate import is_linear
from edgelib.observe.attention import Attention, attention_blocks
from edgelib.observe.calibrate import module_of

NORMS = ("input_layernorm", "post_attention_layernorm")
GATED = ("gate_proj", "up_proj", "down_proj")
EXACT = {torch.float32: 1e-4, torch.float64: 1e-9}  # of the largest score; 16-bit weights round what is folded
COARSE = 0.1


@dataclass(frozen=True)
class _Layer:
    """A decoder layer of the kind of Llama: two norms, attention, a gated MLP."""

    attention: Attention
    norms: tuple[nn.Module, nn.Module]
    gate: nn.Linear
    up: nn.Linear
    down: nn.Linear


@dataclass(frozen=True)
class _Parts:
    """Everything of a network that reads or writes the residual stream of its decoder."""

    embedding: nn.Embedding
    layers: tuple[_Layer, ...]
    norm: nn.Module
    head: nn.Linear
    connector: nn.Linear | None


@torch.no_grad()
def rotated(model) -> nn.Module:
    """Return a rotated copy of a model's module; the model stays as it is.

    model: a loaded model that writes, or a text decoder of transformers of the kind of Llama, Mistral and Qwen2. The
    copy computes the same scores (checked on a short run, within 1e-4 of the largest in float32) from rotated weights;
    its norms are 1, and a head tied to the embeddings has a weight of its own afterwards. Rotations depend on sizes
    alone. What is rotated is computed in float64 and stored in the dtype of the model.

    Raises EdgelibError with the reason where the stream cannot be rotated: no such decoder, norms or layers of another
    kind, an embedding or a head with a way of its own, or scores that would change.
    """
    module, bare = module_of(model), model is module_of(model)
    result = shared_copy(module)
    parts = _parts_of(result, bare)
    stream = rotation(parts.embedding.weight.shape[1], "stream")
    parts.head.weight = nn.Parameter(parts.head.weight.detach(), requires_grad=False)  # its own, where it was shared
    _set(parts.embedding, "weight", parts.embedding.weight.double() @ stream.to(parts.embedding.weight.device))
    if parts.connector is not None:
        _writes(parts.connector, stream)
    for layer in parts.layers:
        a = layer.attention
        for readers, norm in (((a.q, a.k, a.v), layer.norms[0]), ((layer.gate, layer.up), layer.norms[1])):
            for linear in readers:
                _reads(linear, norm, stream)
            _set(norm, "weight", torch.ones_like(norm.weight))
        for linear in (a.out, layer.down):
            _writes(linear, stream)
        _turn_values(a)
    _reads(parts.head, parts.norm, stream)
    _set(parts.norm, "weight", torch.ones_like(parts.norm.weight))
    for config in {id(c): c for c in (result.config, result.config.get_text_config())}.values():
        config.tie_word_embeddings = False
    _require_same(model, module, result, bare)
    return result


def _set(layer: nn.Module, key: str, value: Tensor) -> None:
    old = getattr(layer, key)
    setattr(layer, key, nn.Parameter(value.to(old.dtype), requires_grad=False))


def _reads(linear: nn.Linear, norm: nn.Module, stream: Tensor) -> None:
    """W diag(g) R: the Linear reads the turned stream behind a norm without a weight."""
    weight = linear.weight.double() * norm.weight.double()
    _set(linear, "weight", weight @ stream.to(weight.device))


def _writes(linear: nn.Linear, stream: Tensor) -> None:
    """R^T W and b R: the Linear writes the turned stream."""
    stream = stream.to(linear.weight.device)
    _set(linear, "weight", stream.T @ linear.weight.double())
    if linear.bias is not None:
        _set(linear, "bias", linear.bias.double() @ stream)


def _turn_values(a: Attention) -> None:
    """Turn the values of each head by one rotation, and the output projection back."""
    size = a.block.head_dim
    turn = rotation(size, "values").to(a.v.weight.device)
    heads = a.v.weight.double().unflatten(0, (-1, size))  # [H, D, in]
    _set(a.v, "weight", (turn.T @ heads).flatten(0, 1))
    if a.v.bias is not None:
        _set(a.v, "bias", (a.v.bias.double().view(-1, size) @ turn).flatten())
    _set(a.out, "weight", (a.out.weight.double().unflatten(1, (-1, size)) @ turn).flatten(1))


def _refused(why: str) -> EdgelibError:
    return EdgelibError(f"rotations cannot be folded into this model: {why}; leave -rotated out")


def _parts_of(module: nn.Module, bare: bool) -> _Parts:
    """Find what reads and writes the stream; raises EdgelibError with what is of another kind."""
    blocks = [a for a in attention_blocks(module) if isinstance(getattr(a.block, "layer_idx", None), int)]
    blocks = [a for a in blocks if hasattr(a.block, "head_dim") and ".layers." in a.name]
    if not blocks or not hasattr(module, "get_output_embeddings"):
        raise _refused("it has no decoder of transformers with q_proj, k_proj, v_proj and o_proj")
    stem = module.get_submodule(blocks[0].name.rpartition(".layers.")[0])
    embedding, head, norm = getattr(stem, "embed_tokens", None), module.get_output_embeddings(), stem.norm
    if type(embedding).forward is not nn.Embedding.forward or not is_linear(head) or head.bias is not None:
        raise _refused("its embedding or its head is no plain table and matrix")
    layers = tuple(_layer_of(module.get_submodule(a.name.rpartition(".")[0]), a) for a in blocks)
    if len(layers) != len(stem.layers) or not _is_rms(norm):
        raise _refused("some of its layers, or its last norm, are of another kind")
    return _Parts(embedding, layers, norm, head, _connector(module, stem, head, bare))


def _layer_of(layer: nn.Module, a: Attention) -> _Layer:
    norms = [child for name, child in layer.named_children() if "norm" in type(child).__name__.lower()]
    mlp = getattr(layer, "mlp", None)
    linears = [getattr(mlp, key, None) for key in GATED]
    if [getattr(layer, key, None) for key in NORMS] != norms or not all(map(_is_rms, norms)):
        raise _refused(f"the norms of {type(layer).__name__} are not {' and '.join(NORMS)}, each an RMSNorm")
    if not all(map(is_linear, (*linears, a.q, a.k, a.v, a.out))):
        raise _refused(f"the MLP of {type(layer).__name__} is not made of {', '.join(GATED)}")
    return _Layer(a, (norms[0], norms[1]), *linears)


def _is_rms(norm: nn.Module) -> bool:
    return type(norm).__name__.endswith("RMSNorm") and [key for key, _ in norm.named_parameters()] == ["weight"]


def _connector(module: nn.Module, stem: nn.Module, head: nn.Linear, bare: bool) -> nn.Linear | None:
    """The Linear that writes image features into the stream: the last one outside the decoder."""
    inside = {id(layer) for layer in stem.modules()} | {id(head)}
    outside = [layer for layer in module.modules() if is_linear(layer) and id(layer) not in inside]
    if not outside:
        return None
    if bare:
        raise _refused("it reads images, which only a loaded model can show to check the result: use edgelib.load")
    if outside[-1].out_features != head.in_features:
        raise _refused("what writes image features into its stream is not the last Linear before the decoder")
    return outside[-1]


def _require_same(model, module: nn.Module, result: nn.Module, bare: bool) -> None:
    """Raise EdgelibError unless both networks give the same scores on a short run."""
    before, after = (_scores(model, network, bare) for network in (module, result))
    largest = float(before.abs().max())
    apart = float((before - after).abs().max()) / max(largest, torch.finfo(torch.float32).tiny)
    if not apart <= EXACT.get(module.get_output_embeddings().weight.dtype, COARSE):
        raise _refused(f"its scores would change by {apart:.2g} of the largest, so something else reads the stream")


def _scores(model, network: nn.Module, bare: bool) -> Tensor:
    found = []
    hook = network.get_output_embeddings().register_forward_hook(lambda _, args, out: found.append(out.double()))
    try:
        if bare:
            known = network.config.get_text_config().vocab_size
            network(input_ids=torch.arange(min(known, 16), device=next(network.parameters()).device)[None])
        else:
            model.with_module(network).probe()
    finally:
        hook.remove()
    return torch.cat([scores.flatten() for scores in found])
