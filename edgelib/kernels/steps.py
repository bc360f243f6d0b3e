"""Decoding with a growing key-value cache by torch, ONNX Runtime or OpenVINO, behind one call.

A step reads any number of tokens: a whole prompt, and then one token after the other, by one and the same graph.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from edgelib.errors import EdgelibError, choose
from edgelib.ground.modules import shared_copy
from edgelib.kernels.table import KERNELS, ONNX, WHOLE, opener, prepared, why_not
from edgelib.observe.calibrate import module_of


class Step(NamedTuple):
    """What a step returns. logits [batch, vocabulary] of the next token; cache: to pass to the next step."""

    logits: Tensor
    cache: object


class TorchDecoder:
    """A causal language model of transformers as it is: `step(tokens [batch, n], position, cache)`."""

    def __init__(self, module: nn.Module):
        self.module = module

    @torch.inference_mode()
    def step(self, tokens: Tensor, position: int, cache: object = None) -> Step:
        """Read tokens from a position on and return the scores of the next, with the cache of all read so far."""
        place = _places(tokens, position)
        given = dict(input_ids=tokens, position_ids=place, past_key_values=cache)
        out = self.module(**given, use_cache=True, logits_to_keep=1)
        return Step(out.logits[:, -1].float(), out.past_key_values)


class OnnxDecoder:
    """The same by an ONNX Runtime session; keys and values stay in its memory between steps."""

    def __init__(self, model, shape: tuple[int, int, int]):
        self.model = model
        self.layers, self.heads, self.width = shape

    @property
    def bytes(self) -> int:
        """The size of the ONNX file."""
        return self.model.bytes

    def step(self, tokens: Tensor, position: int, cache: list | None = None) -> Step:
        """Read tokens from a position on and return the scores of the next, with the cache of all read so far."""
        from onnxruntime import OrtValue

        if cache is None:
            empty = torch.zeros(len(tokens), self.heads, 0, self.width).numpy()
            cache = [OrtValue.ortvalue_from_numpy(empty) for _ in range(2 * self.layers)]
        given = [OrtValue.ortvalue_from_numpy(t.numpy()) for t in (tokens, _places(tokens, position))]
        feeds = dict(zip(self.model.names, [*given, *cache], strict=True))
        logits, *longer = self.model.session.run_with_ort_values(None, feeds)
        return Step(torch.from_numpy(logits.numpy()), longer)


class OpenvinoDecoder(OnnxDecoder):
    """The same by OpenVINO; keys and values go out and in again at every step."""

    def step(self, tokens: Tensor, position: int, cache: list | None = None) -> Step:
        """Read tokens from a position on and return the scores of the next, with the cache of all read so far."""
        if cache is None:
            cache = [torch.zeros(len(tokens), self.heads, 0, self.width) for _ in range(2 * self.layers)]
        logits, *longer = self.model.run([tokens, _places(tokens, position), *cache])
        return Step(logits, longer)


@dataclass(frozen=True)
class Decoded:
    """Greedy continuation: tokens [batch, n], and the logits [batch, n, vocabulary] that chose them."""

    tokens: Tensor
    logits: Tensor


def decode(decoder, prompt: Tensor, n: int) -> Decoded:
    """Read a prompt [batch, length] at once and append n tokens greedily."""
    logits, cache = decoder.step(prompt, 0)
    chosen, scores = [logits.argmax(-1, keepdim=True)], [logits]
    for position in range(prompt.shape[1], prompt.shape[1] + n - 1):
        logits, cache = decoder.step(chosen[-1], position, cache)
        scores.append(logits)
        chosen.append(logits.argmax(-1, keepdim=True))
    return Decoded(torch.cat(chosen, 1), torch.stack(scores, 1))


def _places(tokens: Tensor, position: int) -> Tensor:
    """The positions [batch, n] of tokens [batch, n], of which the first stands at `position`."""
    return torch.arange(position, position + tokens.shape[1], device=tokens.device).repeat(len(tokens), 1)


def decoder_of(model, kernel: str = "torch-fp32", *, threads: int | None = None) -> TorchDecoder | OnnxDecoder:
    """Return what decodes by a kernel, whole prompts and single tokens.

    model: a causal language model of transformers such as Qwen2ForCausalLM, the baseline or quantized by a scheme that
    the kernel multiplies; a quantized model decodes as simulated by "torch-fp32".
    Raises EdgelibError as `with_kernel` does, and for another kind of model.
    """
    chosen, module = choose(KERNELS, kernel, "kernel"), module_of(model)
    reason = why_not(chosen)
    if reason:
        raise EdgelibError(f"kernel {kernel!r} cannot run here: {reason}")
    if kernel == "torch-fp32":
        return TorchDecoder(shared_copy(module).float())
    if kernel == "torch-bf16":
        return TorchDecoder(prepared(model, kernel))
    if chosen.runtime not in WHOLE:
        raise EdgelibError(
            f"decoding by {kernel!r} is not built; choose torch-fp32, torch-bf16, or a kernel of onnx or openvino"
        )
    config = module.config.get_text_config() if hasattr(module, "config") else None
    heads = getattr(config, "num_key_value_heads", None)
    if heads is None:
        raise EdgelibError(f"{type(module).__name__} is no causal language model with grouped keys and values")
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    layers = config.num_hidden_layers
    cache = [torch.zeros(1, heads, 3, width) for _ in range(2 * layers)]
    inputs = [torch.zeros(1, 2, dtype=torch.long), torch.tensor([[3, 4]]), *cache]
    free = [[0, 1], [0, 1], *([[0, 2]] * len(cache))]
    names = ["logits", *(f"present_{i}" for i in range(len(cache)))]
    step = _Step(prepared(model, kernel))
    step.module.set_attn_implementation(_grouped_attention_name())
    made = opener(chosen)(step, inputs, free, threads=threads, outputs=names)
    return (OnnxDecoder if chosen.runtime == ONNX else OpenvinoDecoder)(made, (layers, heads, width))


class _Step(nn.Module):
    """Tokens through a causal language model, its cache as plain tensors: keys and values of each layer in turn."""

    def __init__(self, module: nn.Module):
        super().__init__()
        self.module = module

    def forward(self, tokens: Tensor, positions: Tensor, *past: Tensor) -> tuple[Tensor, ...]:
        from transformers import DynamicCache

        cache = DynamicCache(list(zip(past[::2], past[1::2], strict=True)))
        out = self.module(
            input_ids=tokens,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            attention_mask=_later_hidden(tokens, past[0]),
            logits_to_keep=1,
        )
        present = [part for layer in out.past_key_values.layers for part in (layer.keys, layer.values)]
        return (out.logits[:, -1], *present)


def _later_hidden(tokens: Tensor, past: Tensor) -> Tensor:
    """What is added to attention's products [1, 1, n, past + n]: 0, and the least number for tokens that come later."""
    read = torch.arange(past.shape[2] + tokens.shape[1])
    later = read > read[past.shape[2] :].unsqueeze(1)
    return torch.where(later, torch.finfo(torch.float32).min, 0.0)[None, None]


def _grouped_attention_name() -> str:
    """Register attention that repeats no keys under a name that transformers takes, and return the name."""
    from transformers import AttentionInterface

    AttentionInterface.register("edgelib_grouped", _grouped_attention)
    return "edgelib_grouped"


def _grouped_attention(layer, query, key, value, attention_mask, scaling, **_) -> tuple[Tensor, None]:
    """query [batch, heads, n, width] on keys and values [batch, groups, length, width], which are not repeated.

    Repeating them for every head of a group, as transformers does, copies the whole cache in every layer and step.
    """
    batch, heads, n, width = query.shape
    rows = batch, key.shape[1], -1
    products = query.reshape(*rows, width) @ key.transpose(2, 3) * scaling
    weights = (products.reshape(batch, heads, n, -1) + attention_mask).softmax(-1)
    mixed = weights.reshape(*rows, key.shape[2]) @ value
    return mixed.reshape(batch, heads, n, width).transpose(1, 2), None
