"""The embedded world: procedural scenes of coloured shapes, drawn from signed distance fields.

A scene is a record (what is where); its image and its captions derive from the record and nothing else.
Record i of a split depends on (seed, split, i) only, so any batch, order or machine draws the same world.
Coordinates run from -1 to 1 over the image, x to the right and y downwards; radii are in the same unit.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import pandas as pd
import torch
from torch import Tensor

from edgelib.data.scenes.shapes import SHAPES, signed_distance
from edgelib.errors import EdgelibError
from edgelib.ground.randomness import address, keys_for, normal, uniform

SPLITS = ("train", "validation", "test")
IMAGE_SIZE = 48  # pixels a side, the default
COLOURS = {
    "red": (0.86, 0.13, 0.15),
    "orange": (0.96, 0.55, 0.10),
    "yellow": (0.95, 0.88, 0.18),
    "green": (0.16, 0.64, 0.24),
    "cyan": (0.20, 0.78, 0.84),
    "blue": (0.15, 0.28, 0.85),
    "purple": (0.55, 0.18, 0.68),
    "white": (0.96, 0.96, 0.96),
}
TEXTURES = ("plain", "gradient", "striped", "checkered", "dotted")
SIZES = ("small", "large")
MAX_OBJECTS = 3  # the subject and up to two smaller distractors
_OCCLUDER_SHARE = 0.25
_DISTRACTOR_SHARES = (0.45, 0.35)  # chance that the first and the second distractor are present
_MAX_SENSOR_NOISE = 0.04  # largest standard deviation of the sensor noise, in [0, 1] pixel units


@dataclass(frozen=True)
class Records:
    """What is where in N scenes. Object 0 is the subject, the largest; shape -1 means that the slot is empty."""

    keys: Tensor  # int64 [N]
    shape: Tensor  # int64 [N, 3], index into SHAPES
    colour: Tensor  # int64 [N, 3], index into COLOURS
    centre: Tensor  # float32 [N, 3, 2], (x, y)
    radius: Tensor  # float32 [N, 3]
    angle: Tensor  # float32 [N, 3], radians
    texture: Tensor  # int64 [N], index into TEXTURES
    ground: Tensor  # float32 [N, 2, 3], the two background colours, RGB
    pattern: Tensor  # float32 [N, 3], angle, frequency and phase of the texture
    occluder: Tensor  # float32 [N, 4]: half-width (0 is none), offset from the subject's centre, angle, grey level
    noise: Tensor  # float32 [N], standard deviation of the sensor noise

    def __len__(self) -> int:
        return len(self.keys)


def draw_records(split: str, index: Tensor, seed: int = 0) -> Records:
    """Draw the records with the given indices [N] of a split; the same index always names the same scene.

    Raises EdgelibError for an unknown split.
    """
    if split not in SPLITS:
        raise EdgelibError(f"unknown split {split!r} of scenes; choose from {', '.join(SPLITS)}")
    keys = keys_for(address("scenes", split, seed), index)
    draws = iter(uniform(keys, 48).unbind(dim=1))

    def choice(n: int) -> Tensor:
        return (next(draws) * n).long().clamp(max=n - 1)

    def between(low: float, high: float) -> Tensor:
        return low + (high - low) * next(draws)

    # Distinct shapes and colours: the k-th distractor steps away from those already taken.
    shape0, colour0 = choice(len(SHAPES)), choice(len(COLOURS))
    shape_step = 1 + choice(len(SHAPES) - 2)
    colour_step = 1 + choice(len(COLOURS) - 2)
    shape = torch.stack([shape0, shape0 + shape_step, shape0 + shape_step + 1], 1) % len(SHAPES)
    colour = torch.stack([colour0, colour0 + colour_step, colour0 + colour_step + 1], 1) % len(COLOURS)
    for slot, share in enumerate(_DISTRACTOR_SHARES, start=1):
        shape[:, slot] = torch.where(next(draws) < share, shape[:, slot], -1)

    radius = torch.stack([between(0.36, 0.66), between(0.14, 0.24), between(0.14, 0.24)], 1)
    subject = torch.stack([between(-1, 1), between(-1, 1)], 1) * (0.92 - radius[:, :1]).clamp(min=0.0)
    # A distractor stands in the direction away from the subject, at a distance that keeps both visible.
    bearing = torch.atan2(-subject[:, 1], -subject[:, 0]) + between(-0.9, 0.9)
    distance = radius[:, 0] + radius[:, 1] + between(0.02, 0.25)
    first = subject + distance[:, None] * torch.stack([bearing.cos(), bearing.sin()], 1)
    turn = bearing + torch.where(next(draws) < 0.5, 1.0, -1.0) * between(0.9, 1.6)
    distance = radius[:, 0] + radius[:, 2] + between(0.02, 0.25)
    second = subject + distance[:, None] * torch.stack([turn.cos(), turn.sin()], 1)
    centre = torch.stack([subject, first.clamp(-0.9, 0.9), second.clamp(-0.9, 0.9)], 1)
    angle = torch.stack([between(-math.pi, math.pi) for _ in range(MAX_OBJECTS)], 1)

    base, contrast = between(0.12, 0.62), between(0.08, 0.22)
    tint = 0.08 * (torch.stack([next(draws) for _ in range(3)], 1) - 0.5)
    ground = torch.stack([base[:, None] + tint, (base + contrast)[:, None] + tint], 1)
    pattern = torch.stack([between(0, math.pi), between(1.6, 3.6), between(0, 1)], 1)
    present = next(draws) < _OCCLUDER_SHARE
    occluder = torch.stack(
        [between(0.04, 0.09) * present, between(-0.5, 0.5) * radius[:, 0], between(0, math.pi), between(0.05, 0.75)], 1
    )
    texture, noise = choice(len(TEXTURES)), between(0.0, _MAX_SENSOR_NOISE)
    return Records(keys, shape, colour, centre, radius, angle, texture, ground, pattern, occluder, noise)


def _background(records: Records, x: Tensor, y: Tensor, pixel: float) -> Tensor:
    """Weight [N, H, W] in [0, 1] of the second background colour; edges are one pixel soft."""
    angle, frequency, phase = (records.pattern[:, i, None, None] for i in range(3))
    u = (angle.cos() * x + angle.sin() * y) * frequency + phase
    v = (angle.cos() * y - angle.sin() * x) * frequency + phase
    soft = pixel * frequency  # width of one pixel in units of u

    def wave(t: Tensor) -> Tensor:  # triangle wave in [-1, 1], period 1
        return 4.0 * (t - (t + 0.5).floor()).abs() - 1.0

    def edge(t: Tensor) -> Tensor:
        return (0.5 + t / (4.0 * soft)).clamp(0, 1)

    stripes = edge(wave(u))
    checks = stripes + edge(wave(v)) - 2 * stripes * edge(wave(v))
    radial = ((u - (u + 0.5).floor()) ** 2 + (v - (v + 0.5).floor()) ** 2).sqrt()
    dots = (0.5 + (0.28 - radial) / soft).clamp(0, 1)
    ramp = (0.5 + 0.5 * (angle.cos() * x + angle.sin() * y)).clamp(0, 1)
    options = torch.stack([torch.zeros_like(ramp), ramp, stripes, checks, dots])
    return options[records.texture, torch.arange(len(records))]


def _occluder_alpha(records: Records, x: Tensor, y: Tensor, pixel: float) -> Tensor:
    half, offset, angle, _ = (records.occluder[:, i, None, None] for i in range(4))
    dx, dy = x - records.centre[:, 0, 0, None, None], y - records.centre[:, 0, 1, None, None]
    across = angle.cos() * dx + angle.sin() * dy - offset
    return ((half - across.abs()) / pixel + 0.5).clamp(0, 1) * (half > 0)


def render(records: Records, size: int = IMAGE_SIZE) -> tuple[Tensor, Tensor]:
    """Draw the scenes: images uint8 [N, 3, size, size]; per pixel the visible share of each object, same shape."""
    axis = (torch.arange(size, dtype=torch.float32) + 0.5) * (2.0 / size) - 1.0
    x, y, pixel = axis[None, None, :], axis[None, :, None], 2.0 / size
    mix = _background(records, x, y, pixel)[:, None]
    image = records.ground[:, 0, :, None, None] * (1 - mix) + records.ground[:, 1, :, None, None] * mix
    palette = torch.tensor(list(COLOURS.values()))
    cover = torch.zeros(len(records), MAX_OBJECTS, size, size)
    for slot in reversed(range(MAX_OBJECTS)):  # the subject is drawn last, on top
        distance = signed_distance(
            records.shape[:, slot], x, y, records.centre[:, slot], records.radius[:, slot], records.angle[:, slot]
        )
        alpha = (0.5 - distance / pixel).clamp(0, 1)
        image = image + alpha[:, None] * (palette[records.colour[:, slot], :, None, None] - image)
        cover *= (1 - alpha)[:, None]
        cover[:, slot] = alpha
    alpha = _occluder_alpha(records, x, y, pixel)
    image = image + alpha[:, None] * (records.occluder[:, 3, None, None, None] - image)
    cover *= (1 - alpha)[:, None]
    sensor = normal(keys_for(address("sensor noise"), records.keys), 3 * size * size).view(-1, 3, size, size)
    image = image + records.noise[:, None, None, None] * sensor
    return (image.clamp(0, 1) * 255.0 + 0.5).to(torch.uint8), cover


def record_table(records: Records, names: list[str]) -> pd.DataFrame:
    """One row per scene: item name, ten-class label, and the attributes that captions and questions speak of."""
    shapes, colours = list(SHAPES), list(COLOURS)
    objects = [
        [(shapes[s], colours[c]) for s, c in zip(row_s, row_c, strict=True) if s >= 0]
        for row_s, row_c in zip(records.shape.tolist(), records.colour.tolist(), strict=True)
    ]
    return pd.DataFrame(
        {
            "item": names,
            "label": records.shape[:, 0].numpy(),
            "shape": [o[0][0] for o in objects],
            "colour": [o[0][1] for o in objects],
            "size": [SIZES[int(r > 0.51)] for r in records.radius[:, 0].tolist()],
            "texture": [TEXTURES[t] for t in records.texture.tolist()],
            "others": [", ".join(f"{c} {s}" for s, c in o[1:]) for o in objects],
            "x": records.centre[:, 0, 0].numpy(),
            "y": records.centre[:, 0, 1].numpy(),
            "radius": records.radius[:, 0].numpy(),
            "occluded": (records.occluder[:, 0] > 0).numpy(),
            "sensor_noise": records.noise.numpy(),
        }
    )


def concatenate(parts: list[Records]) -> Records:
    """Join records field by field."""
    return Records(**{f.name: torch.cat([getattr(p, f.name) for p in parts]) for f in fields(Records)})


def scene_dataset(
    split: str, n: int, seed: int = 0, size: int = IMAGE_SIZE
) -> tuple[pd.DataFrame, Tensor, tuple[str, ...]]:
    """Return (rows, images uint8 [n, 3, size, size], class names) of the first n scenes of a split.

    Splits and seeds never share a scene's key. Raises EdgelibError for an unknown split or a size that is not positive.
    """
    if size < 8:
        raise EdgelibError(f"scenes are drawn at 8 pixels or more, got size {size!r}")
    images, parts = [], []
    for start in range(0, n, 512):  # bounded memory whatever n
        records = draw_records(split, torch.arange(start, min(start + 512, n)), seed)
        images.append(render(records, size)[0])
        parts.append(records)
    names = [f"scenes/{split}/{seed}/{i:06d}" for i in range(n)]
    return record_table(concatenate(parts), names), torch.cat(images), tuple(SHAPES)
