"""The embedded models by name: what trains each, and its recipe."""

from __future__ import annotations

from collections.abc import Callable

from edgelib.train import clip, vit, vlm

TRAINERS: dict[str, tuple[Callable[..., None], type]] = {
    "scenes-clip": (clip.train, clip.ClipRecipe),
    "scenes-vit": (vit.train, vit.VitRecipe),
    "scenes-vlm": (vlm.train, vlm.VlmRecipe),
}
