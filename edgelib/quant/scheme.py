"""Schemes: which numbers the weights and activations become, by which method, in which layers.

A scheme is written as a name, a dictionary or a `Scheme`; `edgelib.quant.names` has the grammar of names, and
`edgelib.quant.layers` that of the layers behind one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from fnmatch import fnmatchcase

from edgelib.errors import EdgelibError, choose, did_you_mean
from edgelib.formats.gguf.mix import Mix
from edgelib.formats.table import FORMATS, WEIGHTS
from edgelib.ground.convolutions import MATRIX
from edgelib.ground.records import shown
from edgelib.quant.layers import label_layers, split_layers, write_layers
from edgelib.quant.methods import METHODS
from edgelib.quant.methods.ranges import RANGES
from edgelib.quant.names import PRESET_NAMES, VISION_TOO, read_name, vocabulary, write_label, write_name
from edgelib.quant.setting import Setting

GRANULARITIES = ("token", "tensor")
MOST_INPUTS = 2**18  # of one Linear; the widest of known models have 53,248


@dataclass(frozen=True)
class Scheme(Setting):
    """A setting, its method and the layers it is for; building one raises EdgelibError naming a field that is wrong.

    method: a name in METHODS ("cast" for the 16- and 32-bit floating schemes); one that has no use for alpha, clip,
    weight_range or sequential leaves it None.
    targets, exclude: shell patterns on the qualified names of the Linear layers, such as "vision_model.*". Of a model
    that writes, "decoder", "vision" and "head" name its parts, and "*", the default, is its decoder.
    """

    method: str = "minmax"
    targets: tuple[str, ...] = ("*",)
    exclude: tuple[str, ...] = ()

    def __post_init__(self):
        for field in ("targets", "exclude"):
            object.__setattr__(self, field, _patterns(field, getattr(self, field)))
        if not isinstance(self.weight, str) or self.weight not in WEIGHTS:
            choose(FORMATS, self.weight, "weight format")
        choose(FORMATS, self.activation, "activation format")
        choose(METHODS, self.method, "quantization method")
        choose(dict.fromkeys(GRANULARITIES), self.activation_granularity, "activation granularity")
        if WEIGHTS[self.weight].scaled == (self.method == "cast"):
            raise EdgelibError(
                f"weights {self.weight!r} and method {self.method!r} do not go together: {vocabulary().grammar}"
            )
        methods = WEIGHTS[self.weight].methods
        if methods and self.method not in methods:
            raise EdgelibError(
                f"{self.weight} weights choose their codes by {' or '.join(methods)}, not by {self.method}: write "
                f"{self.weight} or {self.weight}-{methods[-1]}"
            )
        if self.method == "cast" and (self.targets, self.exclude, self.activation) != (("*",), (), self.weight):
            raise EdgelibError(f"{self.weight} casts the whole model: no targets, exclude or other activation")
        if vocabulary().name_of(self.weight, self.activation) is None:
            pairs = vocabulary().numbers.values()
            usable = ", ".join(dict.fromkeys(activation for weight, activation in pairs if weight == self.weight))
            raise EdgelibError(f"{self.weight} weights do not go with {self.activation!r}; choose from {usable}")
        if self.method == "cast" and self.rotated:
            raise EdgelibError(f"{self.weight} casts the whole model and rotates nothing: leave rotated out")
        if isinstance(self.weight_format, Mix) and self.rotated:
            raise EdgelibError(f"{self.weight} is a file of llama.cpp, which is not rotated: leave rotated out")
        _fill_options(self)
        _check_options(self)
        _check_grids(self)
        _check_percentile(self)

    @property
    def needs(self) -> frozenset[str]:
        """What `calibrate` has to collect: "moments", "hessian", "rows", "percentiles"; empty when nothing, and for a
        scheme that `looks_itself`.
        """
        return frozenset() if self.looks_itself else self.own_needs

    @property
    def own_needs(self) -> frozenset[str]:
        """What has to be known of the inputs of each layer, whoever collects it.

        A search compares losses, which the Hessian gives exactly where the inputs keep 16 bits; elsewhere rounding the
        inputs is part of the loss, and it takes rows of them.
        """
        parts = set(METHODS[self.method].needs)
        if self.activation_granularity == "tensor":
            parts |= {"moments"} if self.percentile is None else {"moments", "percentiles"}
        if "loss" in parts:
            parts.remove("loss")
            parts |= {"rows" if self.rounds_inputs else "hessian"} if self.alpha == "search" or self.clip else set()
        return frozenset(parts)

    @property
    def needs_calibration(self) -> bool:
        """Whether `quantize` has to see inputs."""
        return bool(self.own_needs)

    @property
    def compares(self) -> bool:
        """Whether each layer is compared with what the unrounded network reads there."""
        return METHODS[self.method].compares

    @property
    def walks(self) -> bool:
        """Whether layers are calibrated one after the other, behind those that are rounded."""
        return self.compares or bool(self.sequential)

    @property
    def looks_itself(self) -> bool:
        """Whether `quantize` takes the calibration set itself, because statistics of the model as it is do not help."""
        return self.needs_calibration and (self.walks or self.rotated)

    @property
    def only_copies(self) -> bool:
        """Whether nothing is rounded: "fp32"."""
        return self.weight == "fp32"

    @property
    def name(self) -> str:
        """The name that the grammar gives this scheme; targets and exclude are not part of it, but for -vision."""
        return write_name(self)

    @property
    def spelling(self) -> str:
        """The name with the layers that the scheme is for, as `scheme` reads it back: "w8a8-minmax(exclude=lm_head)".

        Equal for two schemes that round the same by the same rule.
        """
        return self.name + write_layers(self.targets, self.exclude, VISION_TOO)

    @property
    def label(self) -> str:
        """What figures and tables print, such as "W4A8 min-max, groups of 32" and "W8A8 min-max, without lm_head"."""
        return ", ".join([write_label(self), *label_layers(self.targets, self.exclude, VISION_TOO)])

    def selects(self, layer: str) -> bool:
        """Return whether the Linear called `layer` is quantized; that of a convolution goes by either name."""
        names = {layer, layer.removesuffix(MATRIX)}
        chosen, left = (any(fnmatchcase(n, p) for n in names for p in ps) for ps in (self.targets, self.exclude))
        return chosen and not left

    def to_dict(self) -> dict:
        """Return the scheme as plain values; `scheme` reads it back."""
        return {**asdict(self), "targets": list(self.targets), "exclude": list(self.exclude)}


def _patterns(field: str, value: object) -> tuple[str, ...]:
    value = (value,) if isinstance(value, str) else value
    if not isinstance(value, list | tuple) or not all(isinstance(p, str) and p for p in value):
        raise EdgelibError(f'{field} is a list of name patterns such as ["vision_model.*"], got {value!r}')
    return tuple(value)


def _fill_options(scheme: Scheme) -> None:
    """Give the method's options their defaults; refuse those that it does not have."""
    defaults = METHODS[scheme.method].options
    for option in ("alpha", "clip", "weight_range", "sequential"):
        value = getattr(scheme, option)
        if option in defaults and value is None:
            object.__setattr__(scheme, option, defaults[option])
        if option not in defaults and value is not None:
            owners = ", ".join(name for name, method in METHODS.items() if option in method.options)
            raise EdgelibError(f"{option}={value!r} belongs to {owners}; {scheme.method} has none, so drop it")


