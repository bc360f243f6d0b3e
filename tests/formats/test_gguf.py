"""GGUF types: bytes of the reference encoders, values of the reference decoders, laws, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers import REFERENCE

import edgelib
from edgelib.errors import EdgelibError
from edgelib.formats.gguf import codec
from edgelib.formats.gguf.codec import KINDS, fallback, gguf_decode, gguf_encode
from edgelib.formats.gguf.layout import from_six_bits, six_bits, stacked, unstacked
from edgelib.formats.gguf.search import affine, nearest, positive, symmetric, total
from edgelib.formats.table import fake_quantize

FILES = {name: np.load(REFERENCE / "gguf" / f"{name}.npz") for name in ("blocks", "corners")}
CASES = sorted({tuple(key.split("/")[1::2]) for file in FILES.values() for key in file.files if key[:5] == "bytes"})
# bits a weight, scales included, as llama.cpp's documentation has them
BITS = dict(q4_0=4.5, q4_1=5, q5_0=5.5, q5_1=6, q8_0=8.5, q2_k=2.625, q3_k=3.4375, q4_k=4.5, q5_k=5.5, q6_k=6.5625)
BITS |= dict(iq4_nl=4.5, iq4_xs=4.25)
SEARCHED = [name for name in KINDS if name != "q8_0"]


def sample(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def importance(columns: int, seed: int = 9) -> torch.Tensor:
    return sample(columns, seed=seed).square_()


def vectors(kind: str, weighting: str):
    """Each file's sets of one type and weighting, one below the other: (x, importance or None, reference bytes)."""
    for file in FILES.values():
        keys = [key for key in file.files if key.startswith(f"bytes/{kind}/") and key.endswith(f"/{weighting}")]
        if keys:
            weights = None if weighting == "plain" else torch.from_numpy(file[f"importance/{weighting}"])
            x = np.concatenate([file[f"in/{key.split('/')[2]}"] for key in keys])
            yield torch.from_numpy(x), weights, torch.from_numpy(np.concatenate([file[key] for key in keys]))


def weighted_error(x, blocks, kind, weights):
    away = gguf_decode(blocks, kind, x.shape[1]) - x
    return (away.square() * (1 if weights is None else weights)).view(-1, KINDS[kind].block).sum(-1)


@pytest.mark.parametrize("kind,weighting", CASES)
def test_bytes_are_those_of_the_reference(kind, weighting):
    """All of them, to the last bit. Where fits are equally good, the last bit of a float32 decides between them.

    Those are groups with one value that counts (any type that searches), values on a grid already (affine types) and
    flat groups. So sums run from the first value to the last, without fused multiply-add, a square root is rounded
    once, and 0 and -0 are told apart: an encoder built otherwise moves a few blocks of these sets, at equal error.
    """
    for x, weights, expected in vectors(kind, weighting):
        made = gguf_encode(x, kind, weights)
        assert made.dtype == torch.uint8
        assert torch.equal(made, expected)


def test_a_scale_below_zero_is_stored_as_zero():
    """The one known difference: the reference lets it wrap around to a large code.

    A fit with a negative scale wins where importance spans many decades within a group: about 1 block in 10,000 then.
    """
    scale, codes = positive(torch.tensor([[8.0], [4.0], [-1.0]]), torch.ones(3, 1), 15)
    assert scale.item() == pytest.approx(0.526, abs=1e-3)
    assert codes[:, 0].tolist() == [15, 8, 0]


@pytest.mark.parametrize("kind", KINDS)
def test_values_are_those_of_the_reference(kind):
    file = FILES["blocks"]
    for key in file.files:
        what, *names = key.split("/")
        if what == "out" and names[0] == kind:
            values = gguf_decode(torch.from_numpy(file["bytes" + key[3:]][2:3]), kind, 768)
            assert values.dtype == torch.float32
            assert np.array_equal(values.numpy(), file[key])


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_takes_its_bits(kind):
    blocks = edgelib.gguf_encode(sample(3, 512), kind)
    assert blocks.shape == (3, 512 * BITS[kind] / 8)
    assert edgelib.gguf_decode(blocks, kind, 512).shape == (3, 512)


@pytest.mark.parametrize("weights", [None, importance(512)], ids=["plain", "imatrix"])
@pytest.mark.parametrize("kind", KINDS)
def test_rows_know_nothing_of_each_other(kind, weights, monkeypatch):
    x = sample(5, 512)
    blocks = gguf_encode(x, kind, weights)
    values = gguf_decode(blocks, kind, 512)
    monkeypatch.setattr(codec, "_CHUNK", 1024)  # two rows at a time
    assert torch.equal(gguf_encode(x, kind, weights), blocks)
    assert torch.equal(gguf_decode(blocks, kind, 512), values)
    assert torch.equal(gguf_encode(x[3:4], kind, weights), blocks[3:4])


