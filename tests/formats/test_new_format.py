"""A number format is one file: what such a file would hold is usable everywhere once the table names it."""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import torch
from kv_models import llama, prompts
from networks import Block, inputs
from torch import Tensor

import edgelib
from edgelib.devices.device import UNITS, Device, reason_against, unit_of
from edgelib.errors import EdgelibError
from edgelib.files.pack import load_packed, save_packed
from edgelib.files.pack_file import WEIGHTS
from edgelib.formats.base import Format
from edgelib.formats.blocks import BlockGrid, shrunk
from edgelib.formats.floating import Minifloat, ScaledFloat
from edgelib.formats.microscaling import MX
from edgelib.formats.table import FORMATS, decode, encode, fake_quantize
from edgelib.kv.cache import kv_cache
from edgelib.kv.calibrate import calibrate_kv
from edgelib.kv.codec import PerToken, Static
from edgelib.kv.scheme import kv_scheme
from edgelib.quant.quantize import quantize
from edgelib.quant.scheme import scheme


@dataclass(frozen=True)
class Logarithmic(Format):
    """A sign and 4 bits of a logarithm: 0, or scale * 2**(-k / 2) for k from 14 down to 0 (Miyashita et al. 2016)."""

    name: str = "log5"
    bits = 5
    storage = torch.uint8
    qmax = 1.0
    cache_name = "log5"

    def fit(self, blocks: Tensor, shrink: float | Tensor = 1.0) -> BlockGrid:
        amax = shrunk(blocks.abs().amax(-1, keepdim=True), shrink)
        return BlockGrid(amax.clamp(min=torch.finfo(blocks.dtype).tiny))

    def encode(self, blocks: Tensor, grid: BlockGrid) -> Tensor:
        values = blocks / grid.scale
        magnitude = (15 + 2 * values.abs().log2()).round().clamp(0, 15).to(torch.uint8)
        return magnitude + 16 * (values < 0).to(torch.uint8)

    def decode(self, codes: Tensor, grid: BlockGrid) -> Tensor:
        magnitude = (codes & 15).to(grid.scale)
        values = torch.where(magnitude > 0, torch.exp2((magnitude - 15) / 2), 0.0)
        return torch.where(codes > 15, -values, values) * grid.scale


# a format of a kind that the library has is one line: the 6-bit float of the MX specification, on a scale
E3M2 = ScaledFloat("fp6_e3m2", 6, Minifloat(2, -2, 28.0, torch.uint8), word="fp6", cache_name="e3m2")
NEW = {"fp6": E3M2, "log5": Logarithmic()}


@pytest.fixture(params=NEW)
def new(request, monkeypatch):
    """The format in the table, and its word in scheme names."""
    format = NEW[request.param]
    monkeypatch.setitem(FORMATS, format.name, format)
    return SimpleNamespace(format=format, word=request.param, name=format.name, cache=format.cache_name)


