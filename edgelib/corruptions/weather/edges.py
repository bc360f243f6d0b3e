"""Steps of OpenCV that `spatter` takes, for a batch at once and in whole numbers: edges, distances, spread levels.

Each is equal to OpenCV's, so that a spatter of the same noise is the peers' spatter.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

POINT = 16  # bits of a distance below the point
_STEPS = (65536, 91750, 143976)  # of a path: to the side, to the corner, a knight's move; 1, 1.4 and 2.1969 in 2**-16
_TAN = 13573  # of 22.5 degrees, in 2**-15


def canny(planes: Tensor, low: int, high: int) -> Tensor:
    """Return bool [n, H, W]: edges of uint8 planes by Canny's rule, as cv2.Canny with its defaults.

    The gradient is Sobel's, of size |x| + |y|. Its ridges above `high` are edges, and those above `low` that touch one.
    """
    values = pad(planes[:, None].float(), [1, 1, 1, 1], mode="replicate")[:, 0].to(torch.int16)
    across, down = values[..., 2:] - values[..., :-2], values[:, 2:] - values[:, :-2]
    x = pad(across[:, :-2] + 2 * across[:, 1:-1] + across[:, 2:], [1, 1, 1, 1])
    y = pad(down[..., :-2] + 2 * down[..., 1:-1] + down[..., 2:], [1, 1, 1, 1])
    shape, wide = x.shape, x.shape[2]
    size = (x.abs() + y.abs()).flatten()
    places = (size > low).nonzero()[:, 0]  # never in the frame: all of it is 0
    x, y, here = x.flatten()[places].int(), y.flatten()[places].int(), size[places]
    flat, upright = x.abs() * _TAN, y.abs() << 15
    sideways, steep = upright < flat, upright > flat + (x.abs() << 16)
    step = torch.where(sideways, 1, torch.where(steep, wide, wide + torch.where((x ^ y) < 0, -1, 1)))
    before, after = size[places - step], size[places + step]
    ridge = (here > before) & ((here > after) | ((here == after) & (sideways | steep)))
    places, strong = places[ridge], here[ridge] > high
    edges = torch.zeros(size.shape, dtype=torch.bool, device=planes.device)
    edges[places[strong]] = True
    waiting = torch.zeros_like(edges)
    weak = places[~strong]
    waiting[weak] = True
    around = torch.tensor([row * wide + column for row in (-1, 0, 1) for column in (-1, 0, 1)], device=planes.device)
    found = weak[edges[weak[:, None] + around].any(dim=1)]
    while len(found):  # from each edge that is new on to its neighbours
        edges[found], waiting[found] = True, False
        near = (found[:, None] + around).flatten()
        found = near[waiting[near]].unique()
    return edges.view(shape)[:, 1:-1, 1:-1]


@lru_cache
def _paths(most: int) -> tuple[np.ndarray, np.ndarray]:
    """Return (distances, ranks [most, most + 1]): at [down, across] which of the sorted distances a path has."""
    down, across = np.arange(most)[:, None], np.arange(most + 1)
    near, far = np.minimum(down, across), np.maximum(down, across)
    side, corner, knight = _STEPS
    length = np.where(
        far >= 2 * near, near * knight + (far - 2 * near) * side, (far - near) * knight + (2 * near - far) * corner
    )
    distances, ranks = np.unique(np.minimum(length, most << POINT), return_inverse=True)
    return distances.astype(np.int32), ranks.reshape(length.shape).astype(np.uint8)


def distances(edges: Tensor, most: int) -> Tensor:
    """Return int32 [n, H, W] in units of 2**-16 pixels: how far the nearest edge is, and `most` pixels if farther.

    The way to it goes in steps to the side, to the corner and of a knight, as cv2.distanceTransform counts it with
    DIST_L2 and a mask of 5. most: at most 20, so that all lengths have a number of 8 bits.
    """
    count, height, width = edges.shape
    across = torch.full((count, height, width + width % 2), most, dtype=torch.uint8, device=edges.device)
    across[..., :width].masked_fill_(edges, 0)  # columns to the nearest edge of the row
    step = 1
    while step <= most:
        further = across + step
        across[..., step:] = torch.minimum(across[..., step:], further[..., :-step])
        across[..., :-step] = torch.minimum(across[..., :-step], further[..., step:])
        step *= 2
    rows = pad(across, [0, 0, most, most], value=most)
    lengths, ranks = _paths(most)
    table = _paired(most).to(edges.device)
    best = _looked_up(table[0], across)
    for down in range(1, most):
        if int(best.max()) <= int(ranks[down, 0]):
            break  # no farther row is nearer
        columns = torch.minimum(rows[:, most - down :][:, :height], rows[:, most + down :][:, :height])
        torch.minimum(best, _looked_up(table[down], columns), out=best)
    best = best[..., :width].to(torch.int32)
    return torch.from_numpy(lengths).to(edges.device).index_select(0, best.flatten()).view(edges.shape)


@lru_cache
def _paired(most: int) -> Tensor:
    """Return int16 [most, pairs]: the ranks of `_paths` for two columns at once, as two bytes of one number."""
    _, ranks = _paths(most)
    first, second = np.arange(256 * most + most + 1) % 256, np.arange(256 * most + most + 1) // 256
    pairs = ranks[:, first.clip(max=most)] + (ranks[:, second].astype(np.uint16) << 8)
    return torch.from_numpy(pairs.view(np.int16))


def _looked_up(table: Tensor, planes: Tensor) -> Tensor:
    """Return table[planes] of uint8 planes of even width, by a table of pairs: it takes half the time."""
    pairs = planes.view(torch.int16)
    return table.index_select(0, pairs.flatten().int()).view(torch.uint8).view(planes.shape)


def spread(planes: Tensor) -> Tensor:
    """Return uint8 planes [n, H, W] with their levels spread over 0 .. 255 by rank, as cv2.equalizeHist does."""
    count = len(planes)
    first = 256 * torch.arange(count, device=planes.device, dtype=torch.int32)[:, None]
    places = (planes.flatten(1).int() + first).flatten()
    numbers = torch.bincount(places, minlength=256 * count).view(count, 256)
    below = numbers.cumsum(dim=1)
    lowest = numbers.gather(1, (numbers > 0).byte().argmax(dim=1, keepdim=True))
    total = planes[0].numel()
    levels = ((below - lowest).float() * (255 / (total - lowest).clamp(min=1).float())).round_().clamp_(0, 255)
    same = torch.arange(256, device=planes.device, dtype=torch.float32).expand(count, -1)
    levels = torch.where(lowest == total, same, levels)  # one level alone stays as it is
    return levels.to(torch.uint8).flatten().index_select(0, places).view(planes.shape)
