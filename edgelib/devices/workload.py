"""What one step of a model has to move and to compute, from its public dimensions: parameters, bytes, operations.

A step is an encoder pass, the prefill of a prompt, or one token of generation. Operations count a multiplication and an
addition as two. Linear layers and attention are counted; norms, activations and softmax are not, which is below 1 %.
"""

from __future__ import annotations

from dataclasses import dataclass

from edgelib.devices.shapes import Decoder, Encoder
from edgelib.errors import EdgelibError


@dataclass(frozen=True)
class Work:
    """One step: bytes of weights and of everything else that it moves, operations, and layers it passes through."""

    weight_bytes: float
    other_bytes: float
    operations: float
    layers: int

    @property
    def bytes(self) -> float:
        return self.weight_bytes + self.other_bytes

    @property
    def intensity(self) -> float:
        """Operations per byte."""
        return self.operations / self.bytes


def _positive(**values) -> None:
    for name, value in values.items():
        if isinstance(value, bool) or not value > 0:
            raise EdgelibError(f"{name} must be above 0, got {value!r}")


def decode_work(
    model: Decoder, weight_bits: float, *, context: int = 1, batch: int = 1, head_bits: float = 16, kv_bits: float = 16
) -> Work:
    """Return the work of one generated token per sequence: all weights once, the keys and values of each sequence.

    weight_bits: bits per weight of the body, scales included; head_bits: of the output head. context: tokens that
    attention reaches back to.
    """
    _positive(weight_bits=weight_bits, context=context, batch=batch, head_bits=head_bits, kv_bits=kv_bits)
    weights = (model.body * weight_bits + model.head * head_bits) / 8
    attention = 4 * model.layers * model.heads * model.head_dim * context
    operations = batch * (2 * (model.body + model.head) + attention)
    return Work(weights, batch * model.kv_bytes(context, kv_bits), operations, model.layers)


def prefill_work(
    model: Decoder, weight_bits: float, *, prompt: int, batch: int = 1, head_bits: float = 16, kv_bits: float = 16
) -> Work:
    """Return the work of reading a prompt and giving the first token: only the last position meets the output head."""
    _positive(weight_bits=weight_bits, prompt=prompt, batch=batch, head_bits=head_bits, kv_bits=kv_bits)
    weights = (model.body * weight_bits + model.head * head_bits) / 8
    # Each position attends to itself and those before it: on average half of the prompt.
    attention = 4 * model.layers * model.heads * model.head_dim * prompt * (prompt + 1) / 2
    operations = batch * (2 * model.body * prompt + 2 * model.head + attention)
    moved = batch * (model.kv_bytes(prompt, kv_bits) + 2 * 2 * model.layers * model.hidden * prompt)
    return Work(weights, moved, operations, model.layers)


def encode_work(model: Encoder, weight_bits: float, *, batch: int = 1, other_bits: float = 32) -> Work:
    """Return the work of a batch of images through the encoder; other_bits: of stem and activations."""
    _positive(weight_bits=weight_bits, batch=batch, other_bits=other_bits)
    weights = (model.body * weight_bits + model.stem * other_bits) / 8
    attention = 4 * model.layers * model.hidden * model.tokens**2
    stem = 2 * (3 * model.patch**2 * model.hidden * (model.tokens - model.extra) + model.hidden * model.projection)
    operations = batch * (2 * model.body * model.tokens + attention + stem)
    # Each block reads and writes its residual stream, its projections and the wide middle of its MLP.
    activations = model.layers * model.tokens * (8 * model.hidden + 2 * model.mlp)
    return Work(weights, batch * activations * other_bits / 8, operations, model.layers)
