"""How many tokens an image becomes: the limits of a processor, moved without touching the network."""

from __future__ import annotations

import copy
from dataclasses import replace

import torch
from transformers import Qwen2VLImageProcessor

from edgelib.errors import EdgelibError
from edgelib.models.generative import GenerativeModel


def with_image_tokens(model: GenerativeModel, tokens: int) -> GenerativeModel:
    """Return the same model behind a processor that resizes every image to about so many tokens.

    tokens: at least 1. Images keep their shape, so that one which is no square may become a few tokens more or less;
    `image_tokens` counts them. It is what llama.cpp sets by --image-min-tokens and --image-max-tokens.
    Raises EdgelibError for a processor without limits on the area of an image (those of the family Qwen2-VL have
    them), and for a number below 1.
    """
    if isinstance(tokens, bool) or not isinstance(tokens, int) or tokens < 1:
        raise EdgelibError(f"an image is at least 1 token, got {tokens!r}; choose a whole number such as 256")
    images = model.processor.image_processor
    if not isinstance(images, Qwen2VLImageProcessor):
        raise EdgelibError(
            f"the processor of {model.name} ({type(images).__name__}) sets no area of an image, so its tokens cannot "
            "be chosen; leave image_tokens empty for this model"
        )
    processor = copy.copy(model.processor)
    pixels = tokens * (images.patch_size * images.merge_size) ** 2
    limits = {"shortest_edge": pixels, "longest_edge": pixels}
    processor.image_processor = type(images).from_dict({**images.to_dict(), "size": limits})
    return replace(model, processor=processor)


def image_tokens(model: GenerativeModel, image: torch.Tensor) -> int:
    """Return how many tokens an image, uint8 [3, H, W], becomes in a prompt."""
    ids = model.prepare([image], ["a"]).texts["input_ids"]
    return int((ids == model.image_token).sum())
