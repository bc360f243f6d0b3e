"""Light: a sun that is too bright."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch

from edgelib.corruptions.registry import corruption


@lru_cache
def brightness_table(shift: float) -> np.ndarray:
    """Return uint8 [65536]: at 256 * peak + value the new value of a channel of a pixel whose largest channel is peak.

    With hue and saturation fixed the channels of a pixel stay in proportion: value * V' / V, V' = min(V + shift, 1).
    """
    peak, value = np.arange(256)[:, None], np.arange(256)
    lighter = np.clip(peak / 255 + shift, 0, 1)
    ratio = np.where(value >= peak, 1, 1 - (peak - value) / np.maximum(peak, 1))
    return np.trunc(lighter * ratio * 255).astype(np.uint8).ravel()


@corruption(
    "weather",
    "added to V of HSV, in units of the full range",
    imagenet_c=(0.1, 0.2, 0.3, 0.4, 0.5),
    cifar_c=(0.05, 0.1, 0.15, 0.2, 0.3),
    source="imagecorruptions 1.1.2 and make_cifar_c.py of hendrycks/robustness, by scikit-image's HSV",
)
def brightness(images, shift, _keys):
    """v V' / V with V the largest channel of the pixel and V' = min(V + 255 shift, 255); truncated to integers."""
    table = torch.from_numpy(brightness_table(shift)).to(images.device)
    place = (images.amax(dim=1, keepdim=True).to(torch.int32) << 8) + images.to(torch.int32)
    return table.index_select(0, place.flatten()).view(images.shape)
