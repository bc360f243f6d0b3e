"""KV schemes: which numbers the key-value cache holds, on which scale and around which offset, in which part of it.

A name is <format>[-<scale>][-<offset>][-<option>...], in any order after the format:

format: e4m3, e5m2, int8, int4 and nvfp4; fp32, fp16 and bf16 are casts and take no scale. These are the formats of
    `edgelib.formats.table` that have a `cache_name`, so a new one that has it is known here. Those of llama.cpp, q8_0,
    q5_1, q5_0, q4_1, q4_0 and iq4_nl, find a scale for every 32 channels of a token and take no other.
scale: one is 1.0. amax (the default), floor, p<percentile>, head and channel are static and need calibration: the
    largest value of the layer over the format's largest number, the same but at least 1 (what modelopt exports), a
    percentile of the values instead of the largest, one scale per head, one per head and channel. token is found when a
    token is written, one scale per head or per group of channels. kivi has K per channel over groups of tokens and V
    per token (Liu et al. 2024, arXiv:2402.02750).
offset: mean takes the static mean of each channel off K and V (modelopt's affine KV), tokenmean the mean of the
    sequence's own keys off K (Zhang et al. 2024, arXiv:2410.02367), bias the rotated bias of k_proj.
options: rotated turns the channels of each head by one random rotation before storing and back when read, after the
    offset is taken off (QuaRot, Ashkboos et al. 2024, arXiv:2404.00456); hadamard turns them as llama.cpp does around
    its own types, unless it is told not to; konly, vonly; image16 and text16 leave the tokens of a modality unrounded,
    layers0.3 rounds these layers only; g<size> channels that share a token's scale; r<tokens> the newest tokens that
    kivi leaves unrounded; exactprefill lets a prompt attend to its own unrounded keys and values. Faults for
    experiments, whose memory is not that of the format: undelivered reads static scales as 1; rangeonly saturates and
    does not round, resolutiononly rounds and does not saturate, scaleonly does neither.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass

from edgelib.errors import EdgelibError, choose, did_you_mean
from edgelib.formats.bits import codes_in_whole_bytes
from edgelib.formats.table import FORMATS, Format, check_group_size
from edgelib.ground.checks import plain_number
from edgelib.kv.rotate import SMALLEST_TURN, hadamard_block

STATIC_SCALES = ("one", "amax", "floor", "percentile", "head", "channel")
SCALES = (*STATIC_SCALES, "token", "kivi")
OFFSETS = ("none", "mean", "tokenmean", "bias")
KIVI_GROUP = 32
WORDS: dict[str, dict] = {
    **{scale: {"scale": scale} for scale in SCALES if scale != "percentile"},
    **{offset: {"offset": offset} for offset in OFFSETS if offset != "none"},
    "konly": {"parts": "k"},
    "vonly": {"parts": "v"},
    "image16": {"tokens": "text"},
    "text16": {"tokens": "image"},
    "exactprefill": {"exact_prefill": True},
    "rotated": {"rotated": True},
    "hadamard": {"hadamard": True},
    "undelivered": {"delivered": False},
    "rangeonly": {"effect": "range"},
    "resolutiononly": {"effect": "resolution"},
    "scaleonly": {"effect": "none"},
}
SCALE_LABELS = {
    "one": "scale 1",
    "amax": "scale per layer",
    "floor": "scale per layer of at least 1",
    "head": "scale per head",
    "channel": "scale per channel",
    "token": "scale per token",
    "kivi": "KIVI",
}
WORD_LABELS = {
    "mean": "static mean off",
    "tokenmean": "token mean off",
    "bias": "bias split off",
    "konly": "K only",
    "vonly": "V only",
    "image16": "text tokens only",
    "text16": "image tokens only",
    "exactprefill": "prompt exact",
    "rotated": "rotated",
    "hadamard": "turned as in llama.cpp",
    "undelivered": "scale not delivered",
    "rangeonly": "range only",
    "resolutiononly": "resolution only",
    "scaleonly": "scale only",
}
GRAMMAR = "write <format>[-<scale>][-<offset>][-<option>...], as in e4m3-amax, int4-kivi-r32 or e4m3-bias-konly"


@dataclass(frozen=True)
class KVScheme:
    """One setting of the key-value cache; building one checks it and raises EdgelibError naming what is wrong.

    format, scale, offset: as in the grammar of names, the format by its own name or the short one. percentile: of the
    absolute values, for the scale "percentile". parts: "kv", "k" or "v". tokens: "all", or "image" or "text", the only
    ones that are rounded. layers: indices of the rounded layers, None for all. group_size: channels that share the
    scale of a token, None for a head. residual: newest tokens that "kivi" leaves unrounded. rotated: whether the
    channels of a head are turned before they are stored; hadamard: whether they are turned as in llama.cpp.
    """

    format: str = "fp8_e4m3"
    scale: str = "amax"
    offset: str = "none"
    percentile: float | None = None
    parts: str = "kv"
    tokens: str = "all"
    layers: tuple[int, ...] | None = None
    group_size: int | None = None
    residual: int = 0
    exact_prefill: bool = False
    delivered: bool = True
    effect: str = "both"
    rotated: bool = False
    hadamard: bool = False

    def __post_init__(self):
        object.__setattr__(self, "format", kv_formats().get(self.format, self.format))
        choose(dict.fromkeys(kv_formats().values()), self.format, "format of a KV cache")
        choose(dict.fromkeys(SCALES), self.scale, "scale of a KV cache")
        choose(dict.fromkeys(OFFSETS), self.offset, "offset of a KV cache")
        choose(dict.fromkeys(("kv", "k", "v")), self.parts, "part of a KV cache")
        choose(dict.fromkeys(("all", "image", "text")), self.tokens, "kind of tokens")
        choose(dict.fromkeys(("both", "range", "resolution", "none")), self.effect, "effect of a format")
        if self.layers is not None:
            object.__setattr__(self, "layers", tuple(sorted(set(self.layers))))
            if not self.layers or any(isinstance(i, bool) or not isinstance(i, int) or i < 0 for i in self.layers):
                raise EdgelibError(f"layers are indices from 0, at least one, got {self.layers!r}")
        if isinstance(self.residual, bool) or not isinstance(self.residual, int) or self.residual < 0:
            raise EdgelibError(f"residual is a number of tokens of at least 0, got {self.residual!r}")
        for name in ("rotated", "hadamard"):
            if not isinstance(getattr(self, name), bool):
                raise EdgelibError(f"{name} is true or false, got {getattr(self, name)!r}")
        for wrong, text in self._conflicts():
            if wrong:
                raise EdgelibError(f"KV scheme: {text}")

    def _conflicts(self) -> list[tuple[bool, str]]:
        number, bounded = self.number, self.percentile is not None and 0 < self.percentile < 100
        plain = self.scale in STATIC_SCALES and number.block is None
        return [
            (
                self.is_cast
                and (self.scale, self.offset, self.delivered, self.effect, self.rotated or self.hadamard)
                != ("amax", "none", True, "both", False),
                f"{self.format} is a cast, which takes no scale, offset, rotation or fault",
            ),
            (
                number.own_scales and self.scale != "amax",
                f"{self.format} finds a scale for every {number.block} channels by itself; leave {self.scale!r} out",
            ),
            (
                self.hadamard and (self.rotated or not number.own_scales),
                f"hadamard is how llama.cpp turns {_names(lambda f: f.own_scales)}, in the place of rotated; got "
                f"{self.format}{' with rotated' if self.rotated else ', which takes rotated'}",
            ),
            (
                (self.scale == "percentile") != bounded or (not bounded and self.percentile is not None),
                f"scale 'percentile' needs a percentile between 0 and 100 and no other scale takes one, got "
                f"{self.scale!r} and {self.percentile!r}",
            ),
            (
                number.block is not None and self.scale in ("channel", "token", "kivi"),
                f"{self.format} has a scale per block of {number.block} channels already, so {self.scale!r} means "
                "nothing; choose one, amax, floor, head or a percentile",
            ),
            (
                self.scale == "kivi" and not number.even,
                f"kivi is made of integers with a zero point; choose {_names(lambda f: f.even)}, got {self.format}",
            ),
            (
                self.scale == "kivi" and self.tokens != "all",
                "kivi groups neighbouring tokens, so tokens cannot be left out by modality",
            ),
            (
                self.residual > 0 and self.scale != "kivi",
                f"r{self.residual} belongs to kivi; a scale {self.scale!r} rounds every token when it is written",
            ),
            (
                self.group_size is not None and self.scale not in ("token", "kivi"),
                f"g{self.group_size} belongs to scales that are found per token; add token, or leave it out",
            ),
            (
                self.scale == "percentile" and self.offset == "mean",
                "percentiles are not kept around the mean; choose another scale or the offset tokenmean",
            ),
            (self.offset in ("tokenmean", "bias") and self.parts == "v", f"offset {self.offset!r} is one of K"),
            (
                not (self.delivered and self.effect == "both") and not plain,
                f"faults are defined for static scales of {_names(lambda f: f.scaled and f.block is None)}",
            ),
        ]

    @property
    def number(self) -> Format:
        """The number format itself."""
        return FORMATS[self.format]

    @property
    def is_cast(self) -> bool:
        return not self.number.scaled

    @property
    def needs_calibration(self) -> bool:
        """Whether scales or offsets come from statistics."""
        static = self.scale in STATIC_SCALES and self.scale != "one" and not self.number.own_scales
        return not self.is_cast and (self.offset == "mean" or static)

    @property
    def simulated(self) -> bool:
        """Whether what is stored is not the format itself, so that memory does not fall."""
        return self.effect != "both"

    def rounds(self, layer: int, part: str) -> bool:
        """Whether part "k" or "v" of a layer is stored in the format."""
        return part in self.parts and (self.layers is None or layer in self.layers)

    def bits_per_element(self, head_dim: int, part: str = "k") -> float:
        """Stored bits per element of a rounded token, its share of scales included; static scales weigh nothing.

        Raises EdgelibError for a head size that the format's blocks or the group size do not divide.
        """
        number = self.number
        if self.is_cast:
            return number.bits
        if number.block is not None:
            if head_dim % number.block:
                raise EdgelibError(
                    f"{self.format} has blocks of {number.block} and the heads are {head_dim} wide; choose int4"
                )
            if self.hadamard and hadamard_block(head_dim, part) is None:
                raise EdgelibError(
                    f"llama.cpp turns heads that {SMALLEST_TURN} divides, and these are {head_dim} wide, so it stores "
                    "them as they are: leave hadamard out, or choose rotated"
                )
            return number.bits_per_element()
        together = codes_in_whole_bytes(number.bits)
        if head_dim % together:
            groups = "pairs" if together == 2 else f"groups of {together}"
            raise EdgelibError(
                f"{number.bits}-bit codes are packed in {groups} and the heads are {head_dim} wide; choose int8"
            )
        if self.scale not in ("token", "kivi"):
            return number.bits
        shared = KIVI_GROUP if self.scale == "kivi" and part == "k" else self.group_size or head_dim
        if self.group_size is not None:
            check_group_size(self.group_size, head_dim)
        return number.bits + (32 if number.even else 16) / shared

    @property
    def name(self) -> str:
        """The name that the grammar gives this scheme."""
        if self.is_cast or self.number.own_scales:
            scale = ""
        else:
            scale = f"p{plain_number(self.percentile)}" if self.scale == "percentile" else self.scale
        words = [word for word, fields in WORDS.items() if not {"scale", "offset"} & set(fields) and self._has(fields)]
        return "-".join(
            filter(
                None,
                [
                    self.number.cache_name,
                    scale,
                    "" if self.offset == "none" else self.offset,
                    "" if self.group_size is None else f"g{self.group_size}",
                    f"r{self.residual}" if self.residual else "",
                    *words,
                    "" if self.layers is None else "layers" + ".".join(map(str, self.layers)),
                ],
            )
        )

    @property
    def label(self) -> str:
        """What figures and tables print, such as "E4M3, scale per head, static mean off"."""
        scale = f"{self.percentile:g} % scale" if self.scale == "percentile" else SCALE_LABELS.get(self.scale)
        words = [label for word, label in WORD_LABELS.items() if self._has(WORDS[word])]
        groups = [] if self.group_size is None else [f"groups of {self.group_size}"]
        window = [f"newest {self.residual} exact"] if self.residual else []
        layers = [] if self.layers is None else [f"layers {', '.join(map(str, self.layers))}"]
        scales = [] if self.is_cast or self.number.own_scales else [scale]
        number = self.name.split("-")[0].upper()
        return ", ".join([number, *scales, *groups, *window, *words, *layers])

    def _has(self, fields: dict) -> bool:
        return all(getattr(self, field) == value for field, value in fields.items())

    def to_dict(self) -> dict:
        """Plain values from which the scheme can be built again."""
        return asdict(self)


def kv_formats() -> dict[str, str]:
    """Return the formats that a cache can hold, by the names that KV schemes call them."""
    return {format.cache_name: name for name, format in FORMATS.items() if format.cache_name is not None}


def _names(which: Callable[[Format], bool]) -> str:
    return ", ".join(short for short, name in kv_formats().items() if which(FORMATS[name]))


def kv_scheme(spec: str | dict | KVScheme) -> KVScheme:
    """Return the KV scheme of a name, of a dictionary of fields, or itself.

    Raises EdgelibError naming the part that is wrong and what is allowed.
    """
    if isinstance(spec, KVScheme):
        return spec
    if isinstance(spec, dict):
        for field in spec:
            choose(KVScheme.__dataclass_fields__, field, "field of a KV scheme")
        return KVScheme(**spec)
    if not isinstance(spec, str):
        raise EdgelibError(f"a KV scheme is a name, a dictionary or a KVScheme, got {type(spec).__name__}; {GRAMMAR}")
    # letters and digits of other scripts stay as they are, so no word of the grammar fits them
    short, *parts = (spec.lower() if spec.isascii() else spec).split("-")
    fields = {"format": choose(kv_formats(), short, f"format in KV scheme {spec!r}:")}
    for part in parts:
        read = _read_option(part, spec)
        twice = set(read) & set(fields)
        if twice:
            raise EdgelibError(f"KV scheme {spec!r} says {twice.pop()} twice, the second time with {part!r}; {GRAMMAR}")
        fields |= read
    return KVScheme(**fields)


def _read_option(part: str, name: str) -> dict:
    if part in WORDS:
        return WORDS[part]
    if re.fullmatch(r"p\d+(\.\d+)?", part, re.ASCII) and math.isfinite(float(part[1:])):
        return {"scale": "percentile", "percentile": float(part[1:])}
    if re.fullmatch(r"layers\d{1,4}(\.\d{1,4})*", part, re.ASCII):
        return {"layers": tuple(map(int, part[6:].split(".")))}
    if re.fullmatch(r"g[1-9]\d{0,4}", part, re.ASCII):
        return {"group_size": int(part[1:])}
    if re.fullmatch(r"r\d{1,6}", part, re.ASCII):
        return {"residual": int(part[1:])}
    raise EdgelibError(f"unknown part {part!r} in KV scheme {name!r}{did_you_mean(part, WORDS)}; {GRAMMAR}")