@pytest.mark.parametrize("kind", KINDS)
def test_fake_quantize_is_one_after_the_other(kind):
    x, weights = sample(2, 3, 256), importance(256)
    for given in (None, weights):
        rows = x.view(6, 256)
        expected = gguf_decode(gguf_encode(rows, kind, given), kind, 256).view(x.shape)
        assert torch.equal(fake_quantize(x, kind, importance=given), expected)
    half = x.bfloat16()
    assert torch.equal(fake_quantize(half, kind), fake_quantize(half.float(), kind).bfloat16())
    assert fake_quantize(x[0, 0], kind).shape == (256,)


@pytest.mark.parametrize("kind", KINDS)
def test_more_bits_are_nearer(kind):
    x = sample(16, 512)
    error = float((fake_quantize(x, kind) - x).square().mean())
    assert 0.2 < error / 4.0 ** -KINDS[kind].bits < 4


@pytest.mark.parametrize("kind", SEARCHED)
def test_importance_lowers_the_error_that_it_weighs(kind):
    x, weights = sample(32, 512), importance(512)
    with_it = weighted_error(x, gguf_encode(x, kind, weights), kind, weights)
    without = weighted_error(x, gguf_encode(x, kind), kind, weights)
    assert with_it.sum() < 0.95 * without.sum()


@pytest.mark.parametrize("kind", KINDS)
def test_only_ratios_of_importance_matter(kind):
    x, weights = sample(8, 512), importance(512)
    assert torch.equal(gguf_encode(x, kind, weights), gguf_encode(x, kind, 4 * weights))


def test_importance_changes_nothing_in_q8_0():
    assert torch.equal(gguf_encode(sample(8, 64), "q8_0", importance(64)), gguf_encode(sample(8, 64), "q8_0"))


@pytest.mark.parametrize("kind", KINDS)
def test_powers_of_two_go_through(kind):
    x = sample(8, 512)
    assert torch.equal(fake_quantize(8 * x, kind), 8 * fake_quantize(x, kind))


@pytest.mark.parametrize("given", [None, importance(256)], ids=["plain", "imatrix"])
@pytest.mark.parametrize("kind", KINDS)
def test_zeros_stay_zeros_and_nothing_changes_in_place(kind, given):
    x = torch.zeros(2, 256)
    x[1] = sample(256)
    before = x.clone()
    assert not fake_quantize(x, kind, importance=given)[0].any()
    assert torch.equal(x, before)


@pytest.mark.parametrize("bits,k", [(1, 8), (2, 4), (4, 2)])
def test_planes_of_bits_come_back(bits, k):
    codes = torch.randint(0, 2**bits, (3, 5, k, 7), generator=torch.Generator().manual_seed(0))
    assert torch.equal(unstacked(stacked(codes, bits), k, bits), codes.int())


def test_scales_of_six_bits_come_back():
    scales, offsets = torch.randint(0, 64, (2, 50, 8), generator=torch.Generator().manual_seed(0)).int()
    packed = six_bits(scales, offsets)
    assert packed.shape == (50, 12)
    assert all(map(torch.equal, from_six_bits(packed), (scales, offsets)))


def test_numbers_are_rounded_to_even_and_sums_run_forward():
    assert nearest(torch.tensor([-1.5, -0.5, 0.5, 1.5, 2.4, -2.6])).tolist() == [-2, 0, 0, 2, 2, -3]
    rows = torch.tensor([[1.0], [1e8], [-1e8], [1.0]])
    assert total(rows).item() == 1.0  # 1 + 1e8 loses the 1


def test_searches_find_grids_that_hold_every_value():
    codes = torch.arange(16.0).repeat(2).unsqueeze(1)
    ones = torch.ones(32, 1)
    scale, found = symmetric(0.25 * (codes - 8), ones, 8)
    assert scale.item() == 0.25 and torch.equal(found, codes)
    scale, offset, found = affine(0.25 * codes - 1, ones, 15, -0.9, 0.05, 36)
    assert scale.item() == pytest.approx(0.25) and offset.item() == pytest.approx(1) and torch.equal(found, codes)
    scale, found = positive(0.5 * codes, ones, 15)
    assert scale.item() == 0.5 and torch.equal(found, codes)


@pytest.mark.parametrize(
    "kind,columns,other",
    [
        ("q2_k", 576, "q4_0"),
        ("q3_k", 576, "q4_0"),
        ("iq4_xs", 576, "iq4_nl"),
        ("q4_k", 576, "q5_0"),
        ("q5_k", 1152, "q5_1"),
        ("q6_k", 1152, "q8_0"),
        ("q4_k", 4304, "f16"),
        ("q8_0", 4304, "f16"),
    ],
)
def test_what_a_type_cannot_hold_is_told_with_what_llama_cpp_takes(kind, columns, other):
    assert fallback(KINDS[kind], columns) == other
    message = f"{kind} holds rows in blocks of {KINDS[kind].block}.* divide {columns} columns.* as {other}"
    with pytest.raises(EdgelibError, match=message):
        gguf_encode(sample(2, columns), kind)
    with pytest.raises(EdgelibError, match=message):
        gguf_decode(torch.zeros(2, 16, dtype=torch.uint8), kind, columns)
    with pytest.raises(EdgelibError, match=message):
        fake_quantize(sample(2, columns), kind)


