"""JPEG as libjpeg computes it, for a batch at once and without the coded bytes.

Entropy coding loses nothing, so a round trip is colour conversion, 4:2:0 subsampling, cosine transforms, quantisation
and the way back. All of it is libjpeg's integer arithmetic with its defaults ("islow" transforms, "fancy" upsampling,
the tables of ITU-T T.81, annex K), in floats that hold every number exactly: equal to Pillow's result bit for bit.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

# One pass of jfdctint.c as a matrix, in units of 2**-13: its sums and products of 13-bit constants. Row k is the k-th
# frequency; the second half mirrors the first, with the sign of k. Its transpose is one pass of jidctint.c.
_HALF_ROWS = (
    (8192, 8192, 8192, 8192),
    (11363, 9633, 6437, 2260),
    (10703, 4433, -4433, -10703),
    (9633, -2259, -11362, -6436),
    (8192, -8192, -8192, 8192),
    (6437, -11362, 2261, 9633),
    (4433, -10704, 10704, -4433),
    (2260, -6436, 9633, -11363),
)
_LUMINANCE = (
    (16, 11, 10, 16, 24, 40, 51, 61),
    (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77),
    (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101),
    (72, 92, 95, 98, 112, 100, 103, 99),
)
_CHROMINANCE = ((17, 18, 24, 47), (18, 21, 26, 66), (24, 26, 56, 99), (47, 66, 99, 99))
_TO_YCC = ((19595, 38470, 7471), (-11059, -21709, 32768), (32768, -27439, -5329))  # in units of 2**-16


def quantisation_tables(quality: int) -> np.ndarray:
    """Return int64 [2, 8, 8], luminance and chrominance: the quantisation steps of libjpeg at a quality of 1 to 100."""
    percent = 5000 // quality if quality < 50 else 200 - 2 * quality
    tables = np.full((2, 8, 8), 99)
    tables[0], tables[1, :4, :4] = _LUMINANCE, _CHROMINANCE
    return ((tables * percent + 50) // 100).clip(1, 255)


@lru_cache
def _transforms(device: torch.device) -> tuple[Tensor, ...]:
    """Return float64 [8, 8] matrices: rows and columns forward, columns and rows back, each to be rounded after."""
    half = torch.tensor(_HALF_ROWS, dtype=torch.float64, device=device) / 2**13
    sign = torch.tensor([1.0, -1.0], dtype=torch.float64, device=device).repeat(4)[:, None]
    forward = torch.cat([half, sign * half.flip(1)], dim=1)
    back = forward.T.contiguous()
    return back * 4, forward / 4, back * 4, forward / 2**5  # between the two passes it keeps 2 bits


@lru_cache(maxsize=16)
def _steps(quality: int, width: int, device: torch.device) -> Tensor:
    """Return float64 [2, 8, width], for luminance and chrominance: the steps of the blocks side by side."""
    return torch.from_numpy(quantisation_tables(quality)).to(device, torch.float64).repeat(1, 1, width // 8)


def _rounded(x: Tensor) -> Tensor:
    """Round halves up, in place."""
    return x.add_(0.5).floor_()


def _ycc(images: Tensor) -> tuple[Tensor, Tensor]:
    """Return luminance [n, H, W] and chrominance [n, 2, H, W], both about zero, of float images [n, 3, H, W]."""
    planes = []
    for red, green, blue in _TO_YCC:  # exact: below 2**24 in units of 2**-16
        plane = images[:, 0] * (red / 2**16)
        planes.append(plane.add_(images[:, 1], alpha=green / 2**16).add_(images[:, 2], alpha=blue / 2**16))
    luminance, *chrominance = planes
    return _rounded(luminance.sub_(128)), torch.stack(chrominance, dim=1).add_(0.5 - 2**-16).floor_()


def _encoded(images: Tensor) -> Tensor:
    """Return float64 [n, 3/2 H', W'], H' and W' multiples of 16: luminance above both chrominances side by side."""
    n, _, height, width = images.shape
    tall, wide = height + -height % 16, width + -width % 16
    if (tall, wide) != (height, width):  # repeat the last row and column
        rows, columns = (torch.arange(k, device=images.device) for k in (tall, wide))
        images = images[:, :, rows.clamp(max=height - 1)][..., columns.clamp(max=width - 1)]
    luminance, chrominance = _ycc(images.float())
    planes = torch.empty(n, tall + tall // 2, wide, dtype=torch.float64, device=images.device)
    planes[:, :tall] = luminance
    pairs = chrominance[:, :, ::2] + chrominance[:, :, 1::2]
    fours = pairs[..., ::2] + pairs[..., 1::2]
    fours[..., ::2] += 1  # libjpeg's dither: halves are rounded down in even columns and up in odd ones
    fours[..., 1::2] += 2
    small = fours.mul_(0.25).floor_()
    last = (height + 1) // 2
    small[:, :, last:] = small[:, :, last - 1 : last]
    planes[:, tall:].view(n, tall // 2, 2, wide // 2).copy_(small.transpose(1, 2))
    return planes


def _coded(planes: Tensor, quality: int, luminance_rows: int) -> Tensor:
    """Return the planes [n, H, W] after transform, quantisation and inverse transform of their blocks of 8 x 8."""
    n, height, width = planes.shape
    rows, columns, columns_back, rows_back = _transforms(planes.device)
    stripes = n * height // 8
    halfway = _rounded(planes.view(-1, 8).mm(rows)).view(stripes, 8, width)
    coefficients = _rounded(columns.expand(stripes, 8, 8).bmm(halfway)).view(n, -1, 8, width)
    parts = coefficients.split_with_sizes([luminance_rows // 8, (height - luminance_rows) // 8], dim=1)
    for part, steps in zip(parts, _steps(quality, width, planes.device), strict=True):
        part.mul_((1 + 2**-20) / (8 * steps)).round_().mul_(steps)  # round halves away from zero
    halfway = _rounded(columns_back.expand(stripes, 8, 8).bmm(coefficients.view(stripes, 8, width)))
    return _rounded(halfway.view(-1, 8).mm(rows_back)).clamp_(-128, 127).view(n, height, width)


def _enlarged(small: Tensor) -> Tensor:
    """Return [n, 2, 2 h, 2 w] from [n, 2, h, w]: 9/16 of the nearest pixel, 3/16 of its two neighbours, 1/16 beyond."""
    n, _, height, width = small.shape
    framed = torch.nn.functional.pad(small, [1, 1, 1, 1], mode="replicate")
    middle = framed[:, :, 1:-1]
    rows = torch.stack([torch.add(framed[:, :, i : i + height], middle, alpha=3) for i in (0, 2)], dim=3)
    rows = rows.view(n, 2, 2 * height, width + 2)
    middle = rows[..., 1:-1]
    even = torch.add(rows[..., :-2], middle, alpha=3).add_(8)
    odd = torch.add(rows[..., 2:], middle, alpha=3).add_(7)
    pixels = torch.view_as_real(torch.complex(even, odd))  # the fastest way to interleave two tensors
    return pixels.mul_(1 / 16).floor_().view(n, 2, 2 * height, 2 * width)


def jpeg_round_trip(images: Tensor, quality: int) -> Tensor:
    """Return uint8 images [n, 3, H, W] as they come back from a JPEG file of this quality, 1 to 100."""
    n, _, height, width = images.shape
    tall = height + -height % 16
    planes = _coded(_encoded(images), quality, tall).float()
    luminance = planes[:, :height, :width]
    chrominance = planes[:, tall:].view(n, tall // 2, 2, -1)[:, : (height + 1) // 2, :, : (width + 1) // 2]
    blue, red = _enlarged(chrominance.transpose(1, 2))[:, :, :height, :width].unbind(1)
    result = torch.empty(images.shape, device=images.device)
    torch.add(luminance, red, alpha=91881 / 2**16, out=result[:, 0])
    torch.add(luminance, blue, alpha=-22554 / 2**16, out=result[:, 1]).add_(red, alpha=-46802 / 2**16)
    torch.add(luminance, blue, alpha=116130 / 2**16, out=result[:, 2])
    return result.add_(128.5).clamp_(0, 255.5).to(torch.int16).to(torch.uint8)
