"""Generation of a loaded model about images, its first and later tokens timed in one run."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList

from edgelib.devices.profiling import Marks
from edgelib.models.generative import GenerativeModel

QUESTION = "What is in the image?"


class _Clock(LogitsProcessor):
    """Marks when the scores of a token are there, and changes nothing."""

    def __init__(self, marks: Marks):
        self.marks = marks

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        self.marks.mark()
        return scores


class Answering:
    """A batch of questions about images, prepared once, answered greedily as often as wanted.

    images: uint8 [3, H, W] each. apart: whether images are encoded before the prompt is read, which is timed then.
    tokens: of the longest prompt; image_tokens: how many of them stand for its image.
    """

    def __init__(self, model: GenerativeModel, images: Sequence[Tensor]):
        self.model, self.images = model, list(images)
        self.prompts = self.prepare()
        self.apart = bool(self.prompts.pixels) and self.encode() is not None
        if self.prompts.pixels and not self.apart:
            self.prompts = self.prepare()  # every question brings its image
        ids = self.prompts.texts["input_ids"]
        token = model.image_token
        self.tokens = ids.shape[1]
        self.image_tokens = 0 if token is None else int((ids == token).sum(dim=1).max())
        self.cache: object = None

    def prepare(self):
        """Make the inputs from the images, as the processor does."""
        return self.model.prepare(self.images, [QUESTION] * len(self.images))

    @torch.inference_mode()
    def encode(self):
        """Features of the images, as the vision tower makes them."""
        return self.model.features(self.prompts.pixels)

    @torch.inference_mode()
    def run(self, new_tokens: int) -> np.ndarray:
        """Answer and return marks in ms [2 + new_tokens]: 0, images encoded, then the end of every token.

        Without images encoded apart the second mark is at the start too. Answers do not end before new_tokens.
        """
        marks = Marks(self.model.device)
        marks.mark()
        features = self.encode() if self.apart else None
        marks.mark()
        inputs = self.model.decoder_inputs(self.prompts, features)
        made = self.model.module.generate(
            **inputs,
            max_new_tokens=new_tokens,
            min_new_tokens=new_tokens,
            do_sample=False,
            logits_processor=LogitsProcessorList([_Clock(marks)]),
            return_dict_in_generate=True,
        )
        self.cache = getattr(made, "past_key_values", None)
        return marks.ms()

    def cache_bytes(self) -> int:
        """Bytes of keys and values after a run; 0 where the family returns none."""
        caches = [getattr(self.cache, name, None) for name in ("self_attention_cache", "cross_attention_cache")]
        layers = [layer for part in (caches if any(caches) else [self.cache]) for layer in getattr(part, "layers", [])]
        tensors = [t for layer in layers for t in (getattr(layer, "keys", None), getattr(layer, "values", None))]
        return sum(t.numel() * t.element_size() for t in tensors if t is not None)
