"""Codes of a cache against the number formats of the library, bit by bit."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edgelib.errors import EdgelibError
from edgelib.formats.bits import codes_in_whole_bytes, pack_channels, unpack_channels
from edgelib.formats.blocks import BlockGrid
from edgelib.formats.floating import E2M1, E4M3, E5M2
from edgelib.formats.gguf.codec import gguf_decode, gguf_encode
from edgelib.formats.table import FORMATS
from edgelib.kv.codec import Blocks, Exact, PerToken, Simulated, Static, affine_grid, affine_start, require_finite
from edgelib.kv.store import Groups, Rows

STATIC = ("fp8_e4m3", "fp8_e5m2", "int8", "int4")


def states(seed=0, scale=1.0, shape=(2, 3, 5, 16)):
    return scale * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def recalled(codec, x):
    return codec.decode(codec.encode(x), x.dtype)


@pytest.mark.parametrize("signed", [True, False], ids=["signed", "unsigned"])
@pytest.mark.parametrize("bits", range(2, 9))
def test_codes_of_channels_come_back_from_as_many_bytes_as_they_need(bits, signed):
    codes = torch.arange(2**bits, dtype=torch.int64).repeat(3, codes_in_whole_bytes(bits))
    codes = (codes - 2 ** (bits - 1)).to(torch.int8) if signed else codes.to(torch.uint8)
    packed = pack_channels(codes, bits)
    assert torch.equal(unpack_channels(packed, bits, signed), codes)
    assert packed.shape == (3, codes.shape[1] * bits // 8)


@pytest.mark.parametrize("element", [E4M3, E5M2], ids=["e4m3", "e5m2"])
def test_every_finite_code_of_an_8_bit_float_has_its_value(element):
    codes = torch.arange(256, dtype=torch.uint8).view(element.storage)
    codes = codes[codes.float().isfinite()]
    half, factor = element.halves(codes.view(torch.int8))
    assert torch.equal(half.float() * factor, codes.float())


def test_every_code_of_a_4_bit_float_has_its_value():
    codes = torch.arange(16, dtype=torch.uint8)
    half, factor = E2M1.halves(unpack_channels(pack_channels(codes, 4), 4, signed=True))
    assert torch.equal(half.float() * factor, E2M1.decode(codes, torch.float32))


@pytest.mark.parametrize("name", STATIC)
@pytest.mark.parametrize("shape", [(1,), (3, 1, 1), (3, 1, 16)], ids=["tensor", "head", "channel"])
@pytest.mark.parametrize("size", [0.01, 1.0, 1e4])
def test_static_codes_are_those_of_the_format(name, shape, size):
    format, x = FORMATS[name], states(scale=size)
    scale = 0.3 + torch.rand(shape, generator=torch.Generator().manual_seed(1)) * 3
    expected = format.decode(format.encode(x, BlockGrid(scale)), BlockGrid(scale))
    assert torch.equal(recalled(Static(format, scale, scale), x), expected)


@pytest.mark.parametrize("size", [0.01, 1.0, 1e4])
def test_blocks_are_those_of_nvfp4(size):
    format, x = FORMATS["nvfp4"], states(scale=size, shape=(2, 3, 5, 32))
    outer = torch.full((1,), 0.01 * size)
    expected = format.round_static(x, outer)
    assert torch.equal(recalled(Static(format, outer, outer), x), expected)


@pytest.mark.parametrize("name", STATIC)
def test_what_saturates_stays_a_number(name):
    scale = torch.tensor([0.5])
    x = torch.tensor([3e38, -3e38, 1e5, 448.0, 0.0, -0.0, 1e-30, 7.0])
    found = recalled(Static(FORMATS[name], scale, scale), x)
    assert found.isfinite().all() and found.abs().max() == FORMATS[name].qmax * 0.5


@pytest.mark.parametrize("name", ["fp8_e4m3", "fp8_e5m2"])
def test_a_power_of_two_in_the_scale_changes_nothing_within_range(name):
    x = states(scale=10)
    one, four = (Static(FORMATS[name], torch.tensor([s]), torch.tensor([s])) for s in (1.0, 4.0))
    near = x.abs() > 0.1
    assert torch.equal(recalled(one, x)[near], recalled(four, x)[near])


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(["int4", "int8"]), st.floats(-1e6, 1e6), st.floats(1e-3, 1e3), st.sampled_from([4, 8, 16]))
def test_integers_per_token_err_by_half_a_step_around_any_offset(name, offset, spread, group):
    x = offset + spread * states()
    groups = x.unflatten(-1, (-1, group))
    width = groups.amax(-1) - groups.amin(-1) + groups.amin(-1).abs() * 2.0**-10
    step = width * (1 + 2.0**-6) / (2 ** FORMATS[name].bits - 1)
    error = (recalled(PerToken(FORMATS[name], group), x) - x).unflatten(-1, (-1, group)).abs().amax(-1)
    assert (error <= step / 2 + 1e-5 * abs(offset)).all()


@settings(max_examples=60, deadline=None)
@given(st.sampled_from([4, 8]), st.floats(-1e37, 1e37), st.floats(0, 1e37))
def test_a_grid_covers_what_it_is_made_for_in_two_bytes_each(bits, low, width):
    low = torch.tensor([low])
    high = low + width
    start, step = affine_grid(low, high, bits)
    first, largest = affine_start(start, step, bits), 2**bits - 1
    assert start.element_size() == step.element_size() == 2
    assert first <= low + 0.1 * step and first + largest * step.float() >= high - 0.1 * step


STORES = {"per token": lambda: Rows(PerToken(FORMATS["int4"], 16)), "per channel": lambda: Groups(4, 32)}


@pytest.mark.parametrize("store", STORES.values(), ids=STORES)
@pytest.mark.parametrize("constant", [300.0, -300.0])
def test_a_large_constant_leaves_integers_their_steps(store, constant):
    store, x = store(), constant + torch.rand(1, 2, 32, 16, generator=torch.Generator().manual_seed(0)) - 0.5
    store.append(x)
    # 15 steps over a range of 1 and the last digit of a half float at 300; one of bfloat16 would make it 2.5
    assert (store.read(torch.float32) - x).abs().max() < (1 + 0.3) * 1.02 / 15 / 2


@pytest.mark.parametrize("name", ["q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "iq4_nl"])
def test_blocks_of_channels_are_those_of_a_gguf_file(name):
    """One block after the other along the channels of a head, as llama.cpp lays out a token's keys and values."""
    x = states(scale=4, shape=(2, 3, 5, 64))
    codec = Blocks(FORMATS[name])
    (stored,) = codec.encode(x)
    assert torch.equal(stored.reshape(30, -1), gguf_encode(x.reshape(30, 64), name))
    assert stored.shape[-1] * 8 == 64 * FORMATS[name].bits_per_element()
    expected = gguf_decode(stored.reshape(30, -1), name, 64).view_as(x)
    assert torch.equal(codec.decode((stored,), torch.float32), expected)
    assert torch.equal(
        recalled(codec, x.bfloat16()), codec.decode(codec.encode(x.bfloat16()), torch.float32).bfloat16()
    )
    assert codec.encode(x[:, :, :0])[0].shape == (2, 3, 0, stored.shape[-1])
    store = Rows(codec)
    for token in x.split(1, -2):
        store.append(token)
    assert torch.equal(store.read(torch.float32), expected) and store.nbytes == stored.numel()


