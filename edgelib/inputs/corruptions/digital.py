"""What digital pipelines do to pictures: contrast, compression, resampling."""

from __future__ import annotations

from functools import lru_cache
from io import BytesIO

import numpy as np
import torch
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile
from torch import Tensor

from .registry import corruption


@corruption("digital", "multiplier of the distance to the mean of the channel",
            imagenet_c=(0.4, 0.3, 0.2, 0.1, 0.05), cifar_c=(0.75, 0.5, 0.4, 0.3, 0.15),
            source="imagecorruptions 1.1.2 and make_cifar_c.py of hendrycks/robustness",
            notes="The mean is taken per channel over the whole image. Truncated to integers.")
def contrast(images, factor, _keys):
    planes = images.flatten(2).flatten(0, 1)
    sums = images.float().sum(dim=3).double().sum(dim=2)  # exact: integers below 2**24, then below 2**53
    means = sums.view(-1, 1) / planes.shape[1] / 255
    values = torch.arange(256, device=images.device, dtype=torch.float64) / 255
    tables = ((values - means) * factor + means).clamp_(0, 1).mul_(255).to(torch.uint8)
    rows = torch.arange(len(planes), device=images.device, dtype=torch.int32)[:, None] * 256
    return tables.flatten().index_select(0, (rows + planes).flatten()).view(images.shape)


def _jpeg_round_trip(image: np.ndarray, quality: int) -> np.ndarray:
    stream = BytesIO()
    Image.fromarray(image).save(stream, "JPEG", quality=quality)
    stream.seek(0)
    return np.asarray(JpegImageFile(stream))


@corruption("digital", "JPEG quality, 1 to 100", imagenet_c=(25, 18, 15, 10, 7), cifar_c=(80, 65, 58, 50, 40),
            source="imagecorruptions 1.1.2 and make_cifar_c.py of hendrycks/robustness, by Pillow",
            notes="libjpeg's defaults, so 4:2:0 chroma. Always coded on the CPU, each image on its own.")
def jpeg_compression(images, quality, _keys):
    pixels = images.permute(0, 2, 3, 1).contiguous().cpu().numpy()
    coded = np.stack([_jpeg_round_trip(image, quality) for image in pixels])
    return torch.from_numpy(coded).to(images.device).permute(0, 3, 1, 2)


@lru_cache
def box_windows(size: int, small: int) -> tuple[np.ndarray, np.ndarray]:
    """Return (first, count) of the pixels that Pillow's BOX filter averages for each of `small` out of `size` pixels."""
    used = np.asarray(Image.fromarray(np.eye(size, dtype=np.float32)).resize((small, size), Image.Resampling.BOX)) > 0
    return used.argmax(axis=0), used.sum(axis=0)


@lru_cache
def nearest_sources(small: int, size: int) -> np.ndarray:
    """Return which of `small` pixels Pillow's NEAREST filter copies to each of `size` pixels."""
    ramp = Image.fromarray(np.arange(small, dtype=np.int32)[None])
    return np.array(ramp.resize((size, 1), Image.Resampling.NEAREST))[0]


def _box_average(images: Tensor, dim: int, small: int) -> Tensor:
    """Shrink one dimension to `small` by averages in Pillow's fixed point (22 bits), rounded to uint8."""
    first, count = (torch.from_numpy(a).to(images.device) for a in box_windows(images.shape[dim], small))
    shape = [-1 if d == dim else 1 for d in range(4)]
    total = 0
    for step in range(int(count.max())):
        taken = images.index_select(dim, (first + step).clamp_(max=images.shape[dim] - 1)).to(torch.int32)
        total = total + (taken if step < int(count.min()) else taken * (step < count).to(torch.int32).view(shape))
    weight = ((1 << 22) / count.double() + 0.5).to(torch.int32).view(shape)
    return ((total * weight + (1 << 21)) >> 22).to(torch.uint8)


@corruption("digital", "scale factor of the small copy", imagenet_c=(0.6, 0.5, 0.4, 0.3, 0.25),
            cifar_c=(0.95, 0.9, 0.85, 0.75, 0.65),
            source="imagecorruptions 1.1.2 and make_cifar_c.py of hendrycks/robustness, by Pillow",
            notes="Shrunk with BOX to int(side * factor) and enlarged with NEAREST (imagecorruptions); CIFAR-10-C enlarges "
                  "with BOX, which picks the same pixels.")
def pixelate(images, factor, _keys):
    height, width = images.shape[2:]
    small_height, small_width = int(height * factor), int(width * factor)
    small = _box_average(_box_average(images, 3, small_width), 2, small_height)
    columns, rows = nearest_sources(small_width, width), nearest_sources(small_height, height)
    for dim, sources in ((3, columns), (2, rows)):
        small = small.index_select(dim, torch.from_numpy(sources).to(images.device))
    return small
