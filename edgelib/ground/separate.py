"""Networks whose weights all lie in Linear layers: packed attention, the experts of a mixture and convolutions.

torch keeps q, k, v of `nn.MultiheadAttention` in one parameter, and transformers the experts of a layer in one of three
dimensions; a convolution has a kernel. None is a Linear, so nothing that observes, rounds, packs or runs Linears would
see them.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Sequence
from fnmatch import fnmatchcase

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgelib.ground.convolutions import SeparateConvolution, is_patch_embedding, own_way, separable
from edgelib.ground.modules import shared_copy, swapped


def separated(module: nn.Module, patterns: Sequence[str] = ()) -> nn.Module:
    """Return the module if all its weights lie in Linears as far as is known here, else a copy in which they do.

    The copy computes the same up to the order of sums and shares the memory of all weights. `nn.MultiheadAttention`
    becomes q_proj, k_proj, v_proj and out_proj; expert i of a mixture of transformers becomes i.gate_up_proj (or
    i.up_proj) and i.down_proj; the kernel of a two-dimensional convolution becomes its `matrix`. Patch embeddings stay
    as they are, but for those that a pattern names which names no Linear.
    """
    patches = _patches(module, patterns)
    if not any(_maker(layer, name, patches) for name, layer in module.named_modules()):
        return module
    result = shared_copy(module)
    named = result.named_modules()
    made = {layer: make(layer) for name, layer in named if (make := _maker(layer, name, patches)) is not None}
    for layer, replacement in made.items():
        replacement.train(layer.training)
    return swapped(result, made)


def _patches(module: nn.Module, patterns: Sequence[str]) -> list[str]:
    """Names of the patch embeddings that are meant by patterns: those of which no Linear has the name."""
    found = [name for name, layer in module.named_modules() if is_patch_embedding(layer)]
    names = linears(module) if found and patterns else []
    own = [pattern for pattern in patterns if not any(fnmatchcase(name, pattern) for name in names)]
    return [name for name in found if any(fnmatchcase(name, pattern) for pattern in own)]


def rejoined(module: nn.Module) -> nn.Module:
    """Return the module, or a copy in which all that `separated` took apart is as it came.

    What has other layers than Linears in it by now, quantized ones, stays apart. Joined weights are copies.
    """
    apart = [layer for layer in module.modules() if isinstance(layer, SEPARATE)]
    if not any(_is_whole(layer) for layer in apart):
        return module
    result = shared_copy(module)
    made = {layer: layer.joined() for layer in result.modules() if isinstance(layer, SEPARATE) and _is_whole(layer)}
    return swapped(result, made)


def left_apart(module: nn.Module) -> list[str]:
    """Names of attention, experts and convolutions that `separated` took apart."""
    return [n for n, layer in module.named_modules() if isinstance(layer, SEPARATE)]


def _is_whole(layer: nn.Module) -> bool:
    return all(
        is_linear(child) or isinstance(child, nn.ModuleDict) for _, child in layer.named_modules() if child is not layer
    )


def linears(module: nn.Module) -> list[str]:
    """Names of the Linears that multiply their input by their weight and do nothing else, in the module's order."""
    return [name for name, layer in module.named_modules() if is_linear(layer)]


def is_linear(layer: nn.Module) -> bool:
    """Whether the layer is a Linear without a forward of its own, such as routers of mixtures have."""
    return isinstance(layer, nn.Linear) and type(layer).forward is nn.Linear.forward


def weights_outside_linears(module: nn.Module) -> dict[str, list[str]]:
    """Layer -> its parameters that are stacks of matrices, or packed or convolved in a way that is not known here.

    Patch embeddings and convolutions over one or three dimensions are none, nor are tables with one entry (positions,
    class tokens) or one number for each head.
    """
    found: dict[str, list[str]] = {}
    for name, layer in module.named_modules():
        own = [(f"{name}.{key}" if name else key, p) for key, p in layer.named_parameters(recurse=False)]
        if isinstance(layer, nn.MultiheadAttention):
            found[name] = [key for key, p in layer.named_parameters(prefix=name) if p.dim() > 1]
        elif own_way(layer):
            found[name] = [key for key, p in own if p.dim() > 1]
        elif not isinstance(layer, nn.modules.conv._ConvNd):
            held = _is_matrix if _holds_experts(layer, name) else _is_stack
            stacks = [key for key, p in own if held(p)]
            found |= {name: stacks} if stacks else {}
    return found