def sample(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def test_e3m2_is_the_float_of_the_specification():
    element = E3M2.element
    assert element.magnitudes[:9] == [0, 0.0625, 0.125, 0.1875, 0.25, 0.3125, 0.375, 0.4375, 0.5]
    assert element.magnitudes[-5:] == [14.0, 16.0, 20.0, 24.0, 28.0] and len(element.magnitudes) == 32


def test_a_value_like_any_other(new):
    assert pickle.loads(pickle.dumps(new.format)) == new.format and hash(new.format)
    with pytest.raises(AttributeError):
        new.format.name = "other"


@pytest.mark.parametrize("granularity", ["tensor", "channel", 16], ids=str)
def test_fake_quantize_takes_it_by_name(new, granularity):
    x = sample(6, 64)
    once = fake_quantize(x, new.name, granularity=granularity)
    assert torch.allclose(fake_quantize(once, new.name, granularity=granularity), once)
    assert torch.equal(once, decode(encode(x, new.name, granularity)))
    assert len(once.unique()) <= 2**new.format.bits * once.numel() // (16 if granularity == 16 else 64)
    assert 0 < float((once - x).norm() / x.norm()) < 0.2


def test_activations_are_rounded_by_rows_and_on_static_scales(new):
    x = sample(3, 5, 48)
    assert torch.equal(new.format.round_rows(x), fake_quantize(x, new.name, granularity="token"))
    scale = x.abs().amax() / new.format.qmax
    assert torch.equal(new.format.round_static(x, scale), fake_quantize(x, new.name))
    assert new.format.round_static(10 * x, scale).abs().max() == x.abs().max()


def test_schemes_have_its_word(new):
    bits = new.format.bits
    both, weights = scheme(new.word), scheme(f"{new.word}-w{bits}a16")
    assert (both.weight, both.activation) == (new.name, new.name)
    assert (weights.weight, weights.activation) == (new.name, "fp16")
    assert both.label == f"{new.word.upper()} W{bits}A{bits}" and scheme(both.name) == both
    for name in (f"{new.word}-w{bits}a32", f"{new.word}-gptq-g4", f"{new.word}-awq-static", f"{new.word}-smoothquant"):
        assert scheme(name).name == name and scheme(scheme(name).to_dict()) == scheme(name)
    with pytest.raises(EdgelibError, match=f"unknown numbers 'w4a7'.*{new.word}-w{bits}a{bits}, {new.word}-w{bits}a16"):
        scheme(f"{new.word}-w4a7")
    with pytest.raises(EdgelibError, match="belongs to the mx formats"):
        scheme(f"{new.word}-rceil")


@pytest.mark.parametrize("rest", ["", "-a16-g4", "-static", "-awq", "-gptq-mse"])
def test_models_are_quantized_reported_and_packed_into_the_bytes_foretold(new, rest, tmp_path):
    name = new.word + rest.replace("-a16", f"-w{new.format.bits}a16")
    block = Block().eval()
    quantized = quantize(block, name, [inputs()])
    report = edgelib.quantization_report(quantized)
    assert len(report) == 6 and not report["fallback"].any()
    exact = block(inputs(2)).detach()
    away = float((quantized(inputs(2)).detach() - exact).norm() / exact.norm())
    assert 0 < away < 0.2
    folder = save_packed(quantized, tmp_path / "packed")
    data = (folder / WEIGHTS).read_bytes()
    predicted = edgelib.packed_size(block, name)
    assert predicted == edgelib.packed_size(quantized)
    assert predicted["total"] == len(data) - 8 - int.from_bytes(data[:8], "little")  # without the header
    assert predicted["by_class"]["linear_weights"] == 8 * 4 * new.format.bits + 16 * 2 * new.format.bits
    loaded = load_packed(folder, like=block)
    assert torch.equal(loaded(inputs(2)), quantized(inputs(2)))
    assert all(torch.equal(a, b) for a, b in zip(loaded.buffers(), quantized.buffers(), strict=True))


def test_blocks_of_another_float_are_one_line(monkeypatch, tmp_path):
    monkeypatch.setitem(FORMATS, "mxfp6", MX("mxfp6", 6, E3M2.element))
    x = sample(6, 40)
    assert torch.equal(fake_quantize(x, "mxfp6"), decode(encode(x, "mxfp6")))
    assert torch.equal(FORMATS["mxfp6"].round_rows(x), fake_quantize(x, "mxfp6"))
    assert FORMATS["mxfp6"].bits_per_element() == 6.25 and scheme("mxfp6-rceil").label == "MXFP6 W6A6, scales by rceil"
    block = Block().eval()
    quantized = quantize(block, "mxfp6-even")
    loaded = load_packed(save_packed(quantized, tmp_path / "packed"), like=block)
    assert torch.equal(loaded(inputs(2)), quantized(inputs(2)))
    classes = edgelib.packed_size(block, "mxfp6")["by_class"]
    assert (classes["linear_weights"], classes["scales"]) == (8 * 4 * 6 + 16 * 2 * 6, 4 * 8 + 16 + 8)
    with pytest.raises(EdgelibError, match="mxfp6 has blocks of 32 by definition"):
        scheme("mxfp6-g8")
    with pytest.raises(EdgelibError, match="static activations need .* got 'mxfp6'"):
        scheme("mxfp6-static")


@pytest.mark.parametrize("scale", ["one", "amax", "head", "channel", "token-g8", "amax-mean-konly"])
def test_caches_hold_it(new, scale):
    model = llama()
    statistics = calibrate_kv(model, [prompts(model, seed=5)])
    plan, asked = kv_cache(model, f"{new.cache}-{scale}", statistics), prompts(model)
    cache = plan()
    with torch.no_grad():
        exact = model(**asked).logits
        rounded = model(**asked, past_key_values=cache).logits
        assert 0 < float((rounded - exact).norm() / exact.norm()) < (1 if scale == "one" else 0.3)
    assert cache.nbytes == asked["input_ids"].numel() * plan.bytes_per_token
    assert kv_scheme(plan.scheme.name) == plan.scheme and new.cache.upper() in plan.scheme.label


def test_codes_of_a_cache_are_those_of_the_format(new):
    x, scale = sample(2, 3, 5, 16), torch.tensor([0.3])
    codec = Static(new.format, scale, scale)
    parts = codec.encode(x.clone())
    assert [part.shape for part in parts] == [(2, 3, 5, 2 * new.format.bits)]
    expected = new.format.snap(x, BlockGrid(scale))
    assert torch.allclose(codec.decode(parts, x.dtype), expected, rtol=1e-6)
    each = PerToken(new.format, 8)
    values = each.decode(each.encode(x), x.dtype)
    assert float((values - x).norm() / x.norm()) < 0.2


def test_devices_ask_it_for_the_unit_that_computes_with_it(new):
    board = Device("board", "a board", "none", rates={"fp16": 10.0, "fp8": 20.0})
    assert reason_against(board, *scheme(new.word).units) is None
    assert unit_of(*scheme(new.word).units) == new.format.unit
    assert unit_of(*scheme(f"{new.word}-w{new.format.bits}a16").units) == "fp16"


@pytest.mark.parametrize("name", FORMATS)
def test_the_units_that_formats_name_are_those_of_the_devices(name):
    assert UNITS[name] == FORMATS[name].unit


def test_what_it_is_not_made_for_is_refused_by_name(new):
    with pytest.raises(EdgelibError, match=f"kivi is made of integers.*choose int4, int8, got {new.name}"):
        kv_scheme(f"{new.cache}-kivi")
    with pytest.raises(
        EdgelibError, match="6-bit codes are packed in groups of 4|5-bit codes are packed in groups of 8"
    ):
        kv_scheme(new.cache).bits_per_element(18)


def test_without_the_table_nobody_knows_it():
    with pytest.raises(EdgelibError, match="unknown number format 'log5'"):
        fake_quantize(sample(2, 8), "log5")
    with pytest.raises(EdgelibError, match="unknown scheme 'fp6'"):
        scheme("fp6")
