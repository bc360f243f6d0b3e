"""How configurations look in every figure of the book, and the colours of whatever else is drawn: the only place."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from edgelib.errors import EdgelibError
from edgelib.quant.scheme import scheme

# Okabe and Ito's colours, readable without colour vision; the cycle of edgelib.mplstyle is the first five.
BLACK, BLUE, VERMILLION, GREEN, PURPLE = "#000000", "#0072B2", "#D55E00", "#009E73", "#CC79A7"
SKY, ORANGE, BROWN, VIOLET, OLIVE = "#56B4E9", "#E69F00", "#A6761D", "#8C6BB1", "#7F7F2A"
STEEL, RED, LEAF = "#1F78B4", "#B2182B", "#66A61E"
GREY, LIGHT = "#6E6E6E", "#DDDDDD"
CYCLE = (BLACK, BLUE, VERMILLION, GREEN, PURPLE)
# Text takes a darker ink of the same hue where the hue is too faint on white.
INKS = {
    VERMILLION: "#B04A00",
    GREEN: "#007A59",
    PURPLE: "#9C4F7C",
    SKY: BLUE,
    ORANGE: "#8A5F00",
    BROWN: "#7A5615",
    VIOLET: "#6A4C93",
    OLIVE: "#66661F",
    LEAF: "#466F14",
}
_CONFIGS = {
    "fp32": (BLACK, "o"),
    "fp16": (GREY, "P"),
    "bf16": (GREY, "X"),
    "w8a8-minmax": (BLUE, "s"),
    "w8a8-smoothquant": (GREEN, "D"),
    "w4a8-minmax": (VERMILLION, "^"),
    "w4a8-awq": (PURPLE, "X"),
    "w4a8-gptq": (SKY, "<"),
    "w3a8-minmax": (ORANGE, "v"),
    "fp8": (VIOLET, "h"),
    "nvfp4": (OLIVE, "p"),
    "w8a16": (BLUE, "P"),
    "w8a8-minmax-static": (BLUE, "d"),
    "w8a8-smoothquant-vision": (GREEN, "*"),
    "w4a8-smoothquant-search": (GREEN, "<"),
    "w4a8-awq-fixed": (PURPLE, "<"),
    "w4a8-awq-noclip": (PURPLE, "d"),
    "w4a8-imatrix": (LEAF, "s"),
    "w4a16": (BROWN, "^"),
    "w4a16-awq": (STEEL, "X"),
    "w4a16-gptq": (SKY, ">"),
    "nvfp4-vision": (OLIVE, "*"),
}
_SPARE = [(BROWN, ">"), (STEEL, "d"), (RED, "*"), (LEAF, "H"), (VIOLET, "v"), (STEEL, "o"), (RED, "^"), (LEAF, "D")]
# Devices, caches, groups: whatever is no configuration.
_SERIES = [BLUE, VERMILLION, GREEN, PURPLE, BLACK, BROWN, VIOLET, OLIVE]
_MARKERS = ["o", "s", "^", "D", "v", "P", "X", "<"]


@dataclass(frozen=True)
class Look:
    """How one configuration is drawn in every figure of the book."""

    colour: str
    ink: str
    marker: str
    label: str


def label(config: str) -> str:
    """Return what tables, figures and sentences call a configuration, or any other name as it is."""
    try:
        return scheme(config).label
    except EdgelibError:  # not a scheme but another name, such as a supervised model's
        return config


def labels(configs: Iterable[str]) -> dict[str, str]:
    """Return {configuration: label}, in order."""
    return {config: label(config) for config in configs}


def look(config: str, position: int = 0) -> Look:
    """Return the look of a configuration; one without a look of its own takes the next spare one by `position`."""
    colour, marker = _CONFIGS.get(config) or _SPARE[position % len(_SPARE)]
    return Look(colour, INKS.get(colour, colour), marker, label(config))


def looks(configs: Sequence[str]) -> dict[str, Look]:
    """Return the looks of several configurations, distinct among them."""
    spare = iter(range(len(configs)))
    return {c: look(c, 0 if c in _CONFIGS else next(spare)) for c in dict.fromkeys(configs)}


def series(position: int) -> Look:
    """Return the look, without a label, of the position-th of things that are no configurations; distinct among 64."""
    colour = _SERIES[position % len(_SERIES)]
    marker = _MARKERS[(position + position // len(_SERIES)) % len(_MARKERS)]
    return Look(colour, INKS.get(colour, colour), marker, "")


def readable(name: str) -> str:
    """Return a name of the code as words: "gaussian_noise" -> "gaussian noise"."""
    return name.replace("_", " ").replace("jpeg", "JPEG")
