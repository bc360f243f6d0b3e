"""SigLIP 2 NaFlex (Tschannen et al., 2025): images of any shape, as a list of patches that says how they stand."""

from __future__ import annotations

import torch
from torch import Tensor

from edgelib.models.families.dual import DualEncoder


def in_patches(pixels: Tensor, config) -> dict[str, Tensor]:
    """[N, 3, h, w], sides a multiple of the patch -> patches [N, rows * columns, patch * patch * 3], all of them real.

    The images of a batch have one shape, so that none needs padding.
    """
    size = config.vision_config.patch_size
    count, channels, height, width = pixels.shape
    rows, columns = height // size, width // size
    patches = pixels.reshape(count, channels, rows, size, columns, size).permute(0, 2, 4, 3, 5, 1)
    return {
        "pixel_values": patches.reshape(count, rows * columns, size * size * channels),
        "pixel_attention_mask": torch.ones(count, rows * columns, dtype=torch.int32, device=pixels.device),
        "spatial_shapes": torch.tensor([[rows, columns]] * count, device=pixels.device),
    }


FAMILY = DualEncoder(types=("siglip2",), fixed_length=True, image_inputs=in_patches)
