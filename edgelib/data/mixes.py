"""Calibration mixes: which items are drawn, what happens to their images, and what each tower sees of them.

A new mix is one entry of `MIXES`. A name may carry an argument after a colon, as in "single-class:dog".
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import pandas as pd
import torch
from torch import Tensor

from edgelib.corruptions import CORRUPTIONS, SEVERITIES, corrupt
from edgelib.errors import EdgelibError, choose
from edgelib.ground.randomness import uniform

DARK_GAIN = 0.25  # two photographic stops
_GREY_WEIGHTS = (0.299, 0.587, 0.114)  # luma of ITU-R BT.601
# The ten of EdgeVLM-Bench, by name: a corruption added to the registry must not change the mixture.
MIXTURE = (
    "gaussian_noise",
    "shot_noise",
    "impulse_noise",
    "defocus_blur",
    "motion_blur",
    "fog",
    "brightness",
    "contrast",
    "jpeg_compression",
    "pixelate",
)
_SEVERITY = 3
HEAVY = 7 / 8  # share of the items that the favoured tower sees

# (images uint8 [n, 3, H, W], one int64 key per image [n]) -> images of the same shape
Change = Callable[[Tensor, Tensor], Tensor]


def unchanged(images: Tensor, keys: Tensor) -> Tensor:
    """The images as they are."""
    return images


def dark(images: Tensor, keys: Tensor) -> Tensor:
    """The images at a quarter of their brightness."""
    return (images.float() * DARK_GAIN).round().to(torch.uint8)


def gray(images: Tensor, keys: Tensor) -> Tensor:
    """The images without colour: luma in all three channels."""
    weights = torch.tensor(_GREY_WEIGHTS).view(3, 1, 1)
    return (images * weights).sum(1, keepdim=True).round().to(torch.uint8).expand_as(images).contiguous()


def noise(images: Tensor, keys: Tensor) -> Tensor:
    """Uniform noise over 0..255 in the images' place, of their sizes; their labels then mean nothing."""
    return (uniform(keys, images[0].numel()) * 256).to(torch.uint8).view_as(images)


def corrupted(images: Tensor, keys: Tensor, *, names: tuple[str, ...], severity: int, seed: int) -> Tensor:
    """Each image with one of the named corruptions, chosen by its key, as `corrupt` makes it for this seed."""
    chosen = (uniform(keys, 1)[:, 0] * len(names)).long()
    result = images.clone()
    for code in chosen.unique().tolist():
        result[chosen == code] = corrupt(images[chosen == code], names[code], severity, seed=seed)
    return result


@dataclass(frozen=True)
class Mix:
    """A way to choose what a quantizer looks at.

    says: one line for tables. draw: "balanced" (classes take turns), "uniform" (every item is equally likely) or "one
    class". change: what happens to the images. image_share: share of the items whose image the vision tower sees.
    language: of the texts that the text tower reads, one for each item it sees; None for one prompt per class.
    paired: every item shows both its image and its text. argument: what may follow a colon, as grammar.
    """

    says: str
    draw: str = "balanced"
    change: Callable[..., Tensor] = unchanged
    image_share: float = 1.0
    language: str | None = None
    paired: bool = False
    argument: str = ""


MIXES: dict[str, Mix] = {
    "balanced": Mix("images as they are, as many of each class as there are"),
    "dark": Mix("balanced, at a quarter of the brightness", change=dark),
    "gray": Mix("balanced, without colour", change=gray),
    "noise": Mix("uniform noise in the places and sizes of the balanced images", change=noise),
    "clean": Mix("images as they are, every item equally likely", draw="uniform"),
    "single-class": Mix("one class only, the named one or the seed's", draw="one class", argument="[:CLASS]"),
    "corrupted": Mix(
        "balanced, each image with the named corruption, or with one of ten drawn for it (all); severity 3 unless said",
        change=corrupted,
        argument="[:CORRUPTION|all[:SEVERITY]]",
    ),
    "vision-heavy": Mix("the image of 7 items in 8, the text of the others", image_share=HEAVY, language="english"),
    "text-heavy": Mix("the image of 1 item in 8, the text of the others", image_share=1 - HEAVY, language="english"),
    "vision-only": Mix("balanced, and no text at all", language="english"),
    "text-only": Mix("the text of every item, and no image", image_share=0.0, language="english"),
    "english": Mix("image and English text of every item", language="english", paired=True),
    "second-language": Mix("image and German text of every item", language="german", paired=True),
}


def parse_mix(name: object) -> tuple[Mix, str]:
    """Return a mix and its argument ("" if there is none) from a name such as "dark" or "corrupted:fog:3".

    Raises EdgelibError for an unknown mix, corruption or severity, and an argument that the mix does not take; whether
    there is such a class is for the data to say.
    """
    if not isinstance(name, str):
        return choose(MIXES, name, "calibration mix"), ""
    base, colon, argument = name.partition(":")
    mix = choose(MIXES, base, "calibration mix")
    if colon and not (mix.argument and argument):
        form = f"write it as {base}{mix.argument}" if mix.argument else f"write {base!r}"
        raise EdgelibError(f"calibration mix {name!r} has {argument!r} after the colon; {form}")
    if mix.change is corrupted:
        _corruption(name, argument)
    return mix, argument


def meaning_of(name: str) -> tuple:
    """Return what names of one and the same mix have in common: "corrupted", "corrupted:all" and "corrupted:all:3"."""
    mix, argument = parse_mix(name)
    return mix.says, _corruption(name, argument) if mix.change is corrupted else argument


def change_of(mix: Mix, name: str, argument: str, seed: int) -> Change:
    """The function that changes the images of a mix."""
    if mix.change is not corrupted:
        return mix.change
    names, severity = _corruption(name, argument)
    return partial(corrupted, names=names, severity=severity, seed=seed)


def _corruption(name: str, argument: str) -> tuple[tuple[str, ...], int]:
    """Corruptions to choose from and the severity, from "", "fog", "fog:3" or "all:5"."""
    wanted, colon, severity = argument.partition(":")
    if colon and severity not in map(str, SEVERITIES):
        raise EdgelibError(f"severity in calibration mix {name!r} must be one of 1 to 5, got {severity!r}")
    if wanted not in ("", "all"):
        choose({**CORRUPTIONS, "all": None}, wanted, "corruption")
    names = MIXTURE if wanted in ("", "all") else (wanted,)
    return names, int(severity) if colon else _SEVERITY


def mix_table() -> pd.DataFrame:
    """Every mix as one row: mix (with its argument), images and texts that the towers see, description."""
    rows = []
    for name, mix in MIXES.items():
        if mix.language is None:
            texts = "one prompt per class"
        else:
            share = 1.0 if mix.paired else 1 - mix.image_share
            texts = _share(share) if share == 0 else f"{_share(share)}, {mix.language.capitalize()}"
        row = {"mix": name + mix.argument, "images": _share(mix.image_share), "texts": texts, "description": mix.says}
        rows.append(row)
    return pd.DataFrame(rows)


def _share(share: float) -> str:
    return {1.0: "all", 0.0: "none"}.get(share, f"{round(8 * share)} in 8")
