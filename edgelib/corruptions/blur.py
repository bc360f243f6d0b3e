"""Blurs in whole numbers, so that no order of summation, batch size, thread count or library changes a bit.

Weights are rounded to integers, in units of 2**-14 or finer; that moves a result by a few hundredths of a grey level.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from edgelib.corruptions.registry import corruption
from edgelib.ground.randomness import uniform

_UNIT = 1 << 16
_MARGIN = 2.0**-10  # added before truncation, so that a constant image keeps its value


def _disk(radius: float, alias_blur: float) -> tuple[np.ndarray, list[np.ndarray], np.ndarray]:
    """Return a disk [k, k] of ones, the matrices [k, k] that shift by 0, 1 .. pixels both ways, and their taps.

    As in ImageNet-C the disk lives on a 17 x 17 grid (2 radius + 1 if that is larger) and is softened by a Gaussian of
    sd `alias_blur` with 3 x 3 (5 x 5) taps, mirrored at the edge of that grid.
    """
    half, reach = (8, 1) if radius <= 8 else (int(radius), 2)
    at = np.arange(-half, half + 1)
    disk = (at[:, None] ** 2 + at**2 <= radius**2).astype(int)
    taps = np.exp(-(np.arange(reach + 1) ** 2) / (2 * alias_blur**2))
    shifts = [np.eye(len(at), dtype=int)]
    for offset in range(1, reach + 1):
        shifts.append(np.zeros_like(shifts[0]))
        for way in (-offset, offset):
            mirrored = 2 * half - np.abs(2 * half - np.abs(at + way + half))
            shifts[-1][np.arange(len(at)), mirrored] += 1
    return disk, shifts, taps / (2 * taps.sum() - taps[0])


@lru_cache
def disk_kernel(radius: float, alias_blur: float) -> np.ndarray:
    """Return the float64 [k, k] disk of `radius` pixels, softened by a Gaussian of sd `alias_blur` pixels.

    Its grid is so small that at radius 8 and 10 its sum is above 1, because the softening is mirrored there. Empty
    borders are cut.
    """
    disk, shifts, taps = _disk(radius, alias_blur)
    blur = sum(tap * shift for tap, shift in zip(taps, shifts, strict=True))
    kernel = blur @ (disk / disk.sum()) @ blur.T
    used = np.flatnonzero(kernel.max(axis=0) * _UNIT >= 0.5)
    return kernel[used[0] : used[-1] + 1, used[0] : used[-1] + 1]


def _as_runs(mask: np.ndarray) -> list[tuple[int, int, int]]:
    """Return (h, k, weight) sorted by h: rows -k and k of a symmetric mask are sums of runs of 2 h + 1 equal cells."""
    quadrant = mask[len(mask) // 2 :, len(mask) // 2 :]
    steps = quadrant - np.pad(quadrant[:, 1:], ((0, 0), (0, 1)))
    return [(int(h), int(k), int(steps[k, h])) for h, k in zip(*np.nonzero(steps.T), strict=True)]


@lru_cache
def _disk_sums(radius: float, alias_blur: float):
    """Return what defocus_blur adds up: (runs of the disk, runs of its edge, weights of its shifts, scale of the sum).

    A softened disk is a weighted sum of disks: itself, those shifted by a pixel to the four sides, and to the four
    corners. (Shifts by two pixels weigh 3e-4 at radius 10 and are left out.) The edge is what mirroring at the border
    of the grid changes in the disks shifted up and down.
    """
    disk, shifts, taps = _disk(radius, alias_blur)
    bits = min(16, int(np.log2(2**31 / (260 * disk.sum()))))  # sums of bytes fit in 32 bits, with 2 % for the edge
    weights = [round(2**bits * taps[a] * taps[b]) for a, b in ((0, 0), (0, 1), (1, 1))]
    sides, size = shifts[1] @ disk, len(disk) + 2
    free = np.eye(size, k=1, dtype=int) + np.eye(size, k=-1, dtype=int)
    edge = np.pad(sides, 1) - free @ np.pad(disk, 1)
    edge[:, [0, -1]] = 0
    kernel = weights[0] * disk + weights[1] * (sides + sides.T) + weights[2] * sides @ shifts[1].T
    return _as_runs(disk), _as_runs(edge), weights, float(disk_kernel(radius, alias_blur).sum() / kernel.sum())


def _run_sums(flat: Tensor, runs: list, along: int, across: int, guard: int) -> Iterator[tuple[int, int, Tensor]]:
    """Yield (weight, number of pixels, sums) of `runs` around all pixels of `flat` but the first and last `guard`.

    `along` and `across` are the distances of neighbours in `flat` in the direction of the runs and across it.
    """
    size = len(flat) - 2 * guard
    pairs, total, reached = flat[:-along] + flat[along:], flat.clone(), 0  # both hold sums of pixels from each one on
    for half, row, weight in runs:
        for length in range(2 * reached + 1, 2 * half + 1, 2):
            total[: -(length + 1) * along].add_(pairs[length * along :])
        reached = half
        first, last = (total[guard - half * along + shift :][:size] for shift in (-row * across, row * across))
        yield weight, (2 * half + 1) * (2 if row else 1), first + last if row else first


def _with_neighbours(flat: Tensor, step: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the values that have neighbours at `step` on both sides, and these neighbours."""
    return flat[step:-step], flat[: -2 * step], flat[2 * step :]


