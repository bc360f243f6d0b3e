"""Ten shapes as signed distances: negative inside, in units of the shape's radius."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor


def _length(x: Tensor, y: Tensor) -> Tensor:
    return (x * x + y * y).sqrt()


def _box(x: Tensor, y: Tensor, half_x: float, half_y: float) -> Tensor:
    return torch.maximum(x.abs() - half_x, y.abs() - half_y)


def _circle(x: Tensor, y: Tensor) -> Tensor:
    return _length(x, y) - 0.88


def _square(x: Tensor, y: Tensor) -> Tensor:
    return _box(x, y, 0.76, 0.76)


def _triangle(x: Tensor, y: Tensor) -> Tensor:
    return torch.maximum(0.866 * x.abs() - 0.5 * y, y) - 0.5


def _star(x: Tensor, y: Tensor) -> Tensor:
    sector = 2 * math.pi / 5
    turn = torch.atan2(x, -y)
    fold = (turn - sector * (turn / sector).round()).abs()  # angle from the nearest tip
    radius = _length(x, y)
    along, across = radius * fold.cos(), radius * fold.sin()
    notch = (0.44 * math.cos(sector / 2), 0.44 * math.sin(sector / 2))
    edge = math.hypot(1 - notch[0], notch[1])
    return ((along - 1.0) * notch[1] + across * (1 - notch[0])) / edge


def _cross(x: Tensor, y: Tensor) -> Tensor:
    return torch.minimum(_box(x, y, 0.28, 0.92), _box(x, y, 0.92, 0.28))


def _ring(x: Tensor, y: Tensor) -> Tensor:
    return (_length(x, y) - 0.68).abs() - 0.22


def _crescent(x: Tensor, y: Tensor) -> Tensor:
    return torch.maximum(_length(x, y) - 0.92, 0.76 - _length(x - 0.44, y))


def _heart(x: Tensor, y: Tensor) -> Tensor:
    x, y = x / 0.92, y / 0.92
    body = ((x.abs() + y.abs()) - 0.78) * math.sqrt(0.5)
    lobe = _length(x.abs() - 0.39, y + 0.39) - 0.55
    return 0.92 * torch.minimum(body, lobe)


def _arrow(x: Tensor, y: Tensor) -> Tensor:
    head = torch.maximum(y - 0.05, (x.abs() - 0.8 * (y + 0.98)) / 1.28)
    return torch.minimum(_box(x, y - 0.47, 0.22, 0.47), head)


def _semicircle(x: Tensor, y: Tensor) -> Tensor:
    return torch.maximum(_length(x, y - 0.4) - 0.95, y - 0.4)


SHAPES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "circle": _circle,
    "square": _square,
    "triangle": _triangle,
    "star": _star,
    "cross": _cross,
    "ring": _ring,
    "crescent": _crescent,
    "heart": _heart,
    "arrow": _arrow,
    "semicircle": _semicircle,
}


def signed_distance(shape: Tensor, x: Tensor, y: Tensor, centre: Tensor, radius: Tensor, angle: Tensor) -> Tensor:
    """Distance [N, H, W] in image units from pixel (x [1, 1, W], y [1, H, 1]) to each object's outline.

    shape [N] indexes SHAPES (-1: nowhere, distance +inf); centre [N, 2], radius [N], angle [N] in radians.
    """
    out = torch.full((len(shape), y.shape[1], x.shape[2]), torch.inf)
    for index, distance in enumerate(SHAPES.values()):
        rows = (shape == index).nonzero()[:, 0]
        if len(rows):
            r, a = radius[rows, None, None], angle[rows, None, None]
            dx, dy = (x - centre[rows, 0, None, None]) / r, (y - centre[rows, 1, None, None]) / r
            out[rows] = r * distance(a.cos() * dx + a.sin() * dy, a.cos() * dy - a.sin() * dx)
    return out
