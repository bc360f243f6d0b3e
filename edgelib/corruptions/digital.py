"""What digital pipelines do to pictures: contrast, compression, resampling."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from functools import cache, lru_cache
from io import BytesIO
from tempfile import TemporaryFile

import numpy as np
import torch
from PIL import Image
from PIL.Image import Resampling
from PIL.JpegImagePlugin import JpegImageFile
from torch import Tensor

from edgelib.corruptions.jpeg import jpeg_round_trip
from edgelib.corruptions.registry import corruption
from edgelib.ground.randomness import bits

_PILLOW_ONE = 1 << 22
_CACHED = 1 << 18  # bytes that stay near the processor while they are turned
_LINES = 256  # as many are read at once where a plane is turned: more would leave the nearest cache
_CODEC_PIXELS = 1 << 14  # from here on a codec is faster on a CPU


@corruption(
    "digital",
    "multiplier of the distance to the mean of the channel",
    imagenet_c=(0.4, 0.3, 0.2, 0.1, 0.05),
    cifar_c=(0.75, 0.5, 0.4, 0.3, 0.15),
    source="imagecorruptions 1.1.2 and make_cifar_c.py of hendrycks/robustness",
)
def contrast(images, factor, _keys):
    """floor(factor v + (1 - factor) mean), exactly; the mean is taken per channel over the whole image."""
    share = Fraction(str(factor))  # k / q
    values = images.float()
    sums = values.sum(dim=3).long().sum(dim=2)  # exact: integers below 2**24, then below 2**63
    rest = sums * (share.denominator - share.numerator) // images[0, 0].numel()  # floor((q - k) mean)
    rest = ((rest + 0.5) / share.denominator).to(torch.float32)[:, :, None, None]  # 1 / 2q off any integer
    return values.mul_(float(share)).add_(rest).to(torch.int16).to(torch.uint8)  # int16: faster than uint8 at once


@corruption(
    "digital",
    "JPEG quality, 1 to 100",
    imagenet_c=(25, 18, 15, 10, 7),
    cifar_c=(80, 65, 58, 50, 40),
    source="imagecorruptions 1.1.2 and make_cifar_c.py of hendrycks/robustness, by Pillow",
)
def jpeg_compression(images, quality, _keys):
    """A JPEG file and back with libjpeg's defaults, so 4:2:0 chroma; by arithmetic or, if large, by a codec."""
    if images.device.type == "cpu" and images[0, 0].numel() >= _CODEC_PIXELS:
        return _coded_by_torchvision(images, quality) if _torchvision_agrees() else _coded_by_pillow(images, quality)
    return jpeg_round_trip(images, quality)


