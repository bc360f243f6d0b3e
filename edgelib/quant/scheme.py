"""Schemes: which numbers the weights and activations become, by which method, in which layers.

A scheme is written as a name, a dictionary or a `Scheme`. Names follow one grammar:

    fp32 | fp16 | bf16 | w<bits>a<bits>-<method>[-g<size>][-alpha<number>][-static]

weights w2 w3 w4 w8; activations a2 a3 a4 a8, a16 (fp16) and a32 (left alone); methods minmax, smoothquant.
Weights have one symmetric scale per output channel, or per group of <size> along a row; activations one
symmetric scale per token found on the fly (`-static`: one per layer, the largest value seen in calibration).
Per output channel and per token, over every Linear layer, is the setting of EdgeVLM-Bench.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from decimal import Decimal
from fnmatch import fnmatchcase

from edgelib.errors import EdgelibError, choose, did_you_mean
from edgelib.quant.formats import FORMATS
from edgelib.quant.methods import METHODS

CASTS = ("fp32", "fp16", "bf16")
WEIGHTS = {f"w{bits}": f"int{bits}" for bits in (2, 3, 4, 8)}
ACTIVATIONS = {**{f"a{bits}": f"int{bits}" for bits in (2, 3, 4, 8)}, "a16": "fp16", "a32": "fp32"}
GRANULARITIES = ("token", "tensor")
GRAMMAR = "write fp32, fp16, bf16 or w<bits>a<bits>-<method>[-g<size>][-alpha<number>][-static], as in w4a8-minmax-g32"


@dataclass(frozen=True)
class Scheme:
    """One quantization setting; building one checks it and raises EdgelibError naming the field that is wrong.

    weight, activation: number formats. method: a name in METHODS ("cast" for the 16- and 32-bit floating schemes).
    group_size: None for one weight scale per output channel. activation_granularity: "token" (dynamic) or "tensor"
    (static, needs calibration). alpha: migration strength in [0, 1], for smoothquant only (None elsewhere).
    targets, exclude: shell patterns on the qualified names of the Linear layers, such as "vision_model.*".
    """

    weight: str = "int8"
    activation: str = "int8"
    method: str = "minmax"
    group_size: int | None = None
    activation_granularity: str = "token"
    alpha: float | None = None
    targets: tuple[str, ...] = ("*",)
    exclude: tuple[str, ...] = ()

    def __post_init__(self):
        for field in ("targets", "exclude"):
            object.__setattr__(self, field, _patterns(field, getattr(self, field)))
        choose(FORMATS, self.weight, "weight format")
        choose(FORMATS, self.activation, "activation format")
        method = choose(METHODS, self.method, "quantization method")
        choose(dict.fromkeys(GRANULARITIES), self.activation_granularity, "activation granularity")
        if (self.weight in CASTS) != (self.method == "cast"):
            raise EdgelibError(f"weights {self.weight!r} and method {self.method!r} do not go together: {GRAMMAR}")
        if self.method == "cast" and (self.targets, self.exclude, self.activation) != (("*",), (), self.weight):
            raise EdgelibError(f"{self.weight} casts the whole model: no targets, exclude or other activation")
        if method.migrate is None and self.alpha is not None:
            raise EdgelibError(f"alpha={self.alpha!r} belongs to smoothquant; {self.method} has none, so drop it")
        if method.migrate is not None:
            object.__setattr__(self, "alpha", _alpha(self.alpha))
        _check_granularity(self)

    @property
    def needs_calibration(self) -> bool:
        """Whether `quantize` has to see inputs: to migrate outliers or to fix a static activation scale."""
        return METHODS[self.method].migrate is not None or self.activation_granularity == "tensor"

    @property
    def name(self) -> str:
        """The name that the grammar gives this scheme; targets and exclude are not part of it."""
        if self.method == "cast":
            return self.weight
        bits = next(a for a, f in ACTIVATIONS.items() if f == self.activation)
        parts = [f"w{FORMATS[self.weight].bits}{bits}-{self.method}"]
        parts += [f"g{self.group_size}"] if self.group_size else []
        parts += [f"alpha{Decimal(repr(self.alpha)):f}"] if self.alpha not in (None, 0.5) else []
        parts += ["static"] if self.activation_granularity == "tensor" else []
        return "-".join(parts)

    @property
    def label(self) -> str:
        """What figures and tables print, such as "W4A8 min-max, groups of 32"."""
        if self.method == "cast":
            return self.weight.upper()
        head, _, *options = self.name.split("-")
        words = {"g": "groups of ", "a": "alpha ", "s": "static activations"}
        tail = [words[o[0]] + re.sub(r"^[a-z]+", "", o) for o in options]
        return ", ".join([f"{head.upper()} {METHODS[self.method].label}", *tail])

    def selects(self, layer: str) -> bool:
        """Return whether the Linear called `layer` is quantized."""
        return any(fnmatchcase(layer, p) for p in self.targets) and not any(fnmatchcase(layer, p) for p in self.exclude)

    def to_dict(self) -> dict:
        """Return the scheme as plain values; `scheme` reads it back."""
        return {**asdict(self), "targets": list(self.targets), "exclude": list(self.exclude)}


def _patterns(field: str, value: object) -> tuple[str, ...]:
    value = (value,) if isinstance(value, str) else value
    if not isinstance(value, list | tuple) or not all(isinstance(p, str) and p for p in value):
        raise EdgelibError(f'{field} is a list of name patterns such as ["vision_model.*"], got {value!r}')
    return tuple(value)


def _alpha(value: object) -> float:
    alpha = 0.5 if value is None else value
    if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not 0 <= alpha <= 1:
        raise EdgelibError(f"alpha is a number from 0 (all difficulty stays in the activations) to 1, got {value!r}")
    return float(alpha)


def _check_granularity(scheme: Scheme) -> None:
    size = scheme.group_size
    if size is not None and (isinstance(size, bool) or not isinstance(size, int) or size < 1):
        raise EdgelibError(f"group_size is a positive integer, or None for one scale per output channel, got {size!r}")
    if size is not None and scheme.method == "cast":
        raise EdgelibError(f"{scheme.weight} has no scales, so it takes no group_size")
    if scheme.activation_granularity == "tensor" and not scheme.activation.startswith("int"):
        raise EdgelibError(f"static activations need an integer format, got {scheme.activation!r}")


def _parse(name: str) -> Scheme:
    """Read a scheme name by the grammar of this module."""
    head, *rest = name.lower().split("-")
    if head in CASTS and not rest:
        return Scheme(head, head, "cast")
    numbers = re.fullmatch(r"(w\d+)(a\d+)", head)
    if not numbers:
        hint = f"{did_you_mean(name, PRESETS)}; choose from {', '.join(PRESETS)}"
        raise EdgelibError(f"unknown scheme {name!r}{hint}; or {GRAMMAR}")
    for part, table, kind in zip(numbers.groups(), (WEIGHTS, ACTIVATIONS), ("weights", "activations"), strict=True):
        if part not in table:
            raise EdgelibError(f"unknown {kind} {part!r} in scheme {name!r}; choose from {', '.join(table)}")
    methods = [m for m in METHODS if m != "cast"]
    if not rest or rest[0] not in methods:
        wrong = f"unknown method {rest[0]!r} in" if rest else "no method in"
        hint = did_you_mean(rest[0], methods) if rest else ""
        raise EdgelibError(f"{wrong} scheme {name!r}{hint}; choose from {', '.join(methods)}, as in {head}-minmax")
    options = dict(_option(part, name) for part in rest[1:])
    return Scheme(WEIGHTS[numbers[1]], ACTIVATIONS[numbers[2]], rest[0], **options)


def _option(part: str, name: str) -> tuple[str, object]:
    if part == "static":
        return "activation_granularity", "tensor"
    if re.fullmatch(r"g[1-9]\d*", part):
        return "group_size", int(part[1:])
    if re.fullmatch(r"alpha(\d+\.?\d*|\.\d+)", part):
        return "alpha", float(part[5:])
    raise EdgelibError(f"unknown option {part!r} in scheme {name!r}; {GRAMMAR}")


def scheme(spec: str | Mapping | Scheme) -> Scheme:
    """Return the Scheme that `spec` means: a name, a Scheme, or a mapping of Scheme's fields.

    A mapping may start from a name: {"preset": "w8a8-minmax", "exclude": ["*.head"]}.
    Raises EdgelibError naming the unknown part, the closest match and the allowed ones.
    """
    if isinstance(spec, Scheme):
        return spec
    if isinstance(spec, str):
        return _parse(spec)
    if not isinstance(spec, Mapping):
        raise EdgelibError(f"a scheme is a name, a mapping or a Scheme, got {spec!r}; {GRAMMAR}")
    values = dict(spec)
    base = scheme(values.pop("preset")) if "preset" in values else Scheme()
    allowed = [f.name for f in fields(Scheme)]
    for key in values:
        if key not in allowed:
            hint = f"{did_you_mean(key, allowed)}; choose from preset, {', '.join(allowed)}"
            raise EdgelibError(f"unknown scheme field {key!r}{hint}")
    if "method" in values:
        values.setdefault("alpha", None)  # an alpha that came with the preset belongs to the preset's method
    return replace(base, **values)


PRESETS: dict[str, Scheme] = {
    name: _parse(name) for name in (*CASTS, "w8a8-minmax", "w8a8-smoothquant", "w4a8-minmax", "w3a8-minmax")
}