def _check_options(scheme: Scheme) -> None:
    alpha = scheme.alpha
    if alpha not in (None, "search"):
        if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not 0 <= alpha <= 1:
            raise EdgelibError(
                f'alpha is "search" or a number from 0 (all difficulty stays in the activations) to 1, got {alpha!r}'
            )
        object.__setattr__(scheme, "alpha", float(alpha))
    for option in ("symmetric", "full_range", "clip", "sequential", "rotated"):
        if not isinstance(getattr(scheme, option), bool | None):
            raise EdgelibError(f"{option} is true or false, got {getattr(scheme, option)!r}")
    if scheme.weight_range is not None:
        choose(RANGES, scheme.weight_range, "weight range")


def _check_grids(scheme: Scheme) -> None:
    size, block = scheme.group_size, WEIGHTS[scheme.weight].block
    if size is not None and (isinstance(size, bool) or not isinstance(size, int) or not 1 <= size <= MOST_INPUTS):
        raise EdgelibError(
            f"group_size is a positive integer, or None for one scale per output channel, got {shown(size)}; no layer "
            f"has more than {MOST_INPUTS:,} inputs"
        )
    if size is not None and scheme.method == "cast":
        raise EdgelibError(f"{scheme.weight} has no scales, so it takes no group_size")
    if size is not None and block is not None:
        raise EdgelibError(f"{scheme.weight} has blocks of {block} by definition, so it takes no group_size")
    if scheme.activation_granularity == "tensor" and not FORMATS[scheme.activation].static:
        usable = ", ".join(name for name, format in FORMATS.items() if format.static)
        raise EdgelibError(
            f"static activations need a format that takes a scale chosen beforehand, got {scheme.activation!r}; choose "
            f"from {usable}"
        )
    if scheme.scale_rule is not None:
        if not any(WEIGHTS[format].scale_rules for format in (scheme.weight, scheme.activation)):
            raise EdgelibError(f"scale_rule={scheme.scale_rule!r} belongs to the mx formats, not to {scheme.weight}")
    _ = scheme.weight_format, scheme.activation_format  # refuses grids that the formats do not have


