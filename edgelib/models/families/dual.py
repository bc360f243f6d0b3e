"""What a family of dual encoders has for itself: how its towers are given images and texts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

Inputs = dict[str, Tensor]  # what a tower takes, by name


def pixels_alone(pixels: Tensor, config) -> dict[str, Tensor]:
    """One rectangle of pixels for every image."""
    return {"pixel_values": pixels}


def projected_image(module: nn.Module, inputs: Inputs) -> Tensor:
    """Features [N, D] of images, as CLIP's class gives them."""
    return module.get_image_features(**inputs).pooler_output


def projected_text(module: nn.Module, inputs: Inputs) -> Tensor:
    """Features [N, D] of texts, as CLIP's class gives them."""
    return module.get_text_features(**inputs).pooler_output


@dataclass(frozen=True)
class DualEncoder:
    """How models of one family with an image tower and a text tower are read; the defaults are CLIP's.

    types: its names in config.json ("model_type"). fixed_length: whether texts are padded to the full context and read
    without a mask. image_inputs: (pixels [N, 3, h, w], configuration) -> what the image tower takes, by name. classes:
    the classes of transformers that compare images with texts, the first of which loads a folder, where the family has
    others as well; () for AutoModel. image_features, text_features: (network, inputs) -> features [N, D].
    """

    types: tuple[str, ...]
    fixed_length: bool = False
    image_inputs: Callable[[Tensor, object], Inputs] = pixels_alone
    classes: tuple[str, ...] = ()
    image_features: Callable[[nn.Module, Inputs], Tensor] = projected_image
    text_features: Callable[[nn.Module, Inputs], Tensor] = projected_text
