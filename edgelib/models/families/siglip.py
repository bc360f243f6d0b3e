"""SigLIP (Zhai et al., 2023), and the SigLIP 2 models of one image size, which are saved as it is."""

from __future__ import annotations

from edgelib.models.families.dual import DualEncoder

FAMILY = DualEncoder(types=("siglip",), fixed_length=True)  # it was trained on padded prompts, without a mask
