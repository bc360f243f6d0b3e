"""Resampling: an image that was shrunk on its way and enlarged again, by filters of Pillow that are named.

Pixels of a region stay where they are, and what is between them is made up: vision-language models lose more to that
than to noise that looks far worse (Saxena et al., VLM-RobustBench, arXiv 2603.06148). `pixelate` is the same with
averages and blocks.
"""

from __future__ import annotations

from PIL.Image import Resampling
from torch import Tensor

from edgelib.corruptions.digital import by_pillow
from edgelib.corruptions.registry import corruption

_LARGE, _SMALL = (0.5, 0.35, 0.25, 0.18, 0.125), (0.8, 0.65, 0.5, 0.4, 0.3)
_WHAT = "scale factor of the small copy"


def resampled(images: Tensor, factor: float, shrink: Resampling, enlarge: Resampling) -> Tensor:
    """Return uint8 images [n, 3, H, W] as Pillow resizes them to int(side * factor), at least 1, and back."""
    height, width = images.shape[2:]
    small = max(1, int(width * factor)), max(1, int(height * factor))
    there = by_pillow(images.cpu(), lambda image: image.resize(small, shrink).resize((width, height), enlarge))
    return there.to(images.device)


@corruption("digital", _WHAT, imagenet_c=_LARGE, cifar_c=_SMALL, source="BICUBIC of Pillow, both ways")
def upsample(images, factor, _keys):
    """Shrunk with BICUBIC, which averages as it must, and enlarged with BICUBIC: fine detail is gone, edges ring."""
    return resampled(images, factor, Resampling.BICUBIC, Resampling.BICUBIC)


@corruption("digital", _WHAT, imagenet_c=_LARGE, cifar_c=_SMALL, source="NEAREST and BILINEAR of Pillow")
def alias(images, factor, _keys):
    """Shrunk with NEAREST, which skips pixels as careless pipelines do, and enlarged with BILINEAR."""
    return resampled(images, factor, Resampling.NEAREST, Resampling.BILINEAR)
