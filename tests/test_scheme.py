"""Schemes: the grammar, what is refused, and round trips."""

from __future__ import annotations

import dataclasses

import pytest

from edgelib.errors import EdgelibError
from edgelib.quant.scheme import PRESETS, Scheme, scheme

NAMES = [
    "w8a8-minmax",
    "w4a16-minmax-g128",
    "w3a8-smoothquant-alpha0.85",
    "w2a4-minmax-static",
    "w4a8-smoothquant-g32-static",
]


def test_the_presets_are_the_published_ones():
    assert list(PRESETS) == ["fp32", "fp16", "bf16", "w8a8-minmax", "w8a8-smoothquant", "w4a8-minmax", "w3a8-minmax"]


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


LABELS = {
    "fp16": "FP16",
    "w8a8-minmax": "W8A8 min-max",
    "w8a8-smoothquant": "W8A8 SmoothQuant",
    "w4a8-smoothquant-g32-alpha0.7-static": "W4A8 SmoothQuant, groups of 32, alpha 0.7, static activations",
}


@pytest.mark.parametrize("name", LABELS)
def test_label(name):
    assert scheme(name).label == LABELS[name]


def test_a_dictionary_may_start_from_a_preset():
    parsed = scheme({"preset": "w8a8-smoothquant", "alpha": 0.75, "exclude": "*.head"})
    assert parsed.alpha == 0.75 and parsed.exclude == ("*.head",) and not parsed.selects("tower.head")
    assert scheme({"preset": "w8a8-smoothquant", "method": "minmax"}) == scheme("w8a8-minmax")


@pytest.mark.parametrize("name", ["w8a8-smoothquant", "w8a8-minmax-static"])
def test_what_needs_calibration_says_so(name):
    assert scheme(name).needs_calibration


ERRORS = {
    "weights": ("w5a8-minmax", "unknown weights 'w5' in scheme 'w5a8-minmax'; choose from w2, w3, w4, w8"),
    "activations": ("w8a7-minmax", "unknown activations 'a7'.*a4, a8, a16, a32"),
    "method": ("w8a8-smothquant", "'smothquant'.*did you mean 'smoothquant'.*minmax, smoothquant"),
    "no method": ("w8a8", "no method in scheme 'w8a8'.*w8a8-minmax"),
    "option": ("w4a8-minmax-x3", "unknown option 'x3'.*-g<size>"),
    "name": ("fp61", "unknown scheme 'fp61'.*did you mean 'fp16'.*w4a8-minmax"),
    "alpha without use": ("w8a8-minmax-alpha0.5", "alpha=0.5 belongs to smoothquant"),
    "alpha range": ("w8a8-smoothquant-alpha1.5", "from 0 .* to 1, got 1.5"),
    "static cast": ("w8a16-minmax-static", "integer format, got 'fp16'"),
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
