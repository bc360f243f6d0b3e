"""The dual encoders that are known, by their names in config.json."""

from __future__ import annotations

from collections.abc import Sequence

from edgelib.models.families import blip_itm, clip, siglip, siglip2
from edgelib.models.families.dual import DualEncoder

DUAL_ENCODERS: tuple[DualEncoder, ...] = (clip.FAMILY, siglip.FAMILY, siglip2.FAMILY, blip_itm.FAMILY)


def dual_encoder(model_type: str | None, architectures: Sequence[str] | None = None) -> DualEncoder | None:
    """The family of dual encoders that are called so in their config.json, None for one that is not known here.

    architectures: as config.json has them; they tell apart the classes of a family that also has models that write.
    """
    named = [family for family in DUAL_ENCODERS if model_type in family.types]
    classes = architectures if isinstance(architectures, list | tuple) else ()
    return next((f for f in named if not f.classes or any(name in f.classes for name in classes)), None)


def dual_types() -> list[str]:
    """The model types of all dual encoders."""
    return [kind for family in DUAL_ENCODERS for kind in family.types]