def _check_percentile(scheme: Scheme) -> None:
    q = scheme.percentile
    if q is None:
        return
    if isinstance(q, bool) or not isinstance(q, int | float) or not 0 < q < 100:
        raise EdgelibError(f"percentile is a number between 0 and 100, or None for the largest value, got {q!r}")
    if scheme.activation_granularity != "tensor":
        raise EdgelibError(f"percentile={q!r} chooses a static activation scale: add -static, or drop it")
    if METHODS[scheme.method].migrate is not None:
        raise EdgelibError(
            f"percentile={q!r} does not go with {scheme.method}, which divides inputs channel by channel: calibration "
            "keeps percentiles of whole layers; choose minmax, mse, imatrix or gptq"
        )
    object.__setattr__(scheme, "percentile", float(q))


def scheme(spec: str | Mapping | Scheme) -> Scheme:
    """Return the Scheme that `spec` means: a name, a Scheme, or a mapping of Scheme's fields.

    A mapping may start from a name: {"preset": "w8a8-minmax", "exclude": ["*.head"]}.
    Raises EdgelibError naming the unknown part, the closest match and the allowed ones.
    """
    if isinstance(spec, Scheme):
        return spec
    if isinstance(spec, str):
        name, layers = split_layers(spec)
        return replace(Scheme(**read_name(name)), **layers)  # type: ignore[arg-type]
    if not isinstance(spec, Mapping):
        raise EdgelibError(f"a scheme is a name, a mapping or a Scheme, got {spec!r}; {vocabulary().grammar}")
    if not spec:
        raise EdgelibError(f"an empty mapping names no scheme; {vocabulary().grammar}")
    values = dict(spec)
    base = scheme(values.pop("preset")) if "preset" in values else Scheme()
    allowed = [f.name for f in fields(Scheme)]
    for key in values:
        if key not in allowed:
            hint = f"{did_you_mean(key, allowed)}; choose from preset, {', '.join(allowed)}"
            raise EdgelibError(f"unknown scheme field {key!r}{hint}")
    if "method" in values:  # what came with the preset belongs to the preset's method
        values = {"alpha": None, "clip": None, "weight_range": None, "sequential": None} | values
    return replace(base, **values)


def needs_of(specs: Iterable[str | Mapping | Scheme]) -> frozenset[str]:
    """Return what one calibration pass has to collect for all these schemes: the `needs` of `calibrate`."""
    return frozenset().union(*(scheme(spec).needs for spec in specs))


def calibration_of(spec: str | Mapping | Scheme, statistics, data):
    """Return which of two calibrations `quantize` takes for a scheme: statistics that several share, or the data."""
    return data if scheme(spec).looks_itself else statistics


def scheme_for(model, spec: str | Mapping | Scheme) -> Scheme:
    """Return the scheme that `spec` means for a model: parts of a model that writes are spelled out as layer names.

    A model that writes says what its parts are by `towers()`; for any other model this is `scheme(spec)`.
    """
    chosen = scheme(spec)
    if not hasattr(model, "towers") or chosen.method == "cast":
        return chosen
    towers = model.towers()
    wanted = ("decoder",) if chosen.targets == ("*",) else chosen.targets
    mix = chosen.weight_format
    if isinstance(mix, Mix):  # the head is in the decoder's file, and the tower that a mix names is meant, too
        wanted += ("head",) if "decoder" in wanted else ()
        wanted += ("vision",) if mix.vision and "vision" not in wanted else ()
    targets, exclude = (tuple(n for p in some for n in towers.get(p, [p])) for some in (wanted, chosen.exclude))
    return replace(chosen, targets=targets, exclude=exclude)


PRESETS: dict[str, Scheme] = {name: scheme(name) for name in PRESET_NAMES}
