"""How many bytes each part of a model takes in a configuration: towers, connector, embeddings, head."""

from __future__ import annotations

import torch
from torch import nn

from edgelib.devices.deploy.memory import WEIGHTS
from edgelib.files.size import other_bits
from edgelib.files.slots import slots, storage_by
from edgelib.ground.separate import separated
from edgelib.observe.calibrate import module_of
from edgelib.quant.scheme import scheme_for

# Steps of a parameter's name that tell its part, the first match counts; whatever matches none reads text.
_STEPS = (
    ("connector", ("merger", "projector", "connector", "projection", "_proj_out", "aligner", "qformer")),
    ("head", ("lm_head",)),
    ("vision tower", ("vision", "visual", "image_encoder")),
    ("embeddings", ("embed_tokens", "token_embedding", "position_embedding", "word_embeddings", "wte", "wpe")),
)


def part_of(name: str) -> str:
    """Return the part of a model that a parameter belongs to by its name, one of `WEIGHTS`."""
    steps = name.split(".")
    top = [step for step in steps if not step.endswith("_proj")]  # q_proj and the like are inside a tower
    for part, words in _STEPS:
        if any(word in step for step in top for word in words):
            return part
    return "text tower"


def part_bytes(model, config: str) -> dict[str, int]:
    """Return {part: bytes} of a model's packed file in a configuration; they add up to `stored_bytes`.

    model: a ZeroShotModel or any nn.Module, also one on the meta device.
    Raises EdgelibError for a configuration that the model does not take.
    """
    module: nn.Module = separated(module_of(model))
    other = torch.float32 if other_bits(config) == 32 else torch.float16
    found = dict.fromkeys(WEIGHTS, 0)
    for slot, _ in slots(module, storage_by(module, scheme_for(module, config)), other):
        found[part_of(slot.name)] += slot.bytes
    return found
