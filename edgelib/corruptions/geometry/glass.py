"""Glass: pixels that change places with their neighbours, between two light blurs."""

from __future__ import annotations

import torch
from torch import Tensor

from edgelib.corruptions.gaussian import blurred
from edgelib.corruptions.registry import corruption
from edgelib.ground.randomness import bits


def shuffled(images: Tensor, keys: Tensor, reach: int, turn: int) -> Tensor:
    """Return images [n, 3, H, W] after one walk of the peers' loop, from the last pixel to the first.

    Each pixel that is more than `reach` from the border takes the value that stands, at its turn, `down` rows and
    `right` columns on, both uniform in -reach .. reach - 1. (The peers' swap of two views is such a copy.) A pixel that
    has had its turn already holds the value of where it came from itself: the walk is undone by following these links,
    each time twice as far.
    """
    n, _, height, width = images.shape
    count = 2 * height * width
    draws = bits(keys, count * (turn + 1))[:, count * turn :]
    draws = draws.bitwise_and(0x7FFF).mul_(2 * reach).bitwise_right_shift_(15)
    down, right = draws.sub_(reach).view(n, 2, height, width).unbind(1)
    y = torch.arange(height, device=images.device)[:, None]
    x = torch.arange(width, device=images.device)
    inside = (y > reach) & (y <= height - reach) & (x > reach) & (x <= width - reach)
    own = y * width + x
    source = torch.where(inside, own + down * width + right, own).flatten(1)  # [n, H W]
    linked = inside.flatten().expand(n, -1).gather(1, source) & (source > own.flatten())
    while bool(linked.any()):
        linked, source = linked & linked.gather(1, source), torch.where(linked, source.gather(1, source), source)
    return images.flatten(2).gather(2, source[:, None].expand(-1, 3, -1)).view(images.shape)


@corruption(
    "blur",
    "(sd of both blurs in pixels, reach of a move in pixels, moves)",
    imagenet_c=((0.7, 1, 2), (0.9, 2, 1), (1, 2, 3), (1.1, 3, 2), (1.5, 4, 2)),
    cifar_c=((0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2)),
    random=True,
    source="imagecorruptions 1.1.2 and make_cifar_c.py of hendrycks/robustness",
)
def glass_blur(images, level, keys):
    """A Gaussian blur, so many walks of `shuffled`, and the blur again; truncated to integers after each blur."""
    sigma, reach, turns = level
    images = blurred(images, sigma)
    for turn in range(turns):
        images = shuffled(images, keys, reach, turn)
    return blurred(images, sigma)
