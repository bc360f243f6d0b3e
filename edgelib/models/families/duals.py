"""The dual encoders that are known, by their names in config.json."""

from __future__ import annotations

from edgelib.models.families import clip, siglip, siglip2
from edgelib.models.families.dual import DualEncoder

DUAL_ENCODERS: tuple[DualEncoder, ...] = (clip.FAMILY, siglip.FAMILY, siglip2.FAMILY)


def dual_encoder(model_type: str | None) -> DualEncoder | None:
    """The family of dual encoders that are called so in their config.json, None for one that is not known here."""
    return next((family for family in DUAL_ENCODERS if model_type in family.types), None)


def dual_types() -> list[str]:
    """The model types of all dual encoders."""
    return [kind for family in DUAL_ENCODERS for kind in family.types]