def _is_matrix(p: Tensor) -> bool:
    return p.dim() > 1 and min(p.shape[-2:]) > 1


def _is_stack(p: Tensor) -> bool:
    """Whether a parameter is of more than one matrix."""
    return p.dim() > 2 and p.shape[0] > 1 and _is_matrix(p)


def _holds_experts(layer: nn.Module, name: str) -> bool:
    """Whether a layer is of the experts of a mixture, whose matrices may stand below one another in two dimensions."""
    said = f"{name}.{type(layer).__name__}".lower()
    known = isinstance(layer, nn.Linear | nn.Embedding) or any(word in said for word in ("router", "gate", "quant"))
    return "expert" in said and not known


class SeparateAttention(nn.Module):
    """An `nn.MultiheadAttention` whose projections are Linears of their own; called and answering as that is."""

    in_proj_bias = None  # what nn.TransformerEncoderLayer looks at before it takes a short cut around `forward`

    def __init__(self, packed: nn.MultiheadAttention):
        super().__init__()
        # in a tuple, so that it does not count as a layer
        self._shell = (_without_parameters(packed),)
        self.embed_dim, self.num_heads, self.head_dim = packed.embed_dim, packed.num_heads, packed.head_dim
        self.batch_first, self.dropout = packed.batch_first, packed.dropout
        weights = (packed.q_proj_weight, packed.k_proj_weight, packed.v_proj_weight)
        weights = weights if packed.in_proj_weight is None else packed.in_proj_weight.detach().chunk(3)
        biases = (None,) * 3 if packed.in_proj_bias is None else packed.in_proj_bias.detach().chunk(3)
        trained = packed.out_proj.weight.requires_grad
        self.q_proj, self.k_proj, self.v_proj = (_linear(w, b, trained) for w, b in zip(weights, biases, strict=True))
        self.out_proj = _linear(packed.out_proj.weight, packed.out_proj.bias, trained)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """As `nn.MultiheadAttention.forward`; is_causal only tells that attn_mask, which is read, is causal."""
        single = query.dim() == 2
        inputs = [x[None] if single else x if self.batch_first else x.transpose(0, 1) for x in (query, key, value)]
        projections = (self.q_proj, self.k_proj, self.v_proj)
        q, k, v = (self._heads(layer(x)) for layer, x in zip(projections, inputs, strict=True))
        scores = (q * self.head_dim**-0.5) @ k.mT
        if attn_mask is not None:
            scores = scores + _added(attn_mask, q).view(
                -1, scores.shape[1] if attn_mask.dim() == 3 else 1, *scores.shape[2:]
            )
        if key_padding_mask is not None:
            scores = scores + _added(key_padding_mask, q).view(len(q), 1, 1, -1)
        weights = F.dropout(scores.softmax(dim=-1), self.dropout, self.training)
        out = self.out_proj((weights @ v).transpose(1, 2).flatten(2))
        out = out[0] if single else out if self.batch_first else out.transpose(0, 1)
        if not need_weights:
            return out, None
        weights = weights.mean(dim=1) if average_attn_weights else weights
        return out, weights[0] if single else weights

    def joined(self) -> nn.Module:
        """The packed attention that this was made of."""
        layers = (self.q_proj, self.k_proj, self.v_proj)
        weights, biases = [layer.weight.detach() for layer in layers], [layer.bias for layer in layers]
        same = self._shell[0]._qkv_same_embed_dim
        values = dict(zip(("q_proj_weight", "k_proj_weight", "v_proj_weight"), weights, strict=True))
        values = {"in_proj_weight": torch.cat(weights)} if same else values
        values |= {} if biases[0] is None else {"in_proj_bias": torch.cat(biases)}
        packed = _with_parameters(self._shell[0], values, self.out_proj.weight.requires_grad)
        packed.out_proj = self.out_proj
        return packed

    def _heads(self, x: Tensor) -> Tensor:
        """[B, T, heads * d] -> [B, heads, T, d]."""
        return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)


def _added(mask: Tensor, like: Tensor) -> Tensor:
    """What a mask adds to scores: -inf where a boolean one is true."""
    if mask.dtype != torch.bool:
        return mask.to(like.dtype)
    return torch.zeros_like(mask, dtype=like.dtype).masked_fill_(mask, -torch.inf)


