"""Schemes for some layers only: one text for each, read back as it was written."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgelib import EdgelibError, load, packed_size, quantize
from edgelib.files.size import weight_bits
from edgelib.quant.names import PRESET_NAMES
from edgelib.quant.scheme import scheme
from edgelib.report.figures.palette import label

PATTERN = st.text("abcdefghijklmnopqrstuvwxyz._*?[]!-|$`<>0123456789äß", min_size=1, max_size=20)
PATTERNS = st.lists(PATTERN, max_size=3, unique=True).map(sorted).map(tuple)
ROUNDING = [name for name in PRESET_NAMES if name not in ("fp32", "fp16", "bf16")]


@given(st.sampled_from(ROUNDING), PATTERNS, PATTERNS)
def test_a_scheme_is_read_back_from_its_spelling(name, targets, exclude):
    made = replace(scheme(name), targets=targets or ("*",), exclude=exclude)
    assert scheme(made.spelling) == made
    assert scheme(made.spelling).spelling == made.spelling


@pytest.mark.parametrize("name", PRESET_NAMES)
def test_a_scheme_for_every_layer_is_spelt_as_its_name(name):
    assert scheme(name).spelling == name


def test_the_order_of_patterns_means_nothing():
    spellings = {scheme({"preset": "fp8", "exclude": e}).spelling for e in (["b", "a"], ["a", "b", "a"])}
    assert spellings == {"fp8(exclude=a,b)"}


def test_tables_say_which_layers():
    assert label("w8a8-minmax(exclude=*.head.*)") == "W8A8 min-max, without *.head.*"
    assert label("fp8(targets=*.mlp.*,x;exclude=y)") == "FP8 W8A8, only *.mlp.* and x, without y"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("w8a8-minmax(exclude=a", "do not close"),
        ("w8a8-minmax)", "do not close"),
        ("w8a8-minmax(exclude=a)(exclude=b)", "do not close"),
        ("w8a8-minmax(exclud=a)", "did you mean 'exclude'"),
        ("w8a8-minmax(exclude)", "means nothing"),
        ("w8a8-minmax(exclude=a;exclude=b)", "each once"),
        ("w8a8-minmax(exclude=a,)", "without a letter"),
        ("w8a8-minmax()", "means nothing"),
        ("w8a8(exclude=a)", "no method in"),
        ("fp16(exclude=a)", "casts the whole model"),
    ],
)
def test_brackets_amiss_are_named(text, said):
    with pytest.raises(EdgelibError, match=said.replace("(", r"\(")):
        scheme(text)


@pytest.mark.parametrize("pattern", ["a,b", "a;b", "a)", "a=b", "a\nb"])
def test_what_no_layer_is_called_cannot_be_spelt(pattern):
    with pytest.raises(EdgelibError, match="of no layer's name"):
        _ = scheme({"preset": "fp8", "exclude": [pattern]}).spelling


def test_the_layers_that_are_left_out_stay_and_are_paid_for():
    model, text = load("scenes-clip"), "w8a8-minmax(exclude=text_model.*)"
    made = quantize(model, text)
    assert packed_size(model, text) == packed_size(made)
    kept = made.module.get_submodule("text_model.encoder.layers.0.mlp.fc1").weight
    assert (kept == model.module.get_submodule("text_model.encoder.layers.0.mlp.fc1").weight).all()
    tower = model.module.vision_model
    assert weight_bits(tower, text, "vision_model.") == weight_bits(tower, "w8a8-minmax") == weight_bits(tower, text)
    assert weight_bits(tower, "w4a16-minmax(targets=text_model.*)", "vision_model.") == 16
    some = weight_bits(tower, "w4a16-minmax-channel(exclude=*.mlp.*)", "vision_model.")
    assert weight_bits(tower, "w4a16-minmax-channel") < some < 16
