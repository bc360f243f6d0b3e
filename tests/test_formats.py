"""Number formats: laws of rounding, and the codes of other tools."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edgelib.errors import EdgelibError
from edgelib.quant.formats import FORMATS, Integer, by_name, codes_on_grid, decode, encode, fake_quantize

INTEGERS = ["int2", "int3", "int4", "int8"]
GRANULARITIES = ["tensor", "channel", "token", 16]
GRIDS = {"symmetric": (True, False), "full-range": (True, True), "asymmetric": (False, False)}
PEERS = np.load(Path(__file__).parent / "reference" / "ptq" / "integers.npz")


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


@pytest.mark.parametrize("granularity", GRANULARITIES, ids=str)
@pytest.mark.parametrize("format", [*INTEGERS, "fp16", "bf16", "fp32"])
def test_rounding_twice_is_rounding_once(format, granularity):
    once = fake_quantize(sample(6, 64), format, granularity=granularity)
    assert torch.allclose(fake_quantize(once, format, granularity=granularity), once, rtol=1e-6, atol=0)


@pytest.mark.parametrize("granularity", GRANULARITIES, ids=str)
@pytest.mark.parametrize("format", INTEGERS)
def test_symmetric_rounding_is_odd(format, granularity):
    x = sample(6, 64)
    assert torch.equal(
        fake_quantize(-x, format, granularity=granularity), -fake_quantize(x, format, granularity=granularity)
    )


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("format", INTEGERS)
def test_a_power_of_two_goes_through(format, grid):
    symmetric, full_range = GRIDS[grid]
    options = dict(granularity="channel", symmetric=symmetric, full_range=full_range)
    x = sample(6, 64)
    assert torch.equal(fake_quantize(x * 1024, format, **options), fake_quantize(x, format, **options) * 1024)


@given(
    st.lists(st.floats(-100, 100, width=32), min_size=2, max_size=40),
    st.sampled_from(INTEGERS),
    st.sampled_from(list(GRIDS)),
)
@settings(max_examples=60, deadline=None)
def test_order_is_kept(values, format, grid):
    symmetric, full_range = GRIDS[grid]
    x = torch.tensor(sorted(values), dtype=torch.float32)
    assert (fake_quantize(x, format, symmetric=symmetric, full_range=full_range).diff() >= 0).all()


@pytest.mark.parametrize("format", INTEGERS)
def test_a_row_does_not_see_its_neighbours(format):
    x = sample(6, 64)
    alone = torch.stack([fake_quantize(row, format, granularity="token") for row in x])
    assert torch.equal(fake_quantize(x, format, granularity="token"), alone)


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


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("format", INTEGERS)
def test_zero_rows_stay_zero_and_finite(format, grid):
    symmetric, full_range = GRIDS[grid]
    x = sample(4, 32)
    x[1] = 0
    rounded = fake_quantize(x, format, granularity="channel", symmetric=symmetric, full_range=full_range)
    assert torch.equal(rounded[1], torch.zeros(32)) and torch.isfinite(rounded).all()
    assert torch.equal(fake_quantize(torch.zeros(3, 4), format, symmetric=symmetric), torch.zeros(3, 4))


@pytest.mark.parametrize("magnitude", [1e-45, 1e-38, 1e-30, 1e30])
def test_extreme_magnitudes_stay_finite_and_bounded(magnitude):
    x = sample(4, 32) * magnitude
    rounded = fake_quantize(x, "int8", granularity="channel")
    assert torch.isfinite(rounded).all() and (rounded.abs() <= x.abs().amax() * 1.001 + 1e-38).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("format", INTEGERS)
def test_the_largest_numbers_stay_finite_and_within_a_step(format, grid, dtype):
    symmetric, full_range = GRIDS[grid]
    largest = torch.finfo(dtype).max
    x = torch.tensor([largest, -largest, largest / 2, 0.0], dtype=dtype)
    rounded = fake_quantize(x, format, symmetric=symmetric, full_range=full_range)
    assert torch.isfinite(rounded).all()
    levels = 2 ** FORMATS[format].bits - 1 - symmetric
    assert ((rounded.double() / 2 - x.double() / 2).abs() / largest <= 1.01 / levels).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_shape_dtype_and_argument_survive(dtype):
    x = sample(2, 3, 32).to(dtype)
    before = x.clone()
    rounded = fake_quantize(x, "int8", granularity="token")
    assert rounded.shape == x.shape and rounded.dtype == dtype and torch.equal(x, before)
    assert torch.equal(
        rounded,
        fake_quantize(x.to(torch.float64 if dtype == torch.float64 else torch.float32), "int8", granularity="token").to(
            dtype
        ),
    )


def test_a_scalar_and_a_strided_view_work():
    assert fake_quantize(torch.tensor(3.0), "int8") == pytest.approx(3.0)
    x = sample(64, 6)
    assert torch.equal(
        fake_quantize(x.T, "int4", granularity=16), fake_quantize(x.T.contiguous(), "int4", granularity=16)
    )


@pytest.mark.parametrize("shape", [(5, 64), (2, 3, 64), (64,)], ids=str)
@pytest.mark.parametrize("format", [*INTEGERS, "fp16", "bf16", "fp32"])
def test_the_fast_row_rounding_is_the_plain_formula(format, shape):
    x = sample(*shape)
    assert torch.equal(FORMATS[format].round_rows(x), fake_quantize(x, format, granularity="token"))
    half = x.bfloat16()
    assert torch.equal(FORMATS[format].round_rows(half), fake_quantize(half, format, granularity="token"))


def test_a_row_with_nan_or_inf_becomes_nan_in_the_fast_rounding():
    x = sample(3, 8)
    x[0, 2], x[1, 5] = float("nan"), float("inf")
    rounded = FORMATS["int8"].round_rows(x)
    assert rounded[:2].isnan().any(dim=1).all() and torch.equal(rounded[2], FORMATS["int8"].round_rows(x[2]))
    assert rounded[0].isnan().all()


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


def test_bits_per_element_counts_scales_and_zero_points():
    assert FORMATS["int4"].bits_per_element(32, scale_bits=16) == 4.5
    assert FORMATS["int4"].variant(symmetric=False).bits_per_element(32, scale_bits=16) == 4.625
    assert FORMATS["int8"].bits_per_element(768) == pytest.approx(8 + 32 / 768)
    assert FORMATS["bf16"].bits_per_element(32) == 16


ERRORS = {
    "unknown format": (dict(format="int5"), "unknown number format 'int5'.*int2, int3, int4, int8"),
    "unknown granularity": (dict(granularity="row"), "granularity 'row'.*tensor, channel, token"),
    "group does not divide": (dict(granularity=24), "groups of 24 do not divide.*64.*32, 16, 8"),
    "group of zero": (dict(granularity=0), "positive integer, got 0"),
    "group is a flag": (dict(granularity=True), "positive integer, got True"),
    "scale rule": (dict(scale_rule="floor"), "mx formats"),
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


# peer, scheme -> format, granularity, symmetric, full_range, and how many elements may be one step away on a tie
PEER_SCHEMES = {
    ("compressed_tensors", "int8_channel_sym"): ("int8", "channel", True, True, 0.0),
    ("compressed_tensors", "int8_channel_asym"): ("int8", "channel", False, False, 0.005),
    ("compressed_tensors", "int8_tensor_sym"): ("int8", "tensor", True, True, 0.0),
    ("compressed_tensors", "int4_g32_sym"): ("int4", 32, True, True, 0.0),
    ("compressed_tensors", "int4_g32_asym"): ("int4", 32, False, False, 0.005),
    ("onnxruntime", "int8_axis0_amax127"): ("int8", "channel", True, False, 0.0),
    ("onnxruntime", "int8_tensor_amax127"): ("int8", "tensor", True, False, 0.0),
    ("onnxruntime", "uint8_tensor_asym"): ("int8", "tensor", False, False, 0.0),
    ("onnxruntime", "int4_g32_amax7"): ("int4", 32, True, False, 0.0),
    ("torchao", "int8_perrow_sym_qmin-127"): ("int8", "channel", True, False, 0.0),
    ("torchao", "int8_perrow_asym"): ("int8", "channel", False, False, 0.0),
    ("torchao", "int4_g32_sym"): ("int4", 32, True, True, 0.003),
    ("torchao", "int4_g32_asym"): ("int4", 32, False, False, 0.0),
    ("modelopt", "int8_perrow_narrow1"): ("int8", "channel", True, False, 0.0),
    ("modelopt", "int4_g32_narrow1"): ("int4", 32, True, False, 0.0),
    ("smoothquant", "w8_perchannel"): ("int8", "channel", True, False, 0.0),
    ("smoothquant", "w8_pertensor"): ("int8", "tensor", True, False, 0.0),
    ("smoothquant", "w4_perchannel"): ("int4", "channel", True, False, 0.0),
}


def peer_values(stem: str, shape) -> np.ndarray:
    """Decode what a peer stored: (q - zero) * scale, or its own decoded values."""
    if f"{stem}/fake_quant" in PEERS:
        return PEERS[f"{stem}/fake_quant"]
    scale, codes = PEERS[f"{stem}/scale"], PEERS[f"{stem}/q"].astype(np.float32)
    zero = PEERS[f"{stem}/zero_point"] if f"{stem}/zero_point" in PEERS else np.zeros_like(scale)
    spread = [np.asarray(p, np.float32).reshape(shape[0] if np.size(p) > 1 else 1, -1) for p in (scale, zero)]
    scale, zero = (np.repeat(p, shape[1] // p.shape[1], axis=1) for p in spread)
    return (codes - zero) * scale


PEER_CASES = sorted(
    {tuple(key.split("/")[:3]) for key in PEERS if not key.startswith("inputs/") and "smooth_ln" not in key}
)


@pytest.mark.parametrize("peer,tensor,scheme", PEER_CASES, ids="-".join)
def test_values_are_those_of_the_peer(peer, tensor, scheme):
    stem = f"{peer}/{tensor}/{scheme}"
    format, granularity, symmetric, full_range, ties = PEER_SCHEMES[peer, scheme]
    x = torch.from_numpy(PEERS[f"inputs/{tensor}"])
    encoded = encode(x, by_name(format).variant(symmetric, full_range), granularity)
    ours = decode(encoded).numpy()
    size = (encoded.scale.repeat_interleave(x.shape[1] // encoded.scale.shape[1], 1) + torch.zeros_like(x)).numpy()
    steps = np.abs(ours - peer_values(stem, x.shape)) / size
    assert np.mean(steps > 1e-3) <= ties
    assert steps.max() <= 1.001


@pytest.mark.parametrize(
    "peer,scheme", [k for k in PEER_SCHEMES if k[0] in ("compressed_tensors", "onnxruntime", "torchao")], ids="-".join
)
def test_scales_are_those_of_the_peer(peer, scheme):
    format, granularity, symmetric, full_range, _ = PEER_SCHEMES[peer, scheme]
    x = torch.from_numpy(PEERS["inputs/W_64x128"])
    ours = encode(x, by_name(format).variant(symmetric, full_range), granularity).scale.numpy()
    theirs = PEERS[f"{peer}/W_64x128/{scheme}/scale"].reshape(ours.shape)
    live = ours > 1e-30  # the scale of an all-zero row is every tool's own convention
    assert np.array_equal(ours[live], theirs[live]) and live.mean() > 0.9