class SeparateExperts(nn.Module):
    """The experts of one layer of a mixture, each a pair of Linears; called and answering as those of transformers."""

    def __init__(self, fused: nn.Module):
        super().__init__()
        first = "gate_up_proj" if fused.has_gate else "up_proj"
        for i in range(len(fused.down_proj)):
            self.add_module(str(i), nn.ModuleDict({key: _expert(fused, key, i) for key in (first, "down_proj")}))
        # in a tuple, so that it does not count as a layer: its gate is needed, and has settings in each family
        self._first, self._shell = first, (_without_parameters(fused),)

    def forward(self, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
        """Tokens [n, D], the experts of each [n, k] and how much each of them counts [n, k] -> [n, D]."""
        mixed, experts = torch.zeros_like(hidden_states), dict(self.named_children())
        for i in top_k_index.unique().tolist():
            if str(i) not in experts:  # a place that is left empty
                continue
            token, place = (top_k_index == i).nonzero(as_tuple=True)
            inner = self._gated(experts[str(i)][self._first](hidden_states[token]))
            out = experts[str(i)]["down_proj"](inner) * top_k_weights[token, place, None]
            mixed.index_add_(0, token, out.to(mixed.dtype))
        return mixed

    def joined(self) -> nn.Module:
        """The fused experts that these were made of."""
        (shell,), experts, values = self._shell, list(self.children()), {}
        for key in (self._first, "down_proj"):
            matrices = [expert[key].weight.detach() for expert in experts]
            values[key] = torch.stack([m.T if shell.is_transposed else m for m in matrices])
            if experts[0][key].bias is not None:
                values[f"{key}_bias"] = torch.stack([expert[key].bias.detach() for expert in experts])
        return _with_parameters(shell, values, experts[0]["down_proj"].weight.requires_grad)

    def _gated(self, x: Tensor) -> Tensor:
        (shell,) = self._shell
        return shell._apply_gate(x) if shell.has_gate else shell.act_fn(x)


def _without_parameters(layer: nn.Module) -> nn.Module:
    """A copy of a layer that holds its settings, and nothing of its weights."""
    shell = copy.copy(layer)
    shell._parameters = dict.fromkeys(layer._parameters)
    shell._modules = {
        name: child for name, child in layer._modules.items() if not any(True for _ in child.parameters())
    }
    return shell


def _with_parameters(shell: nn.Module, values: dict[str, Tensor], trained: bool) -> nn.Module:
    layer = copy.copy(shell)
    layer._parameters = dict(shell._parameters) | {
        key: nn.Parameter(value.detach(), requires_grad=trained) for key, value in values.items()
    }
    layer._modules = dict(shell._modules)
    return layer


def _expert(fused: nn.Module, key: str, i: int) -> nn.Linear:
    weight, biases = getattr(fused, key), getattr(fused, f"{key}_bias", None)
    matrix = weight.detach()[i]
    bias = None if biases is None else biases.detach()[i]
    return _linear(matrix.T if fused.is_transposed else matrix, bias, weight.requires_grad)


def _linear(weight: Tensor, bias: Tensor | None, trained: bool) -> nn.Linear:
    """A Linear on the memory of a weight [out, in] and a bias [out]."""
    layer = nn.Linear(*weight.shape[::-1], bias=bias is not None, device="meta")
    layer.weight = nn.Parameter(weight.detach(), requires_grad=trained)
    if bias is not None:
        layer.bias = nn.Parameter(bias.detach(), requires_grad=trained)
    return layer


SEPARATE = (SeparateAttention, SeparateExperts, SeparateConvolution)


def _maker(layer: nn.Module, name: str, patches: Collection[str]):
    """What takes a layer apart, None where there is nothing to do or the layer is of a kind that is not known."""
    if separable(layer, name, patches):
        return SeparateConvolution
    if type(layer) is nn.MultiheadAttention:
        return None if layer.bias_k is not None or layer.add_zero_attn else SeparateAttention
    first = "gate_up_proj" if getattr(layer, "has_gate", None) else "up_proj"
    stacks = [getattr(layer, key, None) for key in (first, "down_proj")]
    fused = hasattr(layer, "_apply_gate") and hasattr(layer, "is_transposed")
    if not fused or not all(isinstance(stack, nn.Parameter) and stack.dim() == 3 for stack in stacks):
        return None
    known = {key for key in (first, "down_proj") for key in (key, f"{key}_bias")}
    return SeparateExperts if {key for key, _ in layer.named_parameters()} <= known else None
