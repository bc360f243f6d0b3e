"""A decoder of text alone and the passages that it reads: what nature is in this comparison."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from edgelib.data.passages import passages
from edgelib.errors import EdgelibError
from edgelib.ground.modules import converted
from edgelib.models.checks import reason_of, require_finite
from edgelib.models.generative_folder import quiet_transformers
from edgelib.models.load import load_tokenizer, model_folder
from edgelib.models.zero_shot import fingerprint_of

_AT_ONCE = 4  # passages in a batch: their scores over the vocabulary are the largest tensor


@dataclass(frozen=True)
class TextDecoder:
    """A decoder and its tokenizer; `module` is never modified."""

    name: str
    module: nn.Module = field(repr=False)
    tokenizer: Any = field(repr=False)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of every tensor and of the architecture."""
        return fingerprint_of(self.module, [type(self.module).__name__])

    def passages(self, split: str, n: int, length: int) -> list[Tensor]:
        """The first passages of a split as the decoder's tokens; raises EdgelibError as `passages` does."""
        return passages(split, self.tokenizer, n, length)


def load_decoder(name: str | Path) -> TextDecoder:
    """Return the decoder of text of a folder in the layout of transformers, a hub id, or a GGUF file, in float32.

    Weights are read from safetensors or GGUF only; code of a folder never runs. Raises EdgelibError for what does not
    load, has no tokenizer, or is no decoder of text alone.
    """
    path = Path(os.path.expanduser(str(name)))
    if path.suffix == ".gguf":
        from edgelib.models.gguf.reader import GGUFFile, load_gguf
        from edgelib.models.gguf.tokenizer import gguf_tokenizer

        return TextDecoder(path.stem, load_gguf(path), gguf_tokenizer(GGUFFile(path)))
    import transformers

    folder = model_folder(str(name))
    tokenizer = load_tokenizer(folder)
    try:
        with quiet_transformers():
            module = transformers.AutoModelForCausalLM.from_pretrained(
                folder, dtype=torch.float32, use_safetensors=True, local_files_only=True, trust_remote_code=False
            )
    except Exception as error:  # transformers raises many types
        raise EdgelibError(f"{folder} does not load as a decoder of text: {reason_of(error)}") from None
    require_finite(module, folder)
    module = converted(module, torch.float32).eval().requires_grad_(False)
    return TextDecoder(folder.resolve().name, module, tokenizer)


def batches(ids: list[Tensor]) -> Iterator[Tensor]:
    """Passages of one length, int64 [B, T]."""
    for start in range(0, len(ids), _AT_ONCE):
        yield torch.stack(ids[start : start + _AT_ONCE])


class Remembered(nn.Module):
    """The scores that a decoder gave to passages, kept: the reference of every divergence is computed once.

    Called like the decoder; knows the passages that it was made with, and raises EdgelibError for another.
    """

    def __init__(self, module: nn.Module, ids: list[Tensor]):
        super().__init__()
        self.config = SimpleNamespace(get_text_config=module.config.get_text_config)
        self.anchor = nn.Parameter(torch.zeros(1), requires_grad=False)  # says which device this is on
        self.known: dict[tuple[int, ...], Tensor] = {}
        with torch.no_grad():
            for batch in batches(ids):
                scores = module(input_ids=batch, use_cache=False).logits
                self.known |= {tuple(row.tolist()): own.clone() for row, own in zip(batch, scores, strict=True)}

    def forward(self, input_ids: Tensor, use_cache: bool = False) -> SimpleNamespace:
        keys = [tuple(row.tolist()) for row in input_ids]
        if any(key not in self.known for key in keys):
            raise EdgelibError("these scores are of other passages: make them anew with Remembered(module, passages)")
        return SimpleNamespace(logits=torch.stack([self.known[key] for key in keys]))


class Cached(nn.Module):
    """A decoder that reads every passage through a cache of its own."""

    def __init__(self, module: nn.Module, plan):
        super().__init__()
        self.module, self.plan, self.config = module, plan, module.config

    def forward(self, input_ids: Tensor, use_cache: bool = False):
        return self.module(input_ids=input_ids, past_key_values=self.plan(), use_cache=True)
