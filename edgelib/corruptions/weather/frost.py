"""Frost: crystals on a window, drawn from the seed where the peers paste photographs."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from edgelib.corruptions.registry import corruption
from edgelib.corruptions.weather.fog import map_side, plasma
from edgelib.ground.randomness import keys_for, uniform

# Mean RGB and sd of the grey levels of the five photographs that the peers draw from, in their order.
PANES = (
    ((78, 149, 166), 18),
    ((201, 205, 214), 20),
    ((201, 205, 214), 20),
    ((138, 153, 165), 27),
    ((112, 123, 135), 36),
)
_TURN = math.pi * (math.sqrt(5) - 1) / 2  # from plate to plate: neighbours are never parallel
_SD = 0.33  # of `crystals`


def crystals(keys: Tensor, side: int, distance: float) -> Tensor:
    """Return float32 [n, side, side] of mean about 0 and sd about 1: plates of parallel needles on uneven ice.

    side: a power of two. distance: from needle to needle, in pixels. A height map is cut into ranges, one for every two
    needles that the side holds, and each range is a plate whose needles have a direction of their own; a second,
    rougher map bends them, and they fade at the border of the plate.
    """
    broad, fine = plasma(keys, side, 1.6), plasma(keys_for(1, keys), side, 1.25)
    plates = side / (2 * distance)
    height = broad * plates
    plate = height.floor()
    inside = height.sub_(plate).mul_(2).sub_(1).abs_().neg_().add_(1).mul_(2).clamp_(max=1)  # 0 on the border
    turns = [number * _TURN for number in range(int(plates) + 2)]
    place, at = plate.to(torch.int32).flatten(), torch.arange(side, dtype=torch.float32, device=keys.device)
    down, across = (
        torch.tensor([way(turn) / distance for turn in turns], device=keys.device).index_select(0, place)
        for way in (math.sin, math.cos)
    )
    phase = down.view_as(plate).mul_(at[:, None]).add_(across.view_as(plate).mul_(at)).add_(fine * (plates / 4))
    needles = phase.sub_(phase.floor()).sub_(0.5).mul_(inside)
    return needles.add_(fine.sub_(0.5).mul_(1.2)).add_(broad.sub_(0.5).mul_(0.6)).mul_(1 / _SD)


def pane_of(keys: Tensor) -> Tensor:
    """Return int32 [n]: which of PANES each key draws."""
    return uniform(keys_for(2, keys), 1)[:, 0].mul(len(PANES)).int()


def panes(keys: Tensor, height: int, width: int, side: int, distance: float) -> Tensor:
    """Return float32 [n, 3, height, width], grey levels: a random cut of `crystals` in the colours of one of PANES."""
    chosen = pane_of(keys)
    mean = torch.tensor([colour for colour, _ in PANES], dtype=torch.float32, device=keys.device)[chosen]
    sd = torch.tensor([sd for _, sd in PANES], dtype=torch.float32, device=keys.device)[chosen]
    moves = uniform(keys_for(3, keys), 2).mul(side).int().tolist()
    ice = crystals(keys, side, distance).mul_(sd[:, None, None])
    cut = [one.roll(move, (0, 1))[:height, :width] for one, move in zip(ice, moves, strict=True)]
    return mean[:, :, None, None] + torch.stack(cut)[:, None]


@corruption(
    "weather",
    "(share of the picture, share of the frost, distance of the needles in pixels)",
    imagenet_c=((1, 0.4, 10), (0.8, 0.6, 10), (0.7, 0.7, 10), (0.65, 0.7, 10), (0.6, 0.75, 10)),
    cifar_c=((1, 0.2, 2), (1, 0.3, 2), (0.9, 0.4, 2), (0.85, 0.4, 2), (0.75, 0.45, 2)),
    random=True,
    source="shares of imagecorruptions 1.1.2 and make_cifar_c.py of hendrycks/robustness; the frost is drawn",
)
def frost(images, level, keys):
    """share v + share' f, clipped, truncated to integers, where f is a random cut of frost drawn from the seed.

    The peers cut f from one of five photographs whose licence is not known. Here it is drawn: plates of needles
    (`crystals`) in the mean colour and with the spread of grey levels of one of the five. Shares, mean, contrast and
    how alike neighbouring pixels are follow the peers, the shapes do not: scores are near theirs, not equal to them.
    Raises EdgelibError as `fog` does for images that need too large a map.
    """
    share, of_frost, distance = level
    height, width = images.shape[2:]
    ice = panes(keys, height, width, map_side(images, "frost"), distance)
    return ice.mul_(of_frost).add_(images * share).clamp_(0, 255).to(torch.uint8)
