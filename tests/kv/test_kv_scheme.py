"""Names of KV schemes, and what they refuse."""

from __future__ import annotations

import pytest

from edgelib.errors import EdgelibError
from edgelib.kv.scheme import KVScheme, kv_scheme

NAMES = (
    "e4m3-amax",
    "e4m3-one",
    "e4m3-floor",
    "e5m2-p99.9",
    "int8-head-mean",
    "int4-channel-tokenmean",
    "nvfp4-amax",
    "int4-kivi-r32",
    "int4-token-g8",
    "e4m3-amax-bias-konly",
    "int8-amax-vonly-layers0.2",
    "e4m3-amax-image16",
    "bf16",
    "e4m3-amax-undelivered",
    "e4m3-amax-rangeonly",
    "e4m3-amax-exactprefill-text16",
    "q8_0",
    "q4_0-bias-hadamard",
    "iq4_nl-rotated-konly",
)


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_read_and_written(name):
    scheme = kv_scheme(name)
    assert set(scheme.name.split("-")) == set(name.split("-"))
    assert kv_scheme(scheme.name) == scheme == kv_scheme(scheme.to_dict())


def test_the_usual_scale_is_the_largest_value():
    assert kv_scheme("e4m3") == KVScheme() == kv_scheme({"format": "e4m3"})
    assert kv_scheme("e4m3").needs_calibration and not kv_scheme("e4m3-one").needs_calibration
    assert not kv_scheme("q8_0").needs_calibration and kv_scheme("q8_0-mean").needs_calibration
    assert not kv_scheme("int4-kivi").needs_calibration and kv_scheme("int4-token-mean").needs_calibration


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("e4m4", "unknown format in KV scheme"),
        ("e4m3-amx", "unknown part 'amx' in KV scheme 'e4m3-amx' .did you mean 'amax'"),
        ("e4m3-amax-head", "says scale twice"),
        ("bf16-head", "bf16 is a cast"),
        ("nvfp4-channel", "a scale per block of 16"),
        ("e4m3-kivi", "kivi is made of integers"),
        ("int4-kivi-image16", "kivi groups neighbouring tokens"),
        ("e4m3-r8", "r8 belongs to kivi"),
        ("int8-g8", "g8 belongs to scales"),
        ("e4m3-bias-vonly", "offset 'bias' is one of K"),
        ("e4m3-p0", "between 0 and 100"),
        ("nvfp4-undelivered", "faults are defined for static scales"),
        ("int8-p99-mean", "percentiles are not kept around the mean"),
        ("q4_0-token", "finds a scale for every 32 channels by itself"),
        ("q4_0-undelivered", "faults are defined for static scales"),
        ("e4m3-hadamard", "how llama.cpp turns q4_0, q4_1, q5_0, q5_1, q8_0, iq4_nl.*fp8_e4m3, which takes rotated"),
        ("q8_0-hadamard-rotated", "in the place of rotated; got q8_0 with rotated"),
        ("bf16-hadamard", "bf16 is a cast"),
        ("q4_k", "unknown format in KV scheme"),
    ],
)
def test_a_scheme_that_means_nothing_is_refused(name, match):
    with pytest.raises(EdgelibError, match=match):
        kv_scheme(name)


def test_other_types_are_refused():
    with pytest.raises(EdgelibError, match="a name, a dictionary or a KVScheme, got int"):
        kv_scheme(8)
    with pytest.raises(EdgelibError, match="unknown field of a KV scheme 'formt'"):
        kv_scheme({"formt": "e4m3"})
    with pytest.raises(EdgelibError, match="indices from 0"):
        KVScheme(layers=())


@pytest.mark.parametrize(
    ("name", "part", "bits"),
    [
        ("e4m3", "k", 8),
        ("int4-channel", "v", 4),
        ("nvfp4", "k", 4.5),
        ("bf16", "v", 16),
        ("int4-token-g16", "k", 4 + 32 / 16),
        ("e4m3-token", "v", 8 + 16 / 64),
        ("int4-kivi", "k", 5),
        ("int4-kivi", "v", 4.5),
        ("q8_0", "k", 8.5),
        ("q5_1-hadamard", "v", 6),
        ("q4_0-rotated", "k", 4.5),
    ],
)
def test_bits_count_the_scales_that_tokens_bring_along(name, part, bits):
    assert kv_scheme(name).bits_per_element(64, part) == bits


@pytest.mark.parametrize(
    ("name", "head_dim", "match"),
    [
        ("nvfp4", 24, "blocks of 16"),
        ("int4", 15, "packed in pairs"),
        ("int8-token-g24", 64, "do not divide"),
        ("q8_0", 80, "q8_0 has blocks of 32 and the heads are 80 wide"),
        ("q4_0-hadamard", 32, "turns heads that 64 divides, and these are 32 wide.*choose rotated"),
    ],
)
def test_head_sizes_that_do_not_divide_are_refused(name, head_dim, match):
    with pytest.raises(EdgelibError, match=match):
        kv_scheme(name).bits_per_element(head_dim)
