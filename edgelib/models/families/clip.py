"""CLIP (Radford et al., 2021)."""

from __future__ import annotations

from edgelib.models.families.dual import DualEncoder

FAMILY = DualEncoder(types=("clip",))