def _disk_total(flat: Tensor, runs: list, wide: int, radius: int) -> Tensor:
    """Return the int32 sums of the pixels in the disk around each pixel; `wide` is the length of a line."""
    parts, free = [], 0
    for _, pixels, sums in _run_sums(flat, runs, 1, wide, radius * (wide + 1)):
        if pixels > free:
            parts.append(torch.zeros_like(sums))
            free = 128  # as many bytes add up in 16 bits
        parts[-1].add_(sums)
        free -= pixels
    return sum(parts[1:], start=parts[0].to(torch.int32))


def _soft_total(disk: Tensor, flat: Tensor, edge: list, weights: list[int], wide: int, guard: int) -> Tensor:
    """Return the weighted int32 sums of the disks around each pixel, its four sides and its four corners."""
    centre, side, corner = weights
    middle, above, below = _with_neighbours(disk[1:-1], wide)
    beside = _with_neighbours(disk[:-2] + disk[2:], wide)
    total = middle * centre
    for part, weight in zip((above, below, *beside), (side, side, side, corner, corner), strict=True):
        total.add_(part, alpha=weight)
    for along, across in ((1, wide), (wide, 1)) if edge else ():
        changed = torch.zeros(len(total) + 2 * along, dtype=torch.int16, device=flat.device)
        for times, _, sums in _run_sums(flat, edge, along, across, guard - along):
            changed.add_(sums, alpha=times)
        middle, before, after = _with_neighbours(changed, along)
        total.add_(middle, alpha=side).add_(before + after, alpha=corner)
    return total


def _framed(planes: Tensor, dtype: torch.dtype, rows: tuple[int, int], columns: tuple[int, int], mode: str) -> Tensor:
    """Return planes [P, H, W] as [P, H + sum(rows), W + sum(columns)], continued as by np.pad, "edge" or "reflect"."""
    count, height, width = planes.shape
    framed = torch.empty(count, height + sum(rows), width + sum(columns), dtype=dtype, device=planes.device)
    body = framed[:, rows[0] : rows[0] + height]
    body[..., columns[0] : columns[0] + width] = planes
    for part, dim, size, (before, after) in ((body, 2, width, columns), (framed, 1, height, rows)):
        last = before + size - 1
        for start, length, near, far in ((0, before, before, before + 1), (last + 1, after, last, last - after)):
            source = part.narrow(dim, near, 1) if mode == "edge" else part.narrow(dim, far, length).flip(dim)
            part.narrow(dim, start, length).copy_(source)
    return framed


@corruption(
    "blur",
    "(disk radius, sd of its soft edge), in pixels",
    imagenet_c=((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5)),
    cifar_c=((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1)),
    source="imagecorruptions 1.1.2 and make_cifar_c.py of hendrycks/robustness, by OpenCV's filter2D",
)
def defocus_blur(images, level, _keys):
    """min(255, v * k) with the soft disk k of `disk_kernel`, summed over runs of pixels that grow from row to row.

    Mirrored at the border without repeating the edge (OpenCV's default); truncated to integers. ImageNet-C severities 4
    and 5 brighten by about 1 %, because their kernels sum to more than 1.
    """
    runs, edge, weights, scale = _disk_sums(*level)
    radius, soft, (height, width) = int(level[0]), weights[1] > 0, images.shape[2:]
    margin = (radius + soft, radius + soft)
    planes = _framed(images.flatten(0, 1), torch.int16, margin, margin, "reflect")
    flat, (plane, wide, _) = planes.view(-1), planes.stride()
    total = _disk_total(flat, runs, wide, radius)
    total = _soft_total(total, flat, edge, weights, wide, margin[0] * (wide + 1)) if soft else total * weights[0]
    inner = total.as_strided((len(planes), height, width), (plane, wide, 1)).to(torch.float32)
    return inner.mul_(scale).add_(_MARGIN).clamp_(max=255).to(torch.int16).to(torch.uint8).view(images.shape)


