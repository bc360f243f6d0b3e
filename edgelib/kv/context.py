"""What a cache has to know of the forward pass that fills it: which tokens are padding or image, and where they stand.

A cache layer is handed rotated keys and values and nothing else. Hooks on the model note the rest and go when the cache
goes.
"""

from __future__ import annotations

import sys
import weakref
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from edgelib.errors import EdgelibError
from edgelib.formats.blocks import widened
from edgelib.observe.attention import Attention, attention_blocks
from edgelib.observe.calibrate import module_of

UNSTABLE_ROPE = ("dynamic", "longrope")  # rotations that depend on the length of the sequence


@dataclass(frozen=True)
class Decoder:
    """The attention blocks of a text decoder by layer, its rotary embedding (None without one), its configuration."""

    module: nn.Module
    blocks: tuple[Attention, ...]
    rotary: nn.Module | None
    config: object

    @property
    def head_dim(self) -> int:
        return self.blocks[0].block.head_dim

    @property
    def kv_heads(self) -> int:
        return self.blocks[0].k.out_features // self.head_dim

    @cached_property
    def image_tokens(self) -> tuple[int, ...]:
        """Ids of the tokens that stand for pieces of images or videos; empty for a text model."""
        config = self.module.config
        names = ("image_token_id", "image_token_index", "video_token_id", "video_token_index")
        return tuple(i for i in dict.fromkeys(getattr(config, name, None) for name in names) if i is not None)

    def has_key_bias(self) -> bool:
        """Whether the keys are rotated k_proj outputs with a bias, and nothing else."""
        plain = all(getattr(a.block, "k_norm", None) is None for a in self.blocks)
        return plain and all(a.k.bias is not None for a in self.blocks) and self.rotary is not None

    def rotated(self, layer: int, x: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
        """x [B, H, T, D] rotated as the layer rotates its keys, by the (cos, sin) of its positions."""
        rotate = getattr(sys.modules[type(self.blocks[layer].block).__module__], "apply_rotary_pos_emb", None)
        if rotate is None:
            kind = type(self.blocks[layer].block).__name__
            raise EdgelibError(f"how {kind} rotates its keys is not known here; choose an offset other than 'bias'")
        return rotate(x, x, *rotation)[1]

    def bias(self, layer: int) -> Tensor:
        """The bias of k_proj as [1, H, 1, D]."""
        return self.blocks[layer].k.bias.detach().view(1, -1, 1, self.head_dim)


def decoder_of(model) -> Decoder:
    """Return the text decoder of a loaded model or of a transformers module.

    Raises EdgelibError for a model without one that transformers could give a key-value cache.
    """
    module = module_of(model)
    blocks = [a for a in attention_blocks(module) if isinstance(getattr(a.block, "layer_idx", None), int)]
    blocks = sorted((a for a in blocks if hasattr(a.block, "head_dim")), key=lambda a: a.block.layer_idx)
    if not blocks or not hasattr(module, "generate"):
        raise EdgelibError(
            f"{type(module).__name__} has no key-value cache: it is not a decoder of transformers with q_proj, k_proj, "
            "v_proj and o_proj; load a model that writes text, such as a Qwen2-VL"
        )
    config = module.config.get_text_config(decoder=True)
    if [a.block.layer_idx for a in blocks] != list(range(config.num_hidden_layers)):
        raise EdgelibError(
            f"{type(module).__name__} has {config.num_hidden_layers} layers and {len(blocks)} attention blocks whose "
            "keys and values could be stored; layers of other kinds are not supported"
        )
    stem = blocks[0].name.rpartition(".layers.")[0]
    rotary = getattr(module.get_submodule(stem), "rotary_emb", None)
    return Decoder(module, tuple(blocks), rotary, config)


class Context:
    """What hooks saw of the current forward pass of a cache, and the positions of all its tokens.

    valid, image: bool [B, n] of the new tokens, None where nothing is padded or no image token is known. rotation:
    (cos, sin) of the new tokens. Positions are kept as int32 [..., B, T], shared by all layers.
    """

    def __init__(self, decoder: Decoder, keep_positions: bool):
        self.decoder, self.keep_positions = decoder, keep_positions
        self.valid: Tensor | None = None
        self.image: Tensor | None = None
        self.rotation: tuple[Tensor, Tensor] | None = None
        self.positions: Tensor | None = None
        self._all: tuple[Tensor, Tensor] | None = None
        self._running = False

    def watch(self, cache) -> None:
        """Note every forward pass of the model that is given `cache`, until the cache is gone."""
        cache, me = weakref.ref(cache), weakref.ref(self)

        def before(module, args, kwargs):
            context = me()
            if context is not None:
                context.enter(kwargs, cache())

        def rotated(module, args, kwargs, output):
            context = me()
            if context is not None and context._running and isinstance(output, tuple):
                context._place(args, kwargs, output)

        hooks = [self.decoder.module.register_forward_pre_hook(before, with_kwargs=True)]
        if self.keep_positions:
            hooks.append(self.decoder.rotary.register_forward_hook(rotated, with_kwargs=True))
        weakref.finalize(self, _remove, hooks)

    def enter(self, kwargs: dict, cache) -> None:
        """Look at the arguments of a forward pass, which concerns this context if it is given `cache`."""
        self._running = cache is not None and kwargs.get("past_key_values") is cache
        if not self._running:
            return
        ids, mask = kwargs.get("input_ids"), kwargs.get("attention_mask")
        new = ids if ids is not None else kwargs.get("inputs_embeds")
        self.valid = self.image = self.rotation = self._all = None
        if new is None:
            return
        n, stored = new.shape[1], cache.get_seq_length()
        if isinstance(mask, Tensor) and mask.dim() == 2:
            if mask.shape[1] != stored + n:
                raise EdgelibError(
                    f"this cache holds {stored} tokens of another batch: the attention mask has {mask.shape[1]} places "
                    f"and {n} tokens are new; make a fresh cache for every batch"
                )
            self.valid = mask[:, -n:].bool()
        if ids is not None and self.decoder.image_tokens:
            self.image = torch.isin(ids, torch.tensor(self.decoder.image_tokens, device=ids.device))

    def _place(self, args, kwargs, rotation: tuple[Tensor, Tensor]) -> None:
        position = kwargs["position_ids"] if "position_ids" in kwargs else args[1]
        position = position.expand(*position.shape[:-2], len(args[0]), -1).to(torch.int32)
        self.rotation = rotation
        self.positions = position if self.positions is None else torch.cat([self.positions, position], -1)

    def rotation_of_last(self, n: int, like: Tensor) -> tuple[Tensor, Tensor]:
        """(cos, sin) of the newest n tokens, computed once per forward pass."""
        if self._all is None:
            with torch.no_grad():
                self._running = False
                self._all = self.decoder.rotary(like, self.positions.long())
                self._running = True
        return tuple(part[:, -n:] for part in self._all)

    def select(self, rows: Tensor) -> None:
        if self.positions is not None:
            self.positions, self._all = self.positions.index_select(-2, rows), None

    @property
    def nbytes(self) -> int:
        return 0 if self.positions is None else self.positions.numel() * self.positions.element_size()


def _remove(hooks: list) -> None:
    for hook in hooks:
        hook.remove()


def token_mean(x: Tensor, valid: Tensor | None) -> Tensor:
    """Mean [B, H, 1, D] over the tokens of x [B, H, T, D] that are no padding, in the dtype of x."""
    wide = widened(x)  # half floats do not hold the sum
    if valid is None:
        return wide.mean(-2, keepdim=True).to(x.dtype)
    weight = valid.to(wide.dtype)[:, None, :, None]
    mean = (wide * weight).sum(-2, keepdim=True) / weight.sum(-2, keepdim=True).clamp(min=1)
    return mean.to(x.dtype)


def rotated_bias(context: Context, layer: int, n: int, like: Tensor) -> Tensor:
    """The bias of k_proj [B, H, n, D] rotated to the positions of the newest n tokens."""
    if context.positions is None or context.rotation is None:
        raise EdgelibError("the positions of these tokens are not known: pass the cache by name, past_key_values=cache")
    decoder = context.decoder
    return decoder.rotated(layer, decoder.bias(layer).to(like.dtype), context.rotation_of_last(n, like))
