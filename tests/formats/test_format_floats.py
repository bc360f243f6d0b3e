"""Small floats: the nearest value on their grids, their block scales, and what depends on which scale."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edgelib.formats.blocks import joined, split
from edgelib.formats.floating import E2M1, E4M3, E5M2
from edgelib.formats.table import FORMATS, as_blocks, by_name, codes_on_grid, decode, encode, fake_quantize

FLOATS = ["fp8_e4m3", "fp8_e5m2", "mxfp8", "mxfp4", "nvfp4"]
BLOCKS = ["mxfp8", "mxfp4", "nvfp4"]
ELEMENTS = {"e4m3": E4M3, "e5m2": E5M2, "e2m1": E2M1}
RULES = ["floor", "rceil", "even"]
FINITE = st.floats(width=32, allow_nan=False, allow_infinity=False)


def sample(*shape: int, seed: int = 0) -> torch.Tensor:
    """Normal numbers in rows of very different sizes."""
    x = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    return x * torch.logspace(-4, 4, shape[0]).view(-1, *[1] * (len(shape) - 1))


def closest(x: float, element) -> float:
    """The nearest value of an element by trying all; on a tie the one with the even code."""
    size = min(abs(x), element.largest)
    tried = [(abs(size - value), code % 2, value) for code, value in enumerate(element.magnitudes)]
    return math.copysign(min(tried)[2], x)


@pytest.mark.parametrize("name", ELEMENTS)
@given(st.lists(FINITE | st.floats(-500, 500, width=32), min_size=1, max_size=8))
@settings(max_examples=50, deadline=None)
def test_rounding_gives_the_nearest_value_and_the_even_one_on_ties(name, values):
    element = ELEMENTS[name]
    # midpoints of this element too
    values += [(a + b) / 2 for a, b in zip(element.magnitudes[:-1:9], element.magnitudes[1::9], strict=False)]
    expected = torch.tensor([closest(value, element) for value in values], dtype=torch.float64)
    for dtype in (torch.float32, torch.float64):
        assert torch.equal(element.round_(torch.tensor(values, dtype=dtype)).double(), expected)
    assert torch.equal(element.decode(element.encode(torch.tensor(values)), torch.float64), expected)


@pytest.mark.parametrize("name", ELEMENTS)
def test_double_precision_is_rounded_once(name):
    element = ELEMENTS[name]
    low, high = element.magnitudes[5:7]
    above = (low + high) / 2 * (1 + 2.0**-40)  # in float32 a tie
    assert element.round_(torch.tensor([above], dtype=torch.float64)) == high
    assert element.decode(element.encode(torch.tensor([above], dtype=torch.float64)), torch.float64) == high


@pytest.mark.parametrize("name", ELEMENTS)
def test_infinity_saturates_and_nan_stays(name):
    element = ELEMENTS[name]
    rounded = element.round_(torch.tensor([math.inf, -math.inf, 1e30, math.nan]))
    assert rounded[:3].tolist() == [element.largest, -element.largest, element.largest] and rounded[3].isnan()
    assert element.magnitudes[-1] == element.largest and len(element.magnitudes) in (8, 124, 127)


@pytest.mark.parametrize("format", FLOATS)
def test_every_value_is_the_nearest_on_its_grid(format):
    x = sample(8, 64)
    encoded = encode(x, format, "token")
    element = FORMATS[format].element
    grid = torch.tensor([*element.magnitudes, *(-value for value in element.magnitudes)])
    size = FORMATS[format].block or 64
    scale = encoded.scale.repeat_interleave(size, -1)
    error = (x.unsqueeze(-1) - grid * scale.unsqueeze(-1)).abs().amin(-1)
    ours = (decode(encoded) - x).abs()
    # among values equally near, the arithmetic of the test itself may prefer another
    assert torch.allclose(ours, error, rtol=1e-5, atol=0)
    # half a step: relative to a normal number, absolute below the smallest one
    inside = x.abs() <= element.largest * scale
    bound = 2.0 ** -(element.mantissa + 1) * x.abs().maximum(2.0**element.emin * scale)
    assert (ours <= bound * 1.0001)[inside].all() and inside.float().mean() > 0.9


@pytest.mark.parametrize("format", ["fp8_e4m3", "fp8_e5m2"])
def test_the_largest_value_of_a_row_is_kept(format):
    x = sample(8, 64)
    kept = fake_quantize(x, format, granularity="token").gather(1, x.abs().argmax(1, keepdim=True))
    assert torch.allclose(kept, x.gather(1, x.abs().argmax(1, keepdim=True)), rtol=1e-6)


@pytest.mark.parametrize("format", ["fp8_e4m3", "fp8_e5m2", "mxfp8", "mxfp4"])
@given(st.lists(FINITE, min_size=1, max_size=40), st.sampled_from(RULES))
@settings(max_examples=40, deadline=None)
def test_rounding_twice_is_rounding_once_at_any_magnitude(format, values, rule):
    options = {"scale_rule": rule} if format.startswith("mx") else {}
    once = fake_quantize(torch.tensor(values), format, **options)
    twice = fake_quantize(once, format, **options)
    assert torch.equal(twice, once) if format.startswith("mx") else torch.allclose(twice, once, rtol=1e-6, atol=1e-44)


def test_nvfp4_blocks_far_below_the_largest_are_not_rounded_once_and_for_all():
    """A block scale of two smallest steps becomes one when its largest value is rounded down, as documented."""
    x = torch.zeros(1, 32)
    x[0, 0], x[0, 16] = 2688.0, 4.6 * 2.0**-8
    once = fake_quantize(x, "nvfp4")
    twice = fake_quantize(once, "nvfp4")
    assert encode(x, "nvfp4").scale_codes().tolist() == [[448.0, 2.0**-8]]
    assert once[0, 16] == 4 * 2.0**-8 and twice[0, 16] == 6 * 2.0**-9
    assert torch.equal(fake_quantize(twice, "nvfp4"), twice)


def scale_by_definition(amax: float, element, rule: str) -> float:
    """The scale of an mx block by logarithms: OCP MX specification 1.0 section 6.3, cuBLAS, and rounding first."""
    if rule == "rceil":
        exponent = math.ceil(math.log2(amax / element.largest))
    else:
        if rule == "even":
            spacing = 2.0 ** (math.floor(math.log2(amax)) - element.mantissa)
            amax = math.floor(amax / spacing + 0.5) * spacing
        exponent = math.floor(math.log2(amax)) - element.emax
    return 2.0 ** min(max(exponent, -127), 127)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("format", ["mxfp8", "mxfp4"])
@given(
    st.floats(2.0**-100, 2.0**100, width=32) | st.sampled_from([1.0, 1.5, 1.75, 1.875, 1.9375, 3.5, 6.0, 7.0, 448.0])
)
@settings(max_examples=50, deadline=None)
def test_mx_scales_are_those_of_the_definition(format, rule, amax):
    chosen = by_name(format).variant(scale_rule=rule)
    encoded = encode(torch.tensor([amax, -amax / 3, 0.0]), chosen)
    assert encoded.scale.item() == scale_by_definition(amax, chosen.element, rule)
    assert encoded.scale_codes().view(torch.uint8).item() == math.log2(encoded.scale.item()) + 127
    if rule == "rceil":  # nothing saturates
        assert decode(encoded)[0].item() == pytest.approx(amax, rel=2.0 ** -(chosen.element.mantissa + 1))


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("format", ["mxfp8", "mxfp4"])
def test_mx_scales_end_where_their_byte_does(format, rule):
    chosen = by_name(format).variant(scale_rule=rule)
    tiny = encode(torch.tensor([2.0**-140, 0.0]), chosen)
    assert tiny.scale.item() == 2.0**-127 and tiny.scale_codes().view(torch.uint8).item() == 0
    huge = encode(torch.tensor([1e300], dtype=torch.float64), chosen)
    assert huge.scale.item() == 2.0**127 and decode(huge).item() == chosen.qmax * 2.0**127
    assert encode(torch.zeros(32), chosen).scale_codes().view(torch.uint8).item() == 0


def test_the_default_scale_rule_is_floor():
    x = sample(4, 64)
    for format in ("mxfp8", "mxfp4"):
        assert torch.equal(fake_quantize(x, format), fake_quantize(x, format, scale_rule="floor"))
        assert not torch.equal(fake_quantize(x, format), fake_quantize(x, format, scale_rule="rceil"))


@pytest.mark.parametrize("format", BLOCKS)
def test_a_short_last_block_is_one_filled_up_with_zeros(format):
    x = sample(4, 40)
    filled = torch.nn.functional.pad(x, (0, 24))
    short, full = encode(x, format), encode(filled, format)
    assert short.codes.shape == (4, 40) and short.scale.shape[-1] == -(-40 // FORMATS[format].block)
    assert torch.equal(short.scale, full.scale[:, : short.scale.shape[-1]])
    assert torch.equal(decode(short), decode(full)[:, :40])
    assert torch.equal(codes_on_grid(x, short.format, short.scale), short.codes)
    assert torch.equal(fake_quantize(x, format), fake_quantize(filled, format)[:, :40])
    assert torch.equal(joined(split(x, 32), x.shape), x)


@pytest.mark.parametrize("format", BLOCKS)
def test_a_block_sees_nothing_but_itself_and_the_outer_scale(format):
    x, size = sample(4, 64), FORMATS[format].block
    x[0, 0] = 1e7
    changed = x.clone()
    changed[:, size:] *= 0.25
    assert torch.equal(fake_quantize(x, format)[:, :size], fake_quantize(changed, format)[:, :size])
    if format != "nvfp4":  # granularity has no say
        for granularity in ("channel", "token", size):
            assert torch.equal(fake_quantize(x, format, granularity=granularity), fake_quantize(x, format))


def test_the_outer_scale_of_nvfp4_belongs_to_the_tensor_or_to_each_row():
    x = sample(4, 64)
    whole, rows = encode(x, "nvfp4"), encode(x, "nvfp4", "token")
    assert whole.outer.shape == (1, 1) and whole.outer.item() == pytest.approx(x.abs().max().item() / (6 * 448))
    assert torch.allclose(rows.outer, x.abs().amax(1, keepdim=True) / (6 * 448), rtol=1e-6)
    # the small rows vanish beside the large ones, so a scale per row is what a batch may not choose
    assert (decode(rows) - x)[0].abs().sum() < 0.5 * (decode(whole) - x)[0].abs().sum()
    for encoded in (whole, rows):
        inner = encoded.scale_codes().float()
        assert torch.equal(inner * encoded.outer, encoded.scale)
        assert inner.min() >= 2.0**-9 and inner.max() <= 448


@pytest.mark.parametrize("format", BLOCKS)
def test_a_zero_block_among_others_decodes_to_zeros(format):
    x = sample(2, 64)
    x[1, 32:] = 0
    assert torch.equal(decode(encode(x, format))[1, 32:], torch.zeros(32))
    assert (encode(x, format).scale > 0).all()


def test_nvfp4_keeps_the_scale_of_a_block_that_is_not_zero_above_zero():
    x = torch.zeros(1, 32)
    x[0, 0], x[0, 16] = 2688.0, 1e-9
    encoded = encode(x, "nvfp4")
    assert encoded.scale_codes().tolist() == [[448.0, 2.0**-9]]
    assert decode(encoded)[0, 16] == 0


@pytest.mark.parametrize("format", FLOATS)
def test_static_rounding_with_the_scale_of_the_data_is_dynamic_rounding(format):
    x = sample(8, 64)
    chosen = FORMATS[format]
    scale = x.abs().amax() / chosen.qmax if not format.startswith("mx") else 1.0
    assert torch.equal(chosen.round_static(x, scale), fake_quantize(x, format))
    if format == "nvfp4":
        assert torch.equal(chosen.round_static(x, x.abs().amax(1, keepdim=True) / chosen.qmax), chosen.round_rows(x))


@pytest.mark.parametrize("format", ["fp8_e4m3", "fp8_e5m2"])
def test_scale_one_keeps_the_values_of_the_format_and_saturates(format):
    element = FORMATS[format].element
    values = torch.tensor([*element.magnitudes, 2 * element.largest, 1e30, math.inf])
    rounded = FORMATS[format].round_static(values, 1.0)
    assert torch.equal(rounded, values.clamp(max=element.largest))
    assert torch.equal(FORMATS[format].round_static(-values, torch.tensor(1.0)), -rounded)


@pytest.mark.parametrize("format", ["fp16", "bf16", "mxfp8", "mxfp4"])
def test_scale_one_is_plain_rounding_where_no_scale_is_static(format):
    x = 1e4 * sample(1, 64)
    assert torch.equal(FORMATS[format].round_static(x, 1.0), FORMATS[format].round_rows(x))
    assert torch.equal(FORMATS[format].round_static(x, torch.tensor(2.0)), FORMATS[format].round_rows(x))


def test_a_static_outer_scale_saturates_beyond_its_largest_value():
    x = torch.tensor([[10.0, -10.0, 1.0, 0.1]])
    rounded = FORMATS["nvfp4"].round_static(x, 2.0**-10)
    assert rounded[0, :2].tolist() == [2688 * 2.0**-10, -2688 * 2.0**-10]


@pytest.mark.parametrize("format", FLOATS)
def test_codes_are_stored_as_documented_and_come_back(format):
    x = sample(8, 64)
    encoded = encode(x, format)
    assert encoded.codes.dtype == FORMATS[format].storage and encoded.codes.element_size() == 1
    if FORMATS[format].bits == 4:
        assert encoded.codes.max() < 16
        assert torch.equal(encoded.codes >= 8, decode(encoded).signbit())
    else:
        assert torch.isfinite(encoded.codes.float()).all()
    codes = codes_on_grid(decode(encoded), encoded.format, encoded.scale)
    assert torch.equal(codes.view(torch.uint8), encoded.codes.view(torch.uint8))


def test_more_bits_and_smaller_blocks_round_more_finely():
    x = sample(64, 128)
    error = {
        f: float(((fake_quantize(x, f, granularity="token") - x) / x.std(1, keepdim=True)).square().mean())
        for f in FLOATS
    }
    assert error["nvfp4"] < error["mxfp4"]
    assert error["fp8_e4m3"] < error["fp8_e5m2"] < error["nvfp4"]
    # nothing saturates and no amax falls between two powers of two for free
    assert error["mxfp8"] < error["nvfp4"]


def test_shrink_multiplies_the_range_of_blocks_but_not_the_outer_scale():
    x = sample(4, 64)
    blocks, chosen = as_blocks(x, "nvfp4"), FORMATS["nvfp4"]
    whole, shrunk, wider = (chosen.fit(blocks, shrink) for shrink in (1.0, 0.5, 1.8))
    assert torch.equal(whole.outer, shrunk.outer)
    assert (shrunk.scale <= whole.scale).all() and (wider.scale >= whole.scale).all()
    assert wider.scale.amax() == 448 * whole.outer  # the block scale ends there
    given = chosen.fit(blocks, outer=2 * whole.outer)
    assert torch.equal(given.outer, 2 * whole.outer)
    assert torch.allclose(given.scale[3], whole.scale[3], rtol=0.07)  # an e4m3 number lies that near