def test_floats_per_token_err_by_a_sixteenth_at_most():
    x = states(scale=100)
    assert ((recalled(PerToken(FORMATS["fp8_e4m3"], 16), x) - x).abs() <= x.abs() / 15 + 1e-3).all()


def test_range_and_resolution_make_up_the_format_where_nothing_is_beyond_its_range():
    format, scale, x = FORMATS["fp8_e4m3"], torch.tensor([0.5]), states(scale=20)
    whole = recalled(Static(format, scale, scale), x)
    assert torch.equal(recalled(Simulated(format, scale, "resolution", scale), x), whole)
    assert torch.allclose(recalled(Simulated(format, scale, "range", scale), x), x)
    large = torch.full((1, 1, 1, 16), 1e6)
    assert recalled(Simulated(format, scale, "range", scale), large).eq(224).all()
    assert (recalled(Simulated(format, scale, "resolution", scale), large) / large - 1).abs().max() < 1 / 16


def test_states_in_their_own_dtype_are_kept_as_they_are():
    x = states().bfloat16()
    assert Exact().encode(x)[0] is x and torch.equal(recalled(Exact(FORMATS["bf16"]), x), x)
    assert recalled(Exact(FORMATS["fp16"]), torch.tensor([1e6])).item() == 65504


def test_codes_of_what_is_no_number_are_refused():
    with pytest.raises(EdgelibError, match="the keys of layer 3 hold NaN or inf"):
        require_finite(torch.tensor([1.0, torch.nan]), "the keys of layer 3")