@cache
def _torchvision_agrees() -> bool:
    """Whether the libjpeg in torchvision computes as `jpeg_round_trip` does; it takes half the time of Pillow."""
    images = bits(torch.arange(2), 3 * 40 * 56 // 4).view(torch.uint8).view(2, 3, 40, 56)
    smooth = images[..., ::8, ::8].repeat_interleave(8, 2).repeat_interleave(8, 3)
    try:
        return all(
            torch.equal(_coded_by_torchvision(some, quality), jpeg_round_trip(some, quality))
            for some in (images, smooth)
            for quality in (10, 75)
        )
    except (ImportError, RuntimeError, AttributeError):  # built without libjpeg
        return False


def _coded_by_torchvision(images: Tensor, quality: int) -> Tensor:
    import torchvision.io  # noqa: F401  (fills torch.ops.image)

    encode, decode = torch.ops.image.encode_jpeg, torch.ops.image.decode_jpeg  # its functions warn that they will move
    result, pixels = torch.empty_like(images), torch.empty(*images.shape[2:], 3, dtype=torch.uint8)
    for image, place in zip(images.numpy(), result.numpy(), strict=True):
        for band, plane in enumerate(image):  # pixel by pixel, as files are: NumPy copies that fastest
            pixels.numpy()[..., band] = plane
        decoded = decode(encode(pixels.permute(2, 0, 1), quality), 0, False).numpy()
        for band, plane in enumerate(place):
            plane[:] = decoded[band]
    return result


def _coded_by_pillow(images: Tensor, quality: int) -> Tensor:
    with TemporaryFile(buffering=0) as file:  # while it writes to a real file Pillow lets other threads run

        def coded(image: Image.Image) -> Image.Image:
            file.seek(0)
            image.save(file, "JPEG", quality=quality)
            file.seek(0)
            return JpegImageFile(BytesIO(file.read()))  # what follows the end marker is ignored

        return by_pillow(images, coded)


def by_pillow(images: Tensor, change: Callable[[Image.Image], Image.Image]) -> Tensor:
    """Return CPU images [n, 3, H, W], each changed by a function of Pillow's images that keeps their size."""
    result, size = torch.empty_like(images), images.shape[:1:-1]
    for image, planes in zip(images.numpy(), result.numpy(), strict=True):
        bands = [Image.frombuffer("L", size, plane, "raw", "L", 0, 1) for plane in image]
        changed = change(Image.merge("RGB", bands))
        for plane, band in zip(planes, "RGB", strict=True):
            plane[:] = np.frombuffer(changed.tobytes("raw", band), dtype=np.uint8).reshape(plane.shape)
    return result


@lru_cache
def box_windows(size: int, small: int) -> tuple[np.ndarray, np.ndarray]:
    """Return (first, count) of the pixels that Pillow's BOX filter averages when it shrinks `size` to `small`."""
    used = np.asarray(Image.fromarray(np.eye(size, dtype=np.float32)).resize((small, size), Resampling.BOX)) > 0
    return used.argmax(axis=0), used.sum(axis=0)


@lru_cache
def nearest_sources(small: int, size: int) -> np.ndarray:
    """Return which of `small` pixels Pillow's NEAREST filter copies to each of `size` pixels."""
    ramp = Image.fromarray(np.arange(small, dtype=np.int32)[None])
    return np.array(ramp.resize((size, 1), Resampling.NEAREST))[0]


@lru_cache(maxsize=64)
def _equal_windows(size: int, small: int) -> list[tuple[int, np.ndarray, np.ndarray]]:
    """Return (number of pixels, first pixels, places) of the windows of `box_windows` that average as many pixels."""
    first, count = box_windows(size, small)
    return [(number, first[count == number], np.flatnonzero(count == number)) for number in np.unique(count).tolist()]


def _box_averages(values: np.ndarray, small: int) -> np.ndarray:
    """Return uint8 [n, small, K]: values [n, S, K] shrunk by averages along S, rounded as Pillow rounds them."""
    windows = _equal_windows(values.shape[1], small)
    result = np.empty((len(values), small, values.shape[2]), np.uint8)
    for number, first, places in windows:
        part = values.take(first, axis=1)
        if number == 2:
            other = values.take(first + 1, axis=1)
            part = (part | other) - ((part ^ other) >> 1)  # half the sum, rounded up, without a ninth bit
        elif number > 2:
            sums = part.astype(np.uint16)
            for step in range(1, number):
                sums += values.take(first + step, axis=1)
            if number == 3:
                part = (sums + 1) // 3
            elif number == 4:
                part = (sums + 2) >> 2
            else:
                part = (sums * np.uint32(_PILLOW_ONE / number + 0.5) + np.uint32(_PILLOW_ONE // 2)) >> 22
        if len(windows) == 1:
            return part.astype(np.uint8, copy=False)
        result[:, places] = part
    return result


def _pixelated(images: np.ndarray, factor: float) -> np.ndarray:
    """Return uint8 images [n, 3, H, W] as `pixelate` makes them."""
    height, width = images.shape[2:]
    few_rows, few_columns = int(height * factor), int(width * factor)
    planes = images.reshape(-1, height, width)
    turned = np.empty((width, len(planes), height), np.uint8)  # so that columns are long runs of bytes
    step = max(1, _LINES // height)
    for start in range(0, len(planes), step):
        turned[:, start : start + step] = planes[start : start + step].transpose(2, 0, 1)
    turned = turned.reshape(1, width, -1)
    wide = _box_averages(turned, few_columns).take(nearest_sources(few_columns, width), axis=1)
    planes = np.ascontiguousarray(wide.swapaxes(1, 2)).reshape(-1, height, width)
    return _box_averages(planes, few_rows).take(nearest_sources(few_rows, height), axis=1).reshape(images.shape)


@corruption(
    "digital",
    "scale factor of the small copy",
    imagenet_c=(0.6, 0.5, 0.4, 0.3, 0.25),
    cifar_c=(0.95, 0.9, 0.85, 0.75, 0.65),
    source="imagecorruptions 1.1.2 and make_cifar_c.py of hendrycks/robustness, by Pillow",
)
def pixelate(images, factor, _keys):
    """Shrunk with BOX to int(side * factor), enlarged with NEAREST as in imagecorruptions.

    CIFAR-10-C enlarges with BOX: the same at its 32 pixels, and wherever no block border falls on the centre of a
    pixel.
    """
    at_once = max(1, _CACHED // images[0].numel())
    parts = [torch.from_numpy(_pixelated(some.numpy(), factor)) for some in images.cpu().split(at_once)]
    return torch.cat(parts).to(images.device)


@corruption(
    "digital",
    "(multiplier of S of HSV, what is added to S)",
    imagenet_c=((0.3, 0), (0.1, 0), (2, 0), (5, 0.1), (20, 0.2)),
    cifar_c=((0.3, 0), (0.1, 0), (1.5, 0), (2, 0.1), (2.5, 0.2)),
    source="imagecorruptions 1.1.2 and make_cifar_c.py of hendrycks/robustness, by scikit-image's HSV",
)
def saturate(images, level, _keys):
    """The same hue and value at S' = min(a S + b, 1), by scikit-image's steps in the same order; truncated to integers.

    Grey pixels have no hue and become red where b > 0, as there.
    """
    factor, shift = level
    values = images.double().div_(255)
    red, green, blue = values.unbind(1)
    most, spread = values.amax(dim=1), values.amax(dim=1) - values.amin(dim=1)
    safe = torch.where(spread == 0, 1.0, spread)
    hue = torch.where(green == most, 2 + (blue - red) / safe, (green - blue) / safe)
    hue = torch.where(blue == most, 4 + (red - green) / safe, hue)
    sixth = (torch.where(spread == 0, 0.0, hue) / 6).remainder_(1).mul_(6)
    saturation = torch.where(spread == 0, 0.0, spread / torch.where(most == 0, 1.0, most))
    saturation = saturation.mul_(factor).add_(shift).clamp_(max=1)
    part = sixth - sixth.floor()
    least, falling = most * (1 - saturation), most * (1 - part * saturation)
    rising = most * (1 - (1 - part) * saturation)
    levels = torch.stack([most, falling, least, least, rising, most], dim=1)  # of red, by the sixth; green two later
    sector = sixth.long()
    bands = [levels.gather(1, ((sector + turn) % 6)[:, None]) for turn in (0, 4, 2)]
    return torch.cat(bands, dim=1).mul_(255).to(torch.uint8)