@pytest.mark.parametrize(
    "given,message",
    [
        (importance(128), r"importance is a tensor \[columns\].*\[256\], got \[128\]"),
        (importance(256).view(1, -1), r"got \[1, 256\]"),
        ([1.0] * 256, "got list"),
        (importance(256).index_fill(0, torch.tensor(7), -1.0), "importance of column 7 is -1"),
        (importance(256).index_fill(0, torch.tensor(7), torch.nan), "importance of column 7 is nan"),
        (importance(256).index_fill(0, torch.tensor(7), torch.inf), "importance of column 7 is inf"),
        (torch.zeros(256), "importance is 0 in every column.*importance=None"),
    ],
    ids=["length", "shape", "list", "negative", "nan", "inf", "zeros"],
)
def test_importance_that_means_nothing_is_refused(given, message):
    for kind in ("q4_k", "q8_0"):
        with pytest.raises(EdgelibError, match=message):
            gguf_encode(sample(2, 256), kind, given)


@pytest.mark.parametrize(
    "x,message",
    [
        ([[0.0] * 256], "only torch tensors.*got list"),
        (torch.zeros(2, 256, dtype=torch.int8), r"only floating tensors.*torch.int8.*\.float"),
        (torch.zeros(256), r"encodes a weight \[rows, columns\].*got \[256\]"),
        (torch.zeros(0, 256), r"not empty, got \[0, 256\]"),
        (torch.full((1, 256), torch.nan), "holds NaN or inf"),
        (torch.full((1, 256), -torch.inf), "holds NaN or inf"),
        (torch.full((1, 256), 1e300, dtype=torch.float64), "holds NaN or inf"),
        (torch.full((1, 256), 1e30), r"values up to 1e\+30 overflow the half-precision scales of q4_k"),
    ],
    ids=["list", "integers", "one axis", "empty", "nan", "inf", "too wide", "too large"],
)
def test_weights_that_cannot_be_encoded_are_refused(x, message):
    with pytest.raises(EdgelibError, match=message):
        gguf_encode(x, "q4_k")


@pytest.mark.parametrize("kind", KINDS)
def test_no_finite_weight_becomes_infinite_or_nan(kind):
    """Beyond the reach of a half-precision scale, and where sums of squares overflow, so that the scale would be NaN"""
    for largest in (1e12, 1e30, 3e38):
        with pytest.raises(EdgelibError, match=f"overflow the half-precision scales of {kind}"):
            gguf_encode(largest * torch.linspace(-1, 1, 256)[None], kind)


@pytest.mark.parametrize(
    "blocks,message",
    [
        (torch.zeros(2, 144), "uint8, got a tensor of torch.float32"),
        (b"0" * 144, "uint8, got bytes"),
        (torch.zeros(144, dtype=torch.uint8), r"256 columns of q4_k take 144 bytes.*\[rows, 144\], got \[144\]"),
        (torch.zeros(2, 143, dtype=torch.uint8), r"got \[2, 143\]"),
    ],
    ids=["dtype", "bytes", "one axis", "short"],
)
def test_blocks_of_another_shape_are_refused(blocks, message):
    with pytest.raises(EdgelibError, match=message):
        gguf_decode(blocks, "q4_k", 256)


def test_unknown_types_and_options_are_refused():
    with pytest.raises(EdgelibError, match="unknown GGUF type 'q4_m'.*did you mean 'q4_.*iq4_nl, iq4_xs"):
        gguf_encode(sample(2, 256), "q4_m")
    with pytest.raises(EdgelibError, match="unknown GGUF type 'f16'"):
        gguf_decode(torch.zeros(2, 144, dtype=torch.uint8), "f16", 256)
    with pytest.raises(EdgelibError, match="unknown number format 'q4_m'.*q4_k"):
        fake_quantize(sample(2, 256), "q4_m")
    with pytest.raises(EdgelibError, match="columns are a positive whole number, got 0"):
        gguf_decode(torch.zeros(2, 0, dtype=torch.uint8), "q4_k", 0)
    with pytest.raises(EdgelibError, match="int4 takes no importance; GGUF types such as q4_k do"):
        fake_quantize(sample(2, 256), "int4", importance=importance(256))
    with pytest.raises(EdgelibError, match="q4_k has blocks of 256, not 128"):
        fake_quantize(sample(2, 256), "q4_k", granularity=128)
    with pytest.raises(EdgelibError, match="q4_k has one grid"):
        fake_quantize(sample(2, 256), "q4_k", symmetric=False)
