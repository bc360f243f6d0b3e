"""The grammar of scheme names: reading one into fields, and writing fields as a name or a label.

A name is <numbers>[-<method>][-<option>...]:

numbers: fp32, fp16 and bf16 cast the whole model. w<bits>a<bits> are integers: weights w2 w3 w4 w8, activations a2 a3
    a4 a8; a16 is fp16 and a32 leaves them alone. fp8, fp8-e5m2, mxfp8, mxfp4 and nvfp4 round weights and activations
    alike, unless -w8a16, -w4a16 or -w4a8 follows (a8 is mxfp8 beside mxfp4 and fp8 e4m3 beside nvfp4). GGUF types, such
    as q4_k, round weights, beside inputs of 16 bits; they take minmax and imatrix. gguf-q4_k_m and the like are the mix
    of types that llama.cpp puts in a file of that name, output and embeddings included; gguf-q4_k_m+q8_0 has a vision
    tower of another mix. The words are those that the formats
    of `edgelib.formats.table` have, so a new format has its own.
method: a name in `METHODS`; floating formats take minmax when none is written, integers name one.
options: -g<size> one weight scale per group of <size> along a row, -channel one per output channel; -asym and -full
    other integer grids; -floor, -rceil and -even the rule by which mx formats choose scales, -fouroversix that of
    nvfp4; -static one activation scale per layer, from calibration, up to the largest |x| or, with -p<number> after
    it, up to that percentile of all |x| (-static-p99.9: the largest 0.1 % saturate), which no migration takes;
    -alpha<number> or -search the strength of a migration; -clip or -noclip whether weight ranges are searched after
    it; -fixed is alpha 0.5 without clip; -mse and -imatrix where gptq and gptaq take their grid from; -sequential lets
    gptq see inputs that have passed the rounded layers before; -rotated turns a decoder's residual stream and values
    before anything is rounded; -vision quantizes the vision tower of a model that writes too, not its decoder alone.
    Two options that set the same thing are refused.

Unless an option says otherwise, weights have one symmetric scale per output channel and activations one per token
found on the fly, the setting of EdgeVLM-Bench. Integer weights below 8 bits with 16-bit activations have groups of 128,
the setting in which AWQ and GPTQ are published, but for minmax and smoothquant: w4a16 is short for w4a16-minmax-g128.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal
from functools import cache

from edgelib.errors import EdgelibError, did_you_mean
from edgelib.formats.gguf.rules import MIXES
from edgelib.formats.table import FORMATS, WEIGHTS, Format
from edgelib.quant.methods import METHODS
from edgelib.quant.methods.ranges import RANGES

PUBLISHED_GROUP = 128
SHORT = {"w8a16": "w8a16-minmax", "w4a16": "w4a16-minmax-g128"}
PRESET_NAMES = (
    "fp32",
    "fp16",
    "bf16",
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
VISION_TOO = ("decoder", "vision")  # targets


@dataclass(frozen=True)
class Vocabulary:
    """The words that the number formats of the table give to scheme names.

    weights, activations: the formats that are named by width, {"w4": "int4"} and {"a4": "int4", "a16": "fp16"}. words:
    the others that weights take, {"fp8": format}. numbers: every way to write a pair of weight and activation formats,
    the usual one first. options: those that need no number, and the fields they set.
    """

    weights: dict[str, str]
    activations: dict[str, str]
    words: dict[str, Format]
    numbers: dict[str, tuple[str, str]]
    options: dict[str, dict]

    def name_of(self, weight: str, activation: str) -> str | None:
        """Return the usual way to write a pair of formats; None for one that does not go together."""
        return next((name for name, pair in self.numbers.items() if pair == (weight, activation)), None)

    @property
    def grammar(self) -> str:
        """What a name looks like, for error messages."""
        casts = ", ".join(name for name, format in FORMATS.items() if not format.scaled)
        words = [word for word in self.words if not word.startswith("gguf-")]
        return (
            f"write {casts}, or w<bits>a<bits>, {', '.join(words)}, gguf-<name of a file, as q4_k_m> and "
            "then [-<method>][-g<size>]"
            "[-alpha<number>][-static] and the like, as in w4a8-minmax-g32 or nvfp4-awq"
        )


def vocabulary() -> Vocabulary:
    """Return the words of scheme names, those of formats included that were added to the table just now."""
    return _vocabulary(tuple(WEIGHTS.values()))


@cache
def _vocabulary(formats: tuple[Format, ...]) -> Vocabulary:
    named = {format.name: format for format in formats}
    by_width = [format for format in formats if format.word == ""]
    wide = {f"a{format.bits}": format.name for format in formats if format.beside}
    weights = {f"w{format.bits}": format.name for format in by_width}
    activations = {f"a{format.bits}": format.name for format in by_width} | wide
    words = {format.word or format.name: format for format in formats if format.scaled and format.word != ""}
    numbers = {format.name: (format.name, format.name) for format in formats if not format.scaled}
    numbers |= {w + a: (weights[w], activations[a]) for w in weights for a in activations}
    for word, format in words.items():
        inputs = {f"a{named[name].bits}": name for name in format.partners or (format.name,)} | wide
        numbers[word] = format.name, next(iter(inputs.values()))
        numbers |= {f"{word}-w{format.bits}{a}": (format.name, name) for a, name in inputs.items()}
    rules = dict.fromkeys(rule for format in formats for rule in format.scale_rules)
    return Vocabulary(weights, activations, words, numbers, _option_words(rules))


def _option_words(scale_rules: Iterable[str]) -> dict[str, dict]:
    return {
        "channel": {"group_size": None},
        "asym": {"symmetric": False},
        "full": {"full_range": True},
        **{rule: {"scale_rule": rule} for rule in scale_rules},
        "search": {"alpha": "search"},
        "fixed": {"alpha": 0.5, "clip": False},
        "clip": {"clip": True},
        "noclip": {"clip": False},
        **{name: {"weight_range": name} for name in RANGES},
        "sequential": {"sequential": True},
        "rotated": {"rotated": True},
        "static": {"activation_granularity": "tensor"},
        "vision": {"targets": VISION_TOO},
    }


def usual_group(weight: str, activation: str, method: str) -> int | None:
    """The group size that a name means when it does not say."""
    narrow = WEIGHTS[weight].word == "" and WEIGHTS[weight].bits < 8
    coarse = narrow and not FORMATS[activation].scaled and method not in ("minmax", "smoothquant")
    return PUBLISHED_GROUP if coarse else None


def _silent(weight: str, method: str) -> bool:
    """Whether a name leaves the method out: minmax of formats that have a word of their own."""
    return method == "cast" or (method == "minmax" and WEIGHTS[weight].word != "")


def read_name(name: str) -> dict:
    """Return the fields of the scheme called `name`; raises EdgelibError naming the part that is wrong."""
    # letters and digits of other scripts stay as they are, so no word of the grammar fits them
    parts, known = SHORT.get(_folded(name), _folded(name)).split("-"), vocabulary()
    length = max((n for n in range(1, len(parts) + 1) if "-".join(parts[:n]) in known.numbers), default=0)
    if not length:
        raise EdgelibError(_unknown_numbers(parts[0], name))
    numbers, rest = "-".join(parts[:length]), parts[length:]
    weight, activation = known.numbers[numbers]
    if not WEIGHTS[weight].scaled:
        if rest:
            raise EdgelibError(f"{weight} takes no method or option, so {rest[0]!r} means nothing in scheme {name!r}")
        return {"weight": weight, "activation": activation, "method": "cast"}
    methods = [m for m in METHODS if m != "cast"]
    if rest and rest[0] in methods:
        method, *rest = rest
    elif _silent(weight, "minmax"):
        method = "minmax"
    else:
        wrong = "no method in"
        if rest:
            known_word = _is_option(rest[0], name, methods, numbers)
            wrong = f"no method before {rest[0]!r} in" if known_word else f"unknown method {rest[0]!r} in"
        hint = did_you_mean(rest[0], methods) if rest else ""
        raise EdgelibError(f"{wrong} scheme {name!r}{hint}; choose from {', '.join(methods)}, as in {numbers}-minmax")
    fields: dict = {"weight": weight, "activation": activation, "method": method}
    fields["group_size"] = usual_group(weight, activation, method)
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


def _folded(name: str) -> str:
    return name.lower() if name.isascii() else name


def _unknown_numbers(part: str, name: str) -> str:
    if part.lower() in MIXES:
        return f"unknown scheme {name!r}: the mix of types of such a file of llama.cpp is called gguf-{part.lower()}"
    numbers = re.fullmatch(r"(w\d+)(a\d+)", part, re.ASCII)
    if not numbers:
        hint = f"{did_you_mean(name, PRESET_NAMES)}; choose from {', '.join(PRESET_NAMES)}"
        return f"unknown scheme {name!r}{hint}; or {vocabulary().grammar}"
    wrong, table, kind = numbers[1], vocabulary().weights, "weights"
    if wrong in table:
        wrong, table, kind = numbers[2], vocabulary().activations, "activations"
    return f"unknown {kind} {wrong!r} in scheme {name!r}; choose from {', '.join(table)}"


def _is_option(part: str, name: str, methods: Iterable[str], numbers: str) -> bool:
    try:
        return bool(_read_option(part, name, methods, numbers))
    except EdgelibError:
        return False


def _read_option(part: str, name: str, methods: Iterable[str], numbers: str) -> dict:
    known = vocabulary()
    if part in known.options:
        return known.options[part]
    if re.fullmatch(r"g[1-9]\d{0,30}", part, re.ASCII):
        return {"group_size": int(part[1:])}
    if re.fullmatch(r"alpha(\d+\.?\d*|\.\d+)", part, re.ASCII):
        return {"alpha": float(part[5:])}
    if re.fullmatch(r"p(\d+\.?\d*|\.\d+)", part, re.ASCII):
        return {"percentile": float(part[1:])}
    if re.fullmatch(r"w\d+a\d+", part, re.ASCII):
        usable = ", ".join(usable for usable in known.numbers if usable.startswith(numbers))
        raise EdgelibError(f"unknown numbers {part!r} in scheme {name!r}; choose from {usable}")
    hint = did_you_mean(part, [*methods, *known.options])
    raise EdgelibError(f"unknown option {part!r} in scheme {name!r}{hint}; {known.grammar}")


def write_name(scheme) -> str:
    """Return the shortest name of a scheme; targets and exclude are not part of it, but for -vision."""
    numbers = vocabulary().name_of(scheme.weight, scheme.activation)
    method = [] if _silent(scheme.weight, scheme.method) else [scheme.method]
    name = "-".join([numbers, *method, *(part for part, _ in _options(scheme) if part)])
    return next((short for short, long in SHORT.items() if long == name), name)


def write_label(scheme) -> str:
    """Return what figures and tables print of a scheme, such as "W4A8 min-max, groups of 32"."""
    known = vocabulary()
    numbers = known.name_of(scheme.weight, scheme.activation)
    if scheme.method == "cast":
        return numbers.upper()
    if numbers in known.words:  # NVFP4 means other things to other tools, so say what it is here
        numbers += f" w{WEIGHTS[scheme.weight].bits}a{FORMATS[scheme.activation].bits}"
    method = "" if _silent(scheme.weight, scheme.method) else f" {METHODS[scheme.method].label}"
    head = numbers.upper().replace("-", " ") + method
    return ", ".join([head, *(words for _, words in _options(scheme))])


def _options(scheme) -> list[tuple[str, str]]:
    """Return each option as (part of the name, words of the label); no part where the name means it anyway."""
    defaults = METHODS[scheme.method].options
    usual = usual_group(scheme.weight, scheme.activation, scheme.method)
    size, options = scheme.group_size, []
    if size is not None:
        options += [("" if size == usual else f"g{size}", f"groups of {size}")]
    elif usual is not None:
        options += [("channel", "per channel")]
    options += [] if scheme.symmetric else [("asym", "asymmetric")]
    options += [("full", "full range")] if scheme.full_range else []
    options += [(scheme.scale_rule, f"scales by {scheme.scale_rule}")] if scheme.scale_rule else []
    if (scheme.alpha, scheme.clip) == (0.5, False) and defaults["clip"]:
        options += [("fixed", "fixed alpha 0.5")]
    else:
        if scheme.alpha != defaults.get("alpha"):
            number = "" if scheme.alpha == "search" else f"{Decimal(repr(scheme.alpha)):f}"
            options += [(f"alpha{number}", f"alpha {number}") if number else ("search", "searched alpha")]
        if scheme.clip != defaults.get("clip"):
            options += [("clip", "clip") if scheme.clip else ("noclip", "no clip")]
    options += [("sequential", "sequential")] if scheme.sequential else []
    options += [("rotated", "rotated")] if scheme.rotated else []
    if scheme.weight_range != defaults.get("weight_range"):
        options += [(scheme.weight_range, f"{RANGES[scheme.weight_range].label} ranges")]
    options += [("static", "static activations")] if scheme.activation_granularity == "tensor" else []
    if scheme.percentile is not None:
        number = f"{Decimal(repr(scheme.percentile)).normalize():f}"
        options += [(f"p{number}", f"{number} % range")]
    options += [("vision", "vision tower too")] if scheme.targets == VISION_TOO else []
    return options
