"""The grammar of scheme names: reading one into fields, and writing fields as a name or a label.

A name is <numbers>[-<method>][-<option>...]:

numbers: fp32, fp16 and bf16 cast the whole model. w<bits>a<bits> are integers: weights w2 w3 w4 w8, activations a2 a3
    a4 a8; a16 is fp16 and a32 leaves them alone. fp8, fp8-e5m2, mxfp8, mxfp4 and nvfp4 round weights and activations
    alike, unless -w8a16, -w4a16 or -w4a8 follows (a8 is mxfp8 beside mxfp4 and fp8 e4m3 beside nvfp4).
method: a name in `METHODS`; floating formats take minmax when none is written, integers name one.
options: -g<size> one weight scale per group of <size> along a row, -channel one per output channel; -asym and -full
    other integer grids; -floor, -rceil and -even the rule by which mx formats choose scales; -static one activation
    scale per layer, from calibration, up to the largest |x| or, with -p<number> after it, up to that percentile of all
    |x| (-static-p99.9: the largest 0.1 % saturate), which no migration takes; -alpha<number> or -search the strength of
    a migration; -clip or -noclip whether weight ranges are searched after it; -fixed is alpha 0.5 without clip; -mse
    and -imatrix where gptq takes its grid from; -vision quantizes the vision tower of a model that writes too, not its
    decoder alone. Two options that set the same thing are refused.

Unless an option says otherwise, weights have one symmetric scale per output channel and activations one per token
found on the fly, the setting of EdgeVLM-Bench. Integer weights below 8 bits with 16-bit activations have groups of 128,
the setting in which AWQ and GPTQ are published, but for minmax and smoothquant: w4a16 is short for w4a16-minmax-g128.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from decimal import Decimal

from edgelib.errors import EdgelibError, did_you_mean
from edgelib.formats.microscaling import SCALE_RULES
from edgelib.quant.methods import METHODS
from edgelib.quant.methods.ranges import RANGES
from edgelib.quant.setting import CASTS

WEIGHTS = {f"w{bits}": f"int{bits}" for bits in (2, 3, 4, 8)}
WIDE = {"a16": "fp16", "a32": "fp32"}
ACTIVATIONS = {**{f"a{bits}": f"int{bits}" for bits in (2, 3, 4, 8)}, **WIDE}
# Floating numbers: weight format, its width, and the activation formats that go with it, the usual one first.
FLOATS = {
    "fp8": ("fp8_e4m3", "w8", {"a8": "fp8_e4m3", **WIDE}),
    "fp8-e5m2": ("fp8_e5m2", "w8", {"a8": "fp8_e5m2", **WIDE}),
    "mxfp8": ("mxfp8", "w8", {"a8": "mxfp8", **WIDE}),
    "mxfp4": ("mxfp4", "w4", {"a4": "mxfp4", "a8": "mxfp8", **WIDE}),
    "nvfp4": ("nvfp4", "w4", {"a4": "nvfp4", "a8": "fp8_e4m3", **WIDE}),
}
FLOATING = {weight for weight, _, _ in FLOATS.values()}
PUBLISHED_GROUP = 128
SHORT = {"w8a16": "w8a16-minmax", "w4a16": "w4a16-minmax-g128"}
PRESET_NAMES = (
    *CASTS,
    "w8a8-minmax",
    "w8a8-smoothquant",
    "w4a8-minmax",
    "w3a8-minmax",
    "w4a8-awq",
    "w4a8-awq-fixed",
    "w8a16",
    "w4a16",
    "w4a16-awq",
    "w4a16-gptq",
    "fp8",
    "nvfp4",
    "nvfp4-w4a8",
    "nvfp4-w4a16",
    "mxfp4",
    "mxfp8",
)
GRAMMAR = (
    "write fp32, fp16, bf16, or w<bits>a<bits>, fp8, nvfp4, mxfp4 or mxfp8 and then [-<method>][-g<size>]"
    "[-alpha<number>][-static] and the like, as in w4a8-minmax-g32 or nvfp4-awq"
)
# Options that need no number, and the fields they set.
WORDS = {
    "channel": {"group_size": None},
    "asym": {"symmetric": False},
    "full": {"full_range": True},
    **{rule: {"scale_rule": rule} for rule in SCALE_RULES},
    "search": {"alpha": "search"},
    "fixed": {"alpha": 0.5, "clip": False},
    "clip": {"clip": True},
    "noclip": {"clip": False},
    **{name: {"weight_range": name} for name in RANGES},
    "static": {"activation_granularity": "tensor"},
    "vision": {"targets": ("decoder", "vision")},
}


def _numbers() -> dict[str, tuple[str, str]]:
    """Every way to write a pair of weight and activation formats, the usual one first."""
    pairs = {name: (name, name) for name in CASTS}
    pairs |= {w + a: (WEIGHTS[w], ACTIVATIONS[a]) for w in WEIGHTS for a in ACTIVATIONS}
    for name, (weight, width, activations) in FLOATS.items():
        pairs[name] = weight, next(iter(activations.values()))
        pairs |= {f"{name}-{width}{a}": (weight, activation) for a, activation in activations.items()}
    return pairs


NUMBERS = _numbers()
NUMBERS_OF = {pair: name for name, pair in reversed(NUMBERS.items())}


def usual_group(weight: str, activation: str, method: str) -> int | None:
    """The group size that a name means when it does not say."""
    coarse = weight in WEIGHTS.values() and weight != "int8" and activation in WIDE.values()
    return PUBLISHED_GROUP if coarse and method not in ("minmax", "smoothquant") else None


def read_name(name: str) -> dict:
    """Return the fields of the scheme called `name`; raises EdgelibError naming the part that is wrong."""
    parts = SHORT.get(name.lower(), name.lower()).split("-")
    length = max((n for n in range(1, len(parts) + 1) if "-".join(parts[:n]) in NUMBERS), default=0)
    if not length:
        raise EdgelibError(_unknown_numbers(parts[0], name))
    numbers, rest = "-".join(parts[:length]), parts[length:]
    weight, activation = NUMBERS[numbers]
    if weight in CASTS:
        if rest:
            raise EdgelibError(f"{weight} takes no method or option, so {rest[0]!r} means nothing in scheme {name!r}")
        return {"weight": weight, "activation": activation, "method": "cast"}
    methods = [m for m in METHODS if m != "cast"]
    if rest and rest[0] in methods:
        method, *rest = rest
    elif weight in FLOATING:
        method = "minmax"
    else:
        wrong = f"unknown method {rest[0]!r} in" if rest else "no method in"
        hint = did_you_mean(rest[0], methods) if rest else ""
        raise EdgelibError(f"{wrong} scheme {name!r}{hint}; choose from {', '.join(methods)}, as in {numbers}-minmax")
    fields = {"weight": weight, "activation": activation, "method": method}
    fields["group_size"] = usual_group(**fields)
    said: dict[str, str] = {}
    for part in rest:
        option = _read_option(part, name, methods, numbers)
        twice = sorted(option.keys() & said.keys())
        if twice:
            raise EdgelibError(
                f"{said[twice[0]]!r} and {part!r} in scheme {name!r} both set {twice[0]}; keep one of them"
            )
        fields |= option
        said |= dict.fromkeys(option, part)
    return fields


def _unknown_numbers(part: str, name: str) -> str:
    numbers = re.fullmatch(r"(w\d+)(a\d+)", part)
    if not numbers:
        hint = f"{did_you_mean(name, PRESET_NAMES)}; choose from {', '.join(PRESET_NAMES)}"
        return f"unknown scheme {name!r}{hint}; or {GRAMMAR}"
    wrong, table, kind = numbers[1], WEIGHTS, "weights"
    if wrong in table:
        wrong, table, kind = numbers[2], ACTIVATIONS, "activations"
    return f"unknown {kind} {wrong!r} in scheme {name!r}; choose from {', '.join(table)}"


def _read_option(part: str, name: str, methods: Iterable[str], numbers: str) -> dict:
    if part in WORDS:
        return WORDS[part]
    if re.fullmatch(r"g[1-9]\d*", part):
        return {"group_size": int(part[1:])}
    if re.fullmatch(r"alpha(\d+\.?\d*|\.\d+)", part):
        return {"alpha": float(part[5:])}
    if re.fullmatch(r"p(\d+\.?\d*|\.\d+)", part):
        return {"percentile": float(part[1:])}
    if re.fullmatch(r"w\d+a\d+", part):
        known = ", ".join(known for known in NUMBERS if known.startswith(numbers))
        raise EdgelibError(f"unknown numbers {part!r} in scheme {name!r}; choose from {known}")
    hint = did_you_mean(part, [*methods, *WORDS])
    raise EdgelibError(f"unknown option {part!r} in scheme {name!r}{hint}; {GRAMMAR}")


def write_name(scheme) -> str:
    """Return the shortest name of a scheme; targets and exclude are not part of it, but for -vision."""
    numbers = NUMBERS_OF[scheme.weight, scheme.activation]
    silent = scheme.method == "cast" or (scheme.method == "minmax" and scheme.weight in FLOATING)
    parts = [numbers, *([] if silent else [scheme.method]), *(part for part, _ in _options(scheme) if part)]
    name = "-".join(parts)
    return next((short for short, long in SHORT.items() if long == name), name)


def write_label(scheme) -> str:
    """Return what figures and tables print of a scheme, such as "W4A8 min-max, groups of 32"."""
    numbers = NUMBERS_OF[scheme.weight, scheme.activation]
    if scheme.method == "cast":
        return numbers.upper()
    if numbers in FLOATS:  # NVFP4 means other things to other tools, so say what it is here
        _, width, activations = FLOATS[numbers]
        numbers += f" {width}{next(iter(activations))}"
    silent = scheme.method == "minmax" and scheme.weight in FLOATING
    head = numbers.upper().replace("-", " ") + ("" if silent else f" {METHODS[scheme.method].label}")
    return ", ".join([head, *(words for _, words in _options(scheme))])


def _options(scheme) -> list[tuple[str, str]]:
    """Return each option as (part of the name, words of the label); no part where the name means it anyway."""
    defaults = METHODS[scheme.method].options
    usual = usual_group(scheme.weight, scheme.activation, scheme.method)
    size, found = scheme.group_size, []
    if size is not None:
        found += [("" if size == usual else f"g{size}", f"groups of {size}")]
    elif usual is not None:
        found += [("channel", "per channel")]
    found += [] if scheme.symmetric else [("asym", "asymmetric")]
    found += [("full", "full range")] if scheme.full_range else []
    found += [(scheme.scale_rule, f"scales by {scheme.scale_rule}")] if scheme.scale_rule else []
    if (scheme.alpha, scheme.clip) == (0.5, False) and defaults["clip"]:
        found += [("fixed", "fixed alpha 0.5")]
    else:
        if scheme.alpha != defaults.get("alpha"):
            number = "" if scheme.alpha == "search" else f"{Decimal(repr(scheme.alpha)):f}"
            found += [(f"alpha{number}", f"alpha {number}") if number else ("search", "searched alpha")]
        if scheme.clip != defaults.get("clip"):
            found += [("clip", "clip") if scheme.clip else ("noclip", "no clip")]
    if scheme.weight_range != defaults.get("weight_range"):
        found += [(scheme.weight_range, f"{RANGES[scheme.weight_range].label} ranges")]
    found += [("static", "static activations")] if scheme.activation_granularity == "tensor" else []
    if scheme.percentile is not None:
        number = f"{Decimal(repr(scheme.percentile)).normalize():f}"
        found += [(f"p{number}", f"{number} % range")]
    found += [("vision", "vision tower too")] if scheme.targets == WORDS["vision"]["targets"] else []
    return found
