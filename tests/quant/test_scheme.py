"""Schemes: the grammar, what is refused, and round trips."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgelib.errors import EdgelibError
from edgelib.formats.gguf.mix import Mix
from edgelib.formats.table import WEIGHTS
from edgelib.quant.methods import METHODS
from edgelib.quant.names import vocabulary
from edgelib.quant.scheme import PRESETS, Scheme, needs_of, scheme

NAMES = [
    "w4a16-minmax-g64",
    "w3a8-smoothquant-alpha0.85",
    "w2a4-minmax-static",
    "w4a8-smoothquant-g32-static",
    "w8a8-smoothquant-search",
    "w4a8-awq-noclip",
    "w4a8-awq-alpha0.5",
    "w4a8-mse",
    "w4a16-imatrix-g32",
    "w4a16-awq-channel",
    "w4a16-gptq-asym-mse",
    "w4a8-minmax-full",
    "w4a8-mbq-clip",
    "fp8-e5m2-w8a16",
    "fp8-static",
    "nvfp4-awq",
    "nvfp4-w4a8-gptq-imatrix",
    "mxfp4-w4a8-rceil",
    "w8a8-minmax-static-p99.9",
    "w4a8-gptq-mse-static-p90",
]
# name -> weights, activations, group size, as the seeds' tables and the tools that coined the name mean them
MEANINGS = {
    "w8a8-smoothquant": ("int8", "int8", None),
    "w4a8-awq": ("int4", "int8", None),
    "w8a16": ("int8", "fp16", None),
    "w4a16": ("int4", "fp16", 128),
    "w4a16-awq": ("int4", "fp16", 128),
    "w4a16-gptq": ("int4", "fp16", 128),
    "w8a16-awq": ("int8", "fp16", None),
    "w4a16-minmax": ("int4", "fp16", None),
    "w4a16-awq-channel": ("int4", "fp16", None),
    "fp8": ("fp8_e4m3", "fp8_e4m3", None),
    "fp8-e5m2": ("fp8_e5m2", "fp8_e5m2", None),
    "mxfp8": ("mxfp8", "mxfp8", None),
    "mxfp4": ("mxfp4", "mxfp4", None),
    "mxfp4-w4a8": ("mxfp4", "mxfp8", None),
    "nvfp4": ("nvfp4", "nvfp4", None),
    "nvfp4-w4a4": ("nvfp4", "nvfp4", None),
    "nvfp4-w4a8": ("nvfp4", "fp8_e4m3", None),
    "nvfp4-w4a16": ("nvfp4", "fp16", None),
}


def test_the_presets_are_the_published_ones():
    assert list(PRESETS) == [
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
    ]


@pytest.mark.parametrize("name", MEANINGS)
def test_numbers_and_groups(name):
    parsed = scheme(name)
    assert (parsed.weight, parsed.activation, parsed.group_size) == MEANINGS[name]


@pytest.mark.parametrize("name", [*PRESETS, *NAMES])
def test_a_name_a_dictionary_and_a_scheme_mean_the_same(name):
    parsed = scheme(name)
    assert parsed.name == name
    assert scheme(parsed) is parsed and scheme(parsed.to_dict()) == parsed == scheme(name.upper())


def test_defaults_are_per_channel_per_token_every_linear():
    parsed = scheme("w4a8-minmax")
    assert (parsed.weight, parsed.activation, parsed.group_size, parsed.activation_granularity) == (
        "int4",
        "int8",
        None,
        "token",
    )
    assert parsed.selects("vision_model.encoder.layers.0.mlp.fc1") and not parsed.needs_calibration


@st.composite
def schemes(draw) -> Scheme:
    """Any scheme that the fields can express."""
    weight, activation = draw(st.sampled_from(sorted(set(vocabulary().numbers.values()))))
    weights, inputs = WEIGHTS[weight], WEIGHTS[activation]
    if not weights.scaled:
        return Scheme(weight, activation, method="cast")
    method = draw(st.sampled_from([m for m in weights.methods or METHODS if m != "cast"]))
    has = METHODS[method].options
    alphas = st.none() | st.just("search") | st.integers(0, 20).map(lambda n: n / 20)
    rules = weights.scale_rules or inputs.scale_rules
    symmetric = draw(st.booleans()) if weights.even else True
    granularity = draw(st.sampled_from(["token", "tensor"] if inputs.static else ["token"]))
    clips = granularity == "tensor" and METHODS[method].migrate is None
    return Scheme(
        weight,
        activation,
        method=method,
        group_size=draw(st.sampled_from([None, 8, 128])) if weights.block is None else None,
        activation_granularity=granularity,
        percentile=draw(st.sampled_from([None, 0.001, 90, 99.9, 99.9999999])) if clips else None,
        symmetric=symmetric,
        full_range=draw(st.booleans()) if weights.even and symmetric else False,
        scale_rule=draw(st.sampled_from([None, *rules])) if rules else None,
        alpha=draw(alphas) if "alpha" in has else None,
        clip=draw(st.sampled_from([None, True, False])) if "clip" in has else None,
        weight_range=draw(st.sampled_from([None, "minmax", "mse", "imatrix"])) if "weight_range" in has else None,
        rotated=draw(st.booleans()) if not isinstance(weights, Mix) else False,
        sequential=draw(st.sampled_from([None, True, False])) if "sequential" in has else None,
    )


@given(schemes())
def test_every_scheme_has_a_name_that_reads_back(drawn):
    assert scheme(drawn.name) == drawn == scheme(drawn.to_dict())
    assert drawn.label


@given(schemes(), schemes())
def test_different_schemes_have_different_names_and_labels(a, b):
    assert (a == b) == (a.name == b.name) == (a.label == b.label)


LABELS = {
    "fp16": "FP16",
    "w8a8-minmax": "W8A8 min-max",
    "w8a8-smoothquant": "W8A8 SmoothQuant",
    "w4a8-smoothquant-g32-alpha0.7-static": "W4A8 SmoothQuant, groups of 32, alpha 0.7, static activations",
    "w8a8-minmax-static-p99.9": "W8A8 min-max, static activations, 99.9 % range",
    "w4a8-awq-fixed": "W4A8 AWQ, fixed alpha 0.5",
    "w4a16": "W4A16 min-max, groups of 128",
    "w4a16-gptq-mse": "W4A16 GPTQ, groups of 128, MSE ranges",
    "fp8": "FP8 W8A8",
    "nvfp4": "NVFP4 W4A4",
    "nvfp4-w4a8-awq": "NVFP4 W4A8 AWQ",
    "fp8-e5m2-w8a16": "FP8 E5M2 W8A16",
}


@pytest.mark.parametrize("name", LABELS)
def test_label(name):
    assert scheme(name).label == LABELS[name]


def test_a_dictionary_may_start_from_a_preset():
    parsed = scheme({"preset": "w8a8-smoothquant", "alpha": 0.75, "exclude": "*.head"})
    assert parsed.alpha == 0.75 and parsed.exclude == ("*.head",) and not parsed.selects("tower.head")
    assert scheme({"preset": "w8a8-smoothquant", "method": "minmax"}) == scheme("w8a8-minmax")


NEEDS = {
    "w4a8-minmax": set(),
    "nvfp4-mse": set(),
    "w8a8-minmax-static": {"moments"},
    "w8a8-minmax-static-p99": {"moments", "percentiles"},
    "w4a8-gptq-static-p99": {"moments", "percentiles", "hessian"},
    "w4a8-imatrix": {"moments"},
    "w8a8-smoothquant": {"moments"},
    "w8a8-smoothquant-search": {"moments", "rows"},
    "w8a16-smoothquant-search": {"moments", "hessian"},
    "w4a8-awq-fixed": {"moments"},
    "w4a8-awq": {"moments", "rows"},
    "w4a16-awq": {"moments", "hessian"},
    "w4a8-gptq": {"hessian"},
    "w4a8-mbq": {"rows"},
    "w4a16-mbq": {"rows", "hessian"},
}


@pytest.mark.parametrize("name", NEEDS)
def test_what_a_scheme_needs_of_calibration(name):
    assert scheme(name).needs == NEEDS[name] and scheme(name).needs_calibration == bool(NEEDS[name])


def test_one_pass_may_serve_several_schemes():
    assert needs_of(["fp16", "w4a8-awq", {"preset": "w4a16-gptq"}]) == {"moments", "rows", "hessian"}
    assert needs_of([]) == frozenset()


ERRORS = {
    "weights": ("w5a8-minmax", "unknown weights 'w5' in scheme 'w5a8-minmax'; choose from w2, w3, w4, w8"),
    "activations": ("w8a7-minmax", "unknown activations 'a7'.*a4, a8, a16, a32"),
    "method": ("w8a8-smothquant", "'smothquant'.*did you mean 'smoothquant'.*minmax, mse, imatrix, smoothquant"),
    "no method": ("w8a8", "no method in scheme 'w8a8'.*w8a8-minmax"),
    "option": ("w4a8-minmax-x3", "unknown option 'x3'.*-g<size>"),
    "name": ("fp61", "unknown scheme 'fp61'.*did you mean 'fp16'.*w4a8-minmax"),
    "option like a word": ("w4a8-awq-fixd", "unknown option 'fixd'.*did you mean 'fixed'"),
    "method of floats": ("nvfp4-awk", "unknown option 'awk'.*did you mean 'awq'"),
    "numbers of floats": ("nvfp4-w4a7", "unknown numbers 'w4a7'.*choose from nvfp4, nvfp4-w4a4, nvfp4-w4a8"),
    "cast with option": ("fp16-static", "fp16 takes no method or option, so 'static'"),
    "alpha without use": ("w8a8-minmax-alpha0.5", "alpha=0.5 belongs to smoothquant, awq, mbq; minmax has none"),
    "clip without use": ("w8a8-smoothquant-noclip", "clip=False belongs to awq, mbq"),
    "range without use": ("w4a8-awq-mse", "weight_range='mse' belongs to gptq"),
    "groups of blocks": ("mxfp4-g32", "mxfp4 has blocks of 32 by definition"),
    "rule of integers": ("w4a8-minmax-rceil", "scale_rule='rceil' belongs to the mx formats"),
    "asymmetric floats": ("fp8-asym", "fp8_e4m3 has one grid"),
    "both grids": ("w4a8-minmax-asym-full", "full_range=True is a symmetric grid"),
    "alpha word": ({"preset": "w4a8-awq", "alpha": "serch"}, "\"search\" or a number.*got 'serch'"),
    "clip type": ({"preset": "w4a8-awq", "clip": "yes"}, "clip is true or false, got 'yes'"),
    "pair": (
        {"weight": "int4", "activation": "bf16"},
        "int4 weights do not go with 'bf16'; choose from int2, int3, int4, int8, fp16, fp32",
    ),
    "alpha range": ("w8a8-smoothquant-alpha1.5", "from 0 .* to 1, got 1.5"),
    "two groups": ("w4a8-minmax-g32-g64", "'g32' and 'g64' in scheme 'w4a8-minmax-g32-g64' both set group_size"),
    "group and channel": ("w4a16-awq-channel-g32", "'channel' and 'g32' .* both set group_size"),
    "two alphas": ("w4a8-awq-fixed-search", "'fixed' and 'search' .* both set alpha; keep one"),
    "two clips": ("w4a8-awq-clip-fixed", "'clip' and 'fixed' .* both set clip"),
    "twice": ("w8a8-minmax-static-static", "'static' and 'static' .* both set activation_granularity"),
    "percentile alone": ("w8a8-minmax-p99.9", "percentile=99.9 chooses a static activation scale: add -static"),
    "percentile range": ("w8a8-minmax-static-p100", "between 0 and 100, or None .*, got 100.0"),
    "percentile type": ({"percentile": "99"}, "percentile is a number .*, got '99'"),
    "percentile of a migration": ("w8a8-smoothquant-static-p99", "does not go with smoothquant.*choose minmax"),
    "static cast": ("w8a16-minmax-static", "static activations need .*got 'fp16'; choose from int2.*nvfp4"),
    "field": ({"wieght": "int8"}, "unknown scheme field 'wieght'.*did you mean 'weight'"),
    "format": ({"weight": "int9"}, "unknown weight format 'int9'"),
    "group": ({"group_size": -1}, "positive integer, or None.*got -1"),
    "pattern": ({"targets": [3]}, "targets is a list of name patterns"),
    "cast with targets": ({"preset": "fp16", "targets": ["a"]}, "casts the whole model"),
    "cast with int8": ({"weight": "fp16"}, "do not go together"),
    "type": (8, "a scheme is a name, a mapping or a Scheme, got 8"),
}


@pytest.mark.parametrize("case", ERRORS)
def test_bad_schemes_are_named(case):
    spec, message = ERRORS[case]
    with pytest.raises(EdgelibError, match=message):
        scheme(spec)


def test_a_scheme_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Scheme().weight = "int4"
