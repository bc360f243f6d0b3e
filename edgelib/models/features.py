"""What a vision tower makes of several images, kept by image, so that any prompts can be given those of their own.

Transformers returns it in the shapes of each family: a tensor of equal tiles, of which an image may have several, all
tokens in a row, or a list. What belongs to an image is known by how many image tokens its prompt has.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from edgelib.errors import EdgelibError

_MAIN = ("pooler_output", "last_hidden_state")  # where features stand; the second only if there is no first
_UNREAD = {*_MAIN, "hidden_states", "attentions"}  # of a vision tower, which no decoder reads beside the features


@dataclass(frozen=True)
class ImageFeatures:
    """Features of n images. kind: the output class of transformers. fields: what it holds, each a value by image."""

    kind: type
    fields: dict[str, list]

    def __len__(self) -> int:
        return len(next(iter(self.fields.values())))

    def of(self, images: Sequence[int]) -> Any:
        """The output that the vision tower would give for these images, repeated or left out as they come."""
        return self.kind(**{name: _joined([parts[i] for i in images]) for name, parts in self.fields.items()})


def by_image(output: Any, tokens: Sequence[int]) -> ImageFeatures:
    """Take the output of a vision tower apart. tokens: how many image tokens each image has in a prompt.

    Its features are those of images or of their tiles in order; any other field that a decoder may read has to be a
    list of such by layer (deepstack). Raises EdgelibError for anything else.
    """
    main = next((name for name in _MAIN if output.get(name) is not None), None)
    if main is None:
        raise EdgelibError("its vision tower returns no features under a known name")
    fields = {main: _split(output[main], tokens, main)}
    for name in sorted(set(output.keys()) - _UNREAD):
        if not isinstance(output[name], list | tuple):
            raise EdgelibError(f"what belongs to which image is not known of {name}, which its vision tower returns")
        layers = [_split(layer, tokens, name) for layer in output[name]]
        fields[name] = [_Layers(parts) for parts in zip(*layers, strict=True)]
    return ImageFeatures(type(output), fields)


class _Layers(tuple):
    """What an image gives to each of several layers."""


def _split(value: Any, tokens: Sequence[int], name: str) -> list:
    """Cut a tensor [entries, ..., D], or a list of tensors [..., D], behind each image."""
    if isinstance(value, Tensor) and value.dim() > 1:
        each = [value[0, ..., 0].numel()] * len(value)
    elif isinstance(value, list | tuple) and all(isinstance(part, Tensor) for part in value):
        each = [part[..., 0].numel() for part in value]
    else:
        raise EdgelibError(f"its vision tower returns {name} as {type(value).__name__}, which cannot be taken apart")
    ends = {end: place for place, end in enumerate([0, *accumulate(each)])}
    wanted = [0, *accumulate(tokens)]
    if not set(wanted) <= set(ends) or wanted[-1] != sum(each):
        raise EdgelibError(
            f"its vision tower returns {name} for {sum(each)} tokens where the prompts have {wanted[-1]}"
        )
    places = [ends[end] for end in wanted]
    return [value[a:b] for a, b in zip(places, places[1:], strict=False)]


def _joined(parts: list) -> Any:
    """The opposite of `_split`."""
    if isinstance(parts[0], Tensor):
        return torch.cat(parts)
    if isinstance(parts[0], _Layers):
        return [_joined(list(layer)) for layer in zip(*parts, strict=True)]
    return [entry for part in parts for entry in part]
