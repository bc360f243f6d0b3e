"""What a family of dual encoders has for itself: how its towers are given images and texts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor


def pixels_alone(pixels: Tensor, config) -> dict[str, Tensor]:
    """One rectangle of pixels for every image."""
    return {"pixel_values": pixels}


@dataclass(frozen=True)
class DualEncoder:
    """How models of one family with an image tower and a text tower are read; the defaults are CLIP's.

    types: its names in config.json ("model_type"). fixed_length: whether texts are padded to the full context and read
    without a mask. image_inputs: (pixels [N, 3, h, w], configuration) -> what `get_image_features` takes, by name.
    """

    types: tuple[str, ...]
    fixed_length: bool = False
    image_inputs: Callable[[Tensor, object], dict[str, Tensor]] = pixels_alone