def motion_taps(radius: float, sigma: float, angles: np.ndarray, height: int, width: int):
    """Return ints (rows, columns, weights), each [n, 2 radius + 1]: what a camera that moves along each angle averages.

    Tap i lies i pixels along the angle (degrees), rounded to the grid, half down; its weight is a half Gaussian of sd
    `sigma`. The first tap that is out by a whole image side and all after it are left out, without renormalising.
    Taps without weight lie at 0.
    """
    along = np.arange(int(2 * radius + 1))
    direction = np.deg2rad(np.asarray(angles, dtype=float))[:, None]
    rows, columns = (np.ceil(along * f(direction) - 0.5).astype(int) for f in (np.sin, np.cos))
    weights = np.exp(-(along**2) / (2 * sigma**2))
    outside = np.logical_or.accumulate((np.abs(rows) >= height) | (np.abs(columns) >= width), axis=1)
    weights = np.where(outside, 0, np.round(_UNIT * weights / weights.sum()).astype(int))
    return rows * (weights > 0), columns * (weights > 0), weights


def _shared_taps(rows: np.ndarray, columns: np.ndarray, weights: np.ndarray) -> Iterator[tuple[int, ...]]:
    """Yield (start, stop, row, column, weight): a tap that images start .. stop - 1 have in common.

    Images in order of their angles share many: tap i takes only about i places.
    """
    same = np.all([part[1:] == part[:-1] for part in (rows, columns, weights)], axis=0)
    for tap in range(weights.shape[1]):
        bounds = [0, *(np.flatnonzero(~same[:, tap]) + 1).tolist(), len(weights)]
        for start, stop in pairwise(bounds):
            if weight := int(weights[start, tap]):
                yield start, stop, int(rows[start, tap]), int(columns[start, tap]), weight


def motion_blurred(images: Tensor, level: tuple, angles: list[float], margin: float = _MARGIN) -> Tensor:
    """Return uint8 images [n, C, H, W], image i blurred along angles[i] (degrees); edge pixels are repeated outside.

    margin: what is added before truncation; 0.5 rounds.
    """
    channels, height, width = images.shape[1:]
    order = np.argsort(angles)
    radius, sigma = level
    rows, columns, weights = motion_taps(radius, sigma, np.asarray(angles)[order], height, width)
    place = torch.from_numpy(order).to(images.device)
    (above, below), (left, right) = ((int(-part.min()), int(part.max())) for part in (rows, columns))
    planes = _framed(images[place].flatten(0, 1), torch.float32, (above, below), (left, right), "edge")
    plane, wide, _ = planes.stride()
    sums = torch.zeros(len(planes), (height - 1) * wide + width, device=images.device)  # whole lines: long loops
    for start, stop, row, column, weight in _shared_taps(rows, columns, weights):
        total = sums[channels * start : channels * stop]
        first = channels * start * plane + (above + row) * wide + left + column
        total.add_(planes.as_strided(total.shape, (plane, 1), first), alpha=weight)  # exact, below 2**24
    inner = sums.as_strided(images.shape, (channels * sums.stride(0), sums.stride(0), wide, 1))
    blurred = inner.mul(1 / _UNIT).add_(margin).to(torch.int16).to(torch.uint8)
    return blurred.index_select(0, place.argsort())


@corruption(
    "blur",
    "(radius, sd of the half Gaussian along the motion), in pixels; angle uniform in (-45, 45) degrees",
    imagenet_c=((10, 3), (15, 5), (15, 8), (15, 12), (20, 15)),
    cifar_c=((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5)),
    random=True,
    source="imagecorruptions 1.1.2; CIFAR-10-C used the same kernel in ImageMagick",
)
def motion_blur(images, level, keys):
    """sum_i w_i v(p + i (cos a, sin a)) with w_i ~ exp(-i**2 / 2 sd**2), i = 0 .. 2 radius, along a random angle a.

    CIFAR-10-C severities 3 and 4 differ by the radius only, where the weights have vanished: they are equal, and kept
    so. On an image smaller than the motion the kernel is cut and not renormalised, which darkens it, as
    imagecorruptions does. Truncated to integers.
    """
    angles = uniform(keys, 1)[:, 0] * 90 - 45
    return motion_blurred(images, level, angles.tolist())
