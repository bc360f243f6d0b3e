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

_PILLOW_ONE = 1 << 22


@corruption(
    "digital",
    "multiplier of the distance to the mean of the channel",
    imagenet_c=(0.4, 0.3, 0.2, 0.1, 0.05),
    cifar_c=(0.75, 0.5, 0.4, 0.3, 0.15),
    source="imagecorruptions 1.1.2 and make_cifar_c.py of hendrycks/robustness",
    notes="The mean is taken per channel over the whole image. Truncated to integers.",
)
def contrast(images, factor, _keys):
    planes = images.flatten(2).flatten(0, 1)
    sums = images.float().sum(dim=3).double().sum(dim=2)  # exact: integers below 2**24, then below 2**53
    means = sums.view(-1, 1) / planes.shape[1] / 255
    values = torch.arange(256, device=images.device, dtype=torch.float64) / 255
    tables = ((values - means) * factor + means).clamp_(0, 1).mul_(255).to(torch.uint8)
    rows = torch.arange(len(planes), device=images.device, dtype=torch.int32)[:, None] * 256
    return tables.flatten().index_select(0, planes.to(torch.int32).add_(rows).flatten()).view(images.shape)


def _jpeg_round_trip(image: np.ndarray, quality: int) -> np.ndarray:
    stream = BytesIO()
    Image.fromarray(image).save(stream, "JPEG", quality=quality)
    stream.seek(0)
    return np.asarray(JpegImageFile(stream))


@corruption(
    "digital",
    "JPEG quality, 1 to 100",
    imagenet_c=(25, 18, 15, 10, 7),
    cifar_c=(80, 65, 58, 50, 40),
    source="imagecorruptions 1.1.2 and make_cifar_c.py of hendrycks/robustness, by Pillow",
    notes="libjpeg's defaults, so 4:2:0 chroma. Always coded on the CPU, each image on its own.",
)
def jpeg_compression(images, quality, _keys):
    pixels = torch.stack(images.cpu().unbind(1), dim=-1).numpy()
    coded = np.stack([_jpeg_round_trip(image, quality) for image in pixels])
    return torch.from_numpy(coded).to(images.device).permute(0, 3, 1, 2)


@lru_cache
def box_windows(size: int, small: int) -> tuple[np.ndarray, np.ndarray]:
    """Return (first, count) of the pixels that Pillow's BOX filter averages when it shrinks `size` to `small`."""
    used = np.asarray(Image.fromarray(np.eye(size, dtype=np.float32)).resize((small, size), Image.Resampling.BOX)) > 0
    return used.argmax(axis=0), used.sum(axis=0)


@lru_cache
def _averages(size: int, small: int, device: torch.device):
    """Return what `_box_average` needs: first pixels, least count, (pixels, 0 or 1) of each further one, scale, half.

    Pillow multiplies by a 22-bit integer near 1 / count, which decides which way exact halves are rounded.
    """
    first, count = box_windows(size, small)
    further = [
        (np.minimum(first + step, size - 1), (step < count).astype(np.float32))
        for step in range(count.min(), count.max())
    ]
    half = np.where(np.floor(_PILLOW_ONE / count + 0.5) * count >= _PILLOW_ONE, 0.5 + 1e-4, 0.5 - 1e-4)

    def here(array):
        return torch.from_numpy(array).to(device)

    return (
        here(first),
        int(count.min()),
        [(here(pixels), here(used)) for pixels, used in further],
        here((1 / count).astype(np.float32)),
        here(half.astype(np.float32)),
    )


@lru_cache
def nearest_sources(small: int, size: int) -> np.ndarray:
    """Return which of `small` pixels Pillow's NEAREST filter copies to each of `size` pixels."""
    ramp = Image.fromarray(np.arange(small, dtype=np.int32)[None])
    return np.array(ramp.resize((size, 1), Image.Resampling.NEAREST))[0]


def _box_average(images: Tensor, dim: int, small: int) -> Tensor:
    """Shrink one dimension of whole-numbered float images to `small`, by averages rounded as Pillow rounds them."""
    rows = images.flatten(0, dim - 1)  # [.., W] or [.., H, W], with the shrunken dimension second: torch's fast path
    size, shape = rows.shape[1], [-1] + [1] * (rows.ndim - 2)
    first, least, further, scale, half = _averages(size, small, images.device)
    total = rows.clone() if least > 1 else rows
    for step in range(1, least):  # the sums of `least` neighbours from every pixel on
        total[:, : size - step].add_(rows[:, step:])
    total = total.index_select(1, first)
    for pixels, used in further:
        total.add_(rows.index_select(1, pixels).mul_(used.view(shape)))
    total = total.mul_(scale.view(shape)).add_(half.view(shape)).floor_()
    return total.view(*images.shape[:dim], small, *images.shape[dim + 1 :])


@corruption(
    "digital",
    "scale factor of the small copy",
    imagenet_c=(0.6, 0.5, 0.4, 0.3, 0.25),
    cifar_c=(0.95, 0.9, 0.85, 0.75, 0.65),
    source="imagecorruptions 1.1.2 and make_cifar_c.py of hendrycks/robustness, by Pillow",
    notes="Shrunk with BOX to int(side * factor), enlarged with NEAREST as in imagecorruptions. CIFAR-10-C "
    "enlarges with BOX: the same at its 32 pixels, and wherever no block border falls on the centre of a "
    "pixel.",
)
def pixelate(images, factor, _keys):
    height, width = images.shape[2:]
    small_height, small_width = int(height * factor), int(width * factor)
    small = _box_average(_box_average(images.float(), 3, small_width), 2, small_height)
    columns, rows = (
        torch.from_numpy(nearest_sources(few, many)).to(images.device)
        for few, many in ((small_width, width), (small_height, height))
    )
    wide = small.flatten(0, 2).index_select(1, columns).to(torch.uint8)  # in float and two dimensions: the fast path
    return wide.view(*small.shape[:3], width).index_select(2, rows)
