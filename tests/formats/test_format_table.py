"""Number formats: laws of rounding that all formats obey; those of small floats are in test_formats_floats.py."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edgelib.errors import EdgelibError
from edgelib.formats.blocks import BlockGrid
from edgelib.formats.integer import Integer
from edgelib.formats.table import FORMATS, by_name, codes_on_grid, decode, encode, fake_quantize

INTEGERS = ["int2", "int3", "int4", "int8"]
FLOATS = ["fp8_e4m3", "fp8_e5m2", "mxfp8", "mxfp4", "nvfp4"]
CASTS = ["fp16", "bf16", "fp32"]
GRANULARITIES = ["tensor", "channel", "token", 16]
GRIDS = {"symmetric": (True, False), "full-range": (True, True), "asymmetric": (False, False)}
# a format and each granularity that it takes; blocks of 32 and 16 are the format's own
CUTS = [
    (f, g)
    for f in INTEGERS + FLOATS
    for g in GRANULARITIES
    if FORMATS[f].block in (None, g) or g in ("tensor", "token")
]


def sample(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def step(x, format, granularity, symmetric=True, full_range=False):
    """The scale that belongs to every element of x."""
    scale = encode(x, by_name(format).variant(symmetric, full_range), granularity).scale
    return scale.repeat_interleave(x.shape[-1] // scale.shape[-1], -1)


@pytest.mark.parametrize("granularity", GRANULARITIES, ids=str)
@pytest.mark.parametrize("grid", ["symmetric", "asymmetric"])
@pytest.mark.parametrize("format", INTEGERS)
def test_rounding_error_is_at_most_half_a_step(format, grid, granularity):
    symmetric, full_range = GRIDS[grid]
    x = sample(6, 64)
    rounded = fake_quantize(x, format, granularity=granularity, symmetric=symmetric, full_range=full_range)
    # a zero point is itself rounded, which can cost the two ends of the range half a step more
    bound = step(x, format, granularity, symmetric) * (0.5 if symmetric else 1.0)
    assert ((rounded - x).abs() <= bound * 1.0001).all()


@pytest.mark.parametrize("format", INTEGERS)
def test_full_range_clips_at_most_one_half_step_at_the_top(format):
    x = sample(6, 64)
    error = (fake_quantize(x, format, granularity="channel", full_range=True) - x).abs()
    assert (error <= 0.5001 * step(x, format, "channel", full_range=True)).all()


@pytest.mark.parametrize("format,granularity", [*CUTS, *((f, "tensor") for f in CASTS)])
def test_rounding_twice_is_rounding_once(format, granularity):
    once = fake_quantize(sample(6, 64), format, granularity=granularity)
    assert torch.allclose(fake_quantize(once, format, granularity=granularity), once, rtol=1e-6, atol=0)


@pytest.mark.parametrize("format,granularity", CUTS)
def test_symmetric_rounding_is_odd(format, granularity):
    x = sample(6, 64)
    assert torch.equal(
        fake_quantize(-x, format, granularity=granularity), -fake_quantize(x, format, granularity=granularity)
    )


# integers have three grids, floats one
GRIDDED = [(f, g) for f in INTEGERS for g in GRIDS] + [(f, "symmetric") for f in FLOATS]


@pytest.mark.parametrize("format,grid", GRIDDED)
def test_a_power_of_two_goes_through(format, grid):
    symmetric, full_range = GRIDS[grid]
    options = dict(granularity="channel", symmetric=symmetric, full_range=full_range)
    x = sample(6, 64)
    assert torch.equal(fake_quantize(x * 1024, format, **options), fake_quantize(x, format, **options) * 1024)


@given(st.lists(st.floats(-100, 100, width=32), min_size=2, max_size=16), st.sampled_from(GRIDDED))
@settings(max_examples=100, deadline=None)
def test_order_is_kept_within_a_block(values, case):
    format, (symmetric, full_range) = case[0], GRIDS[case[1]]
    x = torch.tensor(sorted(values), dtype=torch.float32)
    assert (fake_quantize(x, format, symmetric=symmetric, full_range=full_range).diff() >= 0).all()


@pytest.mark.parametrize("format", INTEGERS + FLOATS)
def test_a_row_does_not_see_its_neighbours(format):
    x = sample(6, 64) * torch.logspace(-3, 3, 6)[:, None]
    rounded = fake_quantize(x, format, granularity="token")
    assert torch.equal(rounded, torch.stack([fake_quantize(row, format, granularity="token") for row in x]))
    assert torch.equal(rounded, FORMATS[format].round_rows(x.view(2, 3, 64)).view(6, 64))
    assert torch.equal(rounded[[4, 0, 2]], fake_quantize(x[[4, 0, 2]], format, granularity="token"))


def test_channel_token_and_one_whole_group_are_the_same_rows():
    x = sample(6, 64)
    rows = fake_quantize(x, "int4", granularity="channel")
    for granularity in ("token", 64):
        assert torch.equal(fake_quantize(x, "int4", granularity=granularity), rows)
    assert torch.equal(
        fake_quantize(x, "int4", granularity=16).view(24, 16),
        fake_quantize(x.view(24, 16), "int4", granularity="channel"),
    )


def test_smaller_groups_do_not_lose_on_average():
    x = sample(64, 128)
    error = [float((fake_quantize(x, "int4", granularity=g) - x).square().mean()) for g in (128, 64, 32, 16)]
    assert error == sorted(error, reverse=True)


def test_more_bits_approach_the_baseline():
    x = sample(16, 64)
    error = [float((fake_quantize(x, f, granularity="channel") - x).abs().max()) for f in INTEGERS]
    assert error == sorted(error, reverse=True)
    wide = Integer("int24", 24).round_rows(x.double())
    assert torch.allclose(wide, x.double(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("format,grid", GRIDDED)
def test_zero_rows_stay_zero_and_finite(format, grid):
    symmetric, full_range = GRIDS[grid]
    x = sample(4, 32)
    x[1] = 0
    rounded = fake_quantize(x, format, granularity="channel", symmetric=symmetric, full_range=full_range)
    assert torch.equal(rounded[1], torch.zeros(32)) and torch.isfinite(rounded).all()
    assert torch.equal(fake_quantize(torch.zeros(3, 4), format, symmetric=symmetric), torch.zeros(3, 4))
    assert torch.equal(FORMATS[format].round_rows(x)[1], torch.zeros(32))


@pytest.mark.parametrize("magnitude", [1e-45, 1e-38, 1e-30, 1e30])
@pytest.mark.parametrize("format", ["int8", *FLOATS])
def test_extreme_magnitudes_stay_finite_and_bounded(format, magnitude):
    x = sample(4, 32) * magnitude
    rounded = fake_quantize(x, format, granularity="channel")
    # a 4-bit float may round its largest value up by a fifth, 5 to 6
    assert torch.isfinite(rounded).all() and (rounded.abs() <= x.abs().amax() * 1.201 + 1e-38).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("format,grid", GRIDDED)
def test_the_largest_numbers_stay_finite_and_within_a_step(format, grid, dtype):
    symmetric, full_range = GRIDS[grid]
    # the scale of an mx block ends at 2**127
    largest = torch.finfo(dtype if not format.startswith("mx") or dtype != torch.float64 else torch.float32).max
    x = torch.tensor([largest, -largest, largest / 2, 0.0], dtype=dtype)
    rounded = fake_quantize(x, format, symmetric=symmetric, full_range=full_range)
    assert torch.isfinite(rounded).all()
    # the widest step of a float is a third of its largest value or less
    levels = 2 ** FORMATS[format].bits - 1 - symmetric if format in INTEGERS else 3
    assert ((rounded.double() / 2 - x.double() / 2).abs() / largest <= 1.01 / levels).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("format", ["int8", *FLOATS])
def test_shape_dtype_and_argument_survive(format, dtype):
    x = sample(2, 3, 32).to(dtype)
    before = x.clone()
    rounded = fake_quantize(x, format, granularity="token")
    assert rounded.shape == x.shape and rounded.dtype == dtype and torch.equal(x, before)
    wide = x if dtype == torch.float64 else x.float()
    assert torch.equal(rounded, fake_quantize(wide, format, granularity="token").to(dtype))
    for fast in (FORMATS[format].round_rows(x), FORMATS[format].round_static(x, torch.tensor(0.01))):
        assert fast.dtype == dtype and torch.equal(x, before)


@pytest.mark.parametrize("format", INTEGERS + FLOATS)
def test_a_scalar_and_a_strided_view_work(format):
    assert fake_quantize(torch.tensor(3.0), format) == pytest.approx(3.0)
    x = sample(64, 6)
    assert torch.equal(
        fake_quantize(x.T, format, granularity="token"), fake_quantize(x.T.contiguous(), format, granularity="token")
    )
    assert torch.equal(FORMATS[format].round_rows(x.T), FORMATS[format].round_rows(x.T.contiguous()))


@pytest.mark.parametrize("format", INTEGERS + FLOATS + CASTS)
def test_a_parameter_is_rounded_without_a_gradient(format):
    parameter = torch.nn.Parameter(sample(2, 32))
    for rounded in (fake_quantize(parameter, format), FORMATS[format].round_rows(parameter.detach().requires_grad_())):
        assert not rounded.requires_grad or format in CASTS


# 40 is no multiple of the blocks of 16 and 32
@pytest.mark.parametrize("shape", [(5, 64), (2, 3, 64), (64,), (3, 40)], ids=str)
@pytest.mark.parametrize("format", INTEGERS + FLOATS + CASTS)
def test_the_fast_row_rounding_is_the_plain_formula(format, shape):
    x = sample(*shape)
    assert torch.equal(FORMATS[format].round_rows(x), fake_quantize(x, format, granularity="token"))
    half = x.bfloat16()
    assert torch.equal(FORMATS[format].round_rows(half), fake_quantize(half, format, granularity="token"))


@pytest.mark.parametrize("format", INTEGERS + FLOATS)
def test_a_row_with_nan_or_inf_becomes_nan_in_the_fast_rounding(format):
    x = sample(4, 8)
    x[0, 2], x[1, 5], x[2, 0] = float("nan"), float("inf"), -float("inf")
    rounded = FORMATS[format].round_rows(x)
    assert rounded[0].isnan().all() and rounded[1, 5].isnan() and rounded[2, 0].isnan()
    # beside an infinity everything else is NaN or 0
    assert (rounded[:3].nan_to_num() == 0).all()
    assert torch.equal(rounded[3], FORMATS[format].round_rows(x[3]))


def test_static_rounding_saturates():
    rounded = FORMATS["int8"].round_static(torch.tensor([-9.0, 0.26, 9.0]), torch.tensor(0.05))
    assert torch.allclose(rounded, torch.tensor([-6.35, 0.25, 6.35]))


@pytest.mark.parametrize("granularity", GRANULARITIES, ids=str)
@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("format", INTEGERS)
def test_codes_come_back_from_the_decoded_values(format, grid, granularity):
    chosen = by_name(format).variant(*GRIDS[grid])
    encoded = encode(sample(6, 64), chosen, granularity)
    codes = codes_on_grid(decode(encoded), chosen, encoded.scale, encoded.zero)
    assert torch.equal(codes, encoded.codes) and codes.dtype == torch.int8
    assert encoded.codes.min() >= chosen.qmin and encoded.codes.max() <= chosen.qmax


@pytest.mark.parametrize("format,granularity", [*CUTS, *((f, "tensor") for f in CASTS)])
def test_rounding_is_decoding_what_was_encoded(format, granularity):
    x = sample(6, 64)
    assert torch.equal(fake_quantize(x, format, granularity=granularity), decode(encode(x, format, granularity)))


@pytest.mark.parametrize("format,grid", GRIDDED)
def test_one_column_at_a_time_gives_the_same_codes(format, grid):
    chosen, x = by_name(format).variant(*GRIDS[grid]), sample(6, 64)
    size = chosen.block or 16
    encoded = encode(x, chosen, size)
    for column in (0, 17, 63):
        scale, zero = (part if part is None else part[:, column // size] for part in (encoded.scale, encoded.zero))
        codes = chosen.encode(x[:, column], BlockGrid(scale, zero))
        assert torch.equal(codes, encoded.codes[:, column])
        assert torch.equal(chosen.decode(codes, BlockGrid(scale, zero)), decode(encoded)[:, column])
        assert torch.equal(chosen.snap(x[:, column], BlockGrid(scale, zero)), decode(encoded)[:, column])


@pytest.mark.parametrize("format,grid", GRIDDED)
def test_shrinking_a_range_is_fitting_a_smaller_tensor(format, grid):
    chosen, x = by_name(format).variant(*GRIDS[grid]), sample(6, 64)
    size = chosen.block or 16
    half = encode(x, chosen, size, shrink=0.5)
    # a power of two changes no mantissa; the outer scale of nvfp4 is that of the whole range
    smaller = encode(x * 0.5, chosen, size)
    assert torch.allclose(half.scale, smaller.scale, rtol=0.07 if format == "nvfp4" else 0, atol=0)
    each = torch.ones(6, 64 // size, 1, dtype=torch.float64)
    each[2] = 0.5
    mixed, whole = encode(x, chosen, size, shrink=each), encode(x, chosen, size)
    assert torch.equal(mixed.scale[2], half.scale[2]) and torch.equal(mixed.scale[3:], whole.scale[3:])
    assert torch.equal(mixed.codes[2], half.codes[2]) and mixed.scale.dtype == torch.float32


def test_bits_per_element_counts_scales_and_zero_points():
    assert FORMATS["int4"].bits_per_element(32, scale_bits=16) == 4.5
    assert FORMATS["int4"].variant(symmetric=False).bits_per_element(32, scale_bits=16) == 4.625
    assert FORMATS["int8"].bits_per_element(768) == pytest.approx(8 + 32 / 768)
    assert FORMATS["int4"].bits_per_element(128, scale_bits=16) == 4.125
    assert FORMATS["bf16"].bits_per_element(32) == 16
    assert FORMATS["fp8_e4m3"].bits_per_element(128, scale_bits=32) == 8.25
    assert FORMATS["mxfp4"].bits_per_element() == FORMATS["mxfp4"].bits_per_element(128, 16) == 4.25
    assert FORMATS["mxfp8"].bits_per_element() == 8.25
    assert FORMATS["nvfp4"].bits_per_element() == FORMATS["nvfp4"].bits_per_element(128, 16) == 4.5
    assert FORMATS["nvfp4"].bits_per_element(numel=64) == 5


ERRORS = {
    "unknown format": (dict(format="int5"), "unknown number format 'int5'.*int2, int3, int4, int8"),
    "unknown granularity": (dict(granularity="row"), "granularity 'row'.*tensor, channel, token"),
    "group does not divide": (dict(granularity=24), "groups of 24 do not divide.*64.*32, 16, 8"),
    "group of zero": (dict(granularity=0), "positive integer, got 0"),
    "group is a flag": (dict(granularity=True), "positive integer, got True"),
    "misspelt format": (dict(format="nvpf4"), "did you mean 'nvfp4'"),
    "scale rule": (dict(scale_rule="floor"), "mx formats"),
    "scale rule of a float": (dict(format="nvfp4", scale_rule="floor"), "mx formats; nvfp4 takes fouroversix or none"),
    "unknown scale rule": (dict(format="mxfp4", scale_rule="ceil"), "scale rule 'ceil'.*'rceil'.*even, floor, rceil"),
    "float without symmetry": (dict(format="fp8_e4m3", symmetric=False), "fp8_e4m3 has one grid"),
    "block with full range": (dict(format="mxfp4", full_range=True), "mxfp4 has one grid"),
    "another block": (dict(format="nvfp4", granularity=32), "nvfp4 has blocks of 16, not 32; leave granularity out"),
    "unknown granularity of blocks": (dict(format="mxfp8", granularity="row"), "granularity 'row'.*tensor"),
    "full range without symmetry": (dict(symmetric=False, full_range=True), "symmetric grid"),
    "cast with a grid": (dict(format="fp16", symmetric=False), "cast without scale"),
    "nan": (dict(x=torch.tensor([1.0, float("nan")])), "NaN or inf"),
    "inf": (dict(x=torch.tensor([1.0, float("inf")])), "NaN or inf"),
    "integers": (dict(x=torch.arange(4)), "floating.*int64"),
    "list": (dict(x=[1.0, 2.0]), r"got list; pass torch.as_tensor\(x\)"),
    "array": (dict(x=np.ones(4, np.float32)), r"got ndarray; pass torch.as_tensor\(x\)"),
    "fp16 overflow": (dict(x=torch.tensor([1.0, -1e6]), format="fp16"), r"up to 1e\+06 overflow in fp16; use bf16"),
    "empty": (dict(x=torch.empty(0, 4)), "empty tensor"),
}


@pytest.mark.parametrize("case", ERRORS)
def test_bad_input_names_what_is_wrong(case):
    changes, message = ERRORS[case]
    arguments = {"x": sample(4, 64), "format": "int4"} | changes
    with pytest.raises(EdgelibError, match=message):
        fake_quantize(arguments.pop("x"), arguments.pop("format"), **arguments)
