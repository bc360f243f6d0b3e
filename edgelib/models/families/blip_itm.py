"""BLIP's image-text matching (Li et al., 2022) as a dual encoder, by the projections that it was contrasted with.

Its second score, a head that reads text and image together, takes a run for every pair of an image and a class; it and
the cross-attention that feeds it are not used.
"""

from __future__ import annotations

from torch import Tensor, nn

from edgelib.models.families.dual import DualEncoder, Inputs


def image_features(module: nn.Module, inputs: Inputs) -> Tensor:
    """The projection of the class token, which `use_itm_head=False` compares: [N, 3, H, W] -> [N, D]."""
    return module.vision_proj(module.vision_model(**inputs).last_hidden_state[:, 0])


def text_features(module: nn.Module, inputs: Inputs) -> Tensor:
    """The projection of the first token: [N, T] -> [N, D]."""
    return module.text_proj(module.text_encoder(**inputs).last_hidden_state[:, 0])


FAMILY = DualEncoder(
    types=("blip",),
    classes=("BlipForImageTextRetrieval",),
    image_features=image_features,
    text_features=text_features,
)
