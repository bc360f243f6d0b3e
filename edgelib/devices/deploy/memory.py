"""What a deployment must hold in memory at once, part by part: does it fit?

A file that fits is not a model that fits. Beside the weights of every part lie the cache of keys and values, the
tokens of the image, the activations of the widest layer, the runtime's libraries, and what the system keeps.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from edgelib.devices.device import GIB, Device
from edgelib.devices.shapes import Decoder, Encoder
from edgelib.errors import EdgelibError, choose

WEIGHTS = ("vision tower", "text tower", "connector", "embeddings", "head")
PARTS = (*WEIGHTS, "cache", "image tokens", "activations", "runtime", "system")
MIB = 2**20


def encoder_activations(shape: Encoder, bits: float = 16, batch: int = 1) -> float:
    """Return the bytes that one pass of an encoder keeps at its widest point, beside its weights.

    bits: of activations. The residual stream lies beside either queries, keys, values, scores of all heads and their
    output, or both sides of the MLP's non-linearity. Kernels that never write the scores need less.
    """
    t, h = shape.tokens, shape.hidden
    attention = 4 * t * h + shape.heads * t * t
    return batch * (t * h + max(attention, 2 * t * shape.mlp)) * bits / 8 + batch * 3 * shape.image**2 * bits / 8


def decoder_activations(shape: Decoder, tokens: int, bits: float = 16, batch: int = 1) -> float:
    """Return the bytes that reading a prompt keeps at its widest point, and the scores of all words for one token.

    tokens: of the prompt, image tokens included. Attention is taken to be fused: no runtime for generation writes the
    scores of all pairs of tokens.
    """
    attention = tokens * shape.head_dim * (2 * shape.heads + 2 * shape.kv_heads)
    widest = tokens * shape.hidden + max(attention, 3 * tokens * shape.mlp)
    return batch * (widest * bits / 8 + 4 * shape.vocab)


def image_tokens(shape: Encoder, decoder: Decoder | None = None, *, merge: int = 2) -> int:
    """Return the tokens that one image takes in the context of a decoder; 0 where none reads it.

    merge: side of the square of patches that a connector joins to one token, 2 in Qwen2-VL.
    """
    return 0 if decoder is None else (shape.image // shape.patch // merge) ** 2


def memory_parts(
    weights: Mapping[str, float],
    *,
    encoder: Encoder | None,
    decoder: Decoder | None = None,
    context: int = 0,
    bits: float = 16,
    kv_bits: float = 16,
    batch: int = 1,
    runtime_mib: float = 0.0,
) -> dict[str, float]:
    """Return {part: bytes} of all that a deployment holds at once, in the order of `PARTS`, but for the system.

    weights: {part of `WEIGHTS`: bytes}. encoder: None for a model that sees nothing. context: tokens of text that a
    decoder keeps; the image's tokens come on top, as a part of their own. bits: of activations; kv_bits: of keys and
    values. runtime_mib: of `Runtime.memory_mib`.
    Raises EdgelibError for an unknown part, bytes below 0, and a context where nothing reads one.
    """
    for part, size in weights.items():
        choose(dict.fromkeys(WEIGHTS), part, "part of a model's weights")
        if not np.isfinite(size) or size < 0:
            raise EdgelibError(f"{part!r} must take at least 0 bytes, got {size!r}")
    if context < 0 or (context and decoder is None):
        raise EdgelibError(f"context must be 0 for a model without a decoder and at least 0 else, got {context}")
    found = {part: float(weights.get(part, 0)) for part in WEIGHTS}
    seen = 0.0 if encoder is None else encoder_activations(encoder, bits, batch)
    shown = 0 if encoder is None else image_tokens(encoder, decoder)
    if decoder is None:
        found |= {"cache": 0.0, "image tokens": 0.0, "activations": seen}
    else:
        found["cache"] = batch * decoder.kv_bytes(context, kv_bits)
        # an image is in the context twice: as the vectors that the decoder reads, and as their keys and values
        found["image tokens"] = batch * (decoder.kv_bytes(shown, kv_bits) + shown * decoder.hidden * bits / 8)
        # the encoder is done before the decoder starts, so the larger of the two counts
        found["activations"] = max(seen, decoder_activations(decoder, context + shown, bits, batch))
    return found | {"runtime": runtime_mib * MIB}


def system_bytes(device: Device) -> float:
    """Return what the system of a device keeps of its fitted memory; raises EdgelibError where that is not known."""
    return (device.fact("memory_gib") - device.fact("usable_gib")) * GIB
