"""GGUF types as schemes: models quantized, reported, packed into the bytes foretold, and loaded bit for bit."""

from __future__ import annotations

import pickle

import pytest
import torch
from torch import nn

import edgelib
from edgelib.errors import EdgelibError
from edgelib.files.pack import load_packed, save_packed
from edgelib.files.pack_file import WEIGHTS
from edgelib.formats.gguf.codec import KINDS, gguf_decode, gguf_encode
from edgelib.formats.table import FORMATS, decode, encode, fake_quantize
from edgelib.observe.calibrate import calibrate
from edgelib.quant.quantize import quantize
from edgelib.quant.scheme import scheme


class Twice(nn.Module):
    """Two layers of 256 inputs, so that every type can hold them."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Linear(256, 256), nn.Linear(256, 8)

    def forward(self, x):
        return self.second(torch.relu(self.first(x)))


def inputs(seed: int = 0) -> torch.Tensor:
    spread = torch.linspace(0.1, 3, 256)
    return torch.randn(64, 256, generator=torch.Generator().manual_seed(seed)) * spread


@pytest.mark.parametrize("kind", KINDS)
def test_a_value_like_any_other(kind):
    format = FORMATS[kind]
    assert pickle.loads(pickle.dumps(format)) == format and hash(format)
    x = torch.randn(4, 512, generator=torch.Generator().manual_seed(0))
    encoded = encode(x, kind)
    assert encoded.scale is None and torch.equal(encoded.codes, gguf_encode(x, kind))
    assert torch.equal(decode(encoded), fake_quantize(x, kind))
    assert torch.equal(format.round_rows(x), fake_quantize(x, kind))
    assert format.bits_per_element() == 8 * encoded.codes.shape[1] / 512


@pytest.mark.parametrize("kind", KINDS)
def test_schemes_have_its_name(kind):
    plain, weighed = scheme(kind), scheme(f"{kind}-imatrix")
    assert (plain.weight, plain.activation, plain.method, plain.needs) == (kind, "fp16", "minmax", frozenset())
    assert (weighed.name, weighed.needs) == (f"{kind}-imatrix", {"moments"})
    assert plain.name == kind and scheme(plain.to_dict()) == plain
    assert scheme(f"{kind}-w{FORMATS[kind].bits}a32").activation == "fp32"


@pytest.mark.parametrize("method", ["", "-imatrix"])
@pytest.mark.parametrize("kind", ["q4_0", "q8_0", "q3_k", "q4_k", "iq4_xs"])
def test_models_are_quantized_reported_and_packed_into_the_bytes_foretold(kind, method, tmp_path):
    model, name = Twice().eval(), kind + method
    quantized = quantize(model, name, [inputs()])
    report = edgelib.quantization_report(quantized)
    assert len(report) == 2 and not report["fallback"].any()
    seen = calibrate(model, [inputs()], needs=["moments"]).layers
    weights = seen["second"].square_mean.float() if method else None
    blocks = gguf_encode(model.second.weight, kind, weights)
    assert torch.equal(quantized.second.codes(), blocks)
    assert torch.equal(quantized.second.weight, gguf_decode(blocks, kind, 256))
    folder = save_packed(quantized, tmp_path / "packed")
    data = (folder / WEIGHTS).read_bytes()
    predicted = edgelib.packed_size(model, name)
    assert predicted == edgelib.packed_size(quantized)
    assert predicted["total"] == len(data) - 8 - int.from_bytes(data[:8], "little")  # without the header
    assert predicted["by_class"]["linear_weights"] == (256 + 8) * 256 * KINDS[kind].bytes / KINDS[kind].block
    loaded = load_packed(folder, like=model)
    assert torch.equal(loaded(inputs(2)), quantized(inputs(2)))
    assert all(torch.equal(a, b) for a, b in zip(loaded.buffers(), quantized.buffers(), strict=True))


def test_importance_of_calibration_lowers_the_error_of_outputs():
    model, x = Twice().eval(), inputs()
    exact = model.first(x)
    plain, weighed = (quantize(model, name, [x]).first for name in ("q2_k-w2a32", "q2_k-w2a32-imatrix"))
    assert (weighed(x) - exact).norm() < 0.95 * (plain(x) - exact).norm()


def test_inputs_that_are_always_zero_weigh_nothing():
    model = Twice().eval()
    dead = quantize(model, "q4_k-imatrix", [torch.zeros(2, 256)])
    assert torch.equal(dead.first.codes(), gguf_encode(model.first.weight, "q4_k"))


def test_losses_are_told_where_calibration_kept_what_that_takes():
    statistics = calibrate(Twice().eval(), [inputs()], needs=["moments", "hessian"])
    report = edgelib.quantization_report(quantize(Twice().eval(), "q3_k-imatrix", statistics))
    assert (report["loss"] < report["loss_rtn"]).all()  # which is that without importance


def test_a_layer_that_a_type_cannot_hold_is_named_with_what_llama_cpp_takes():
    model = nn.Sequential(nn.Linear(96, 8))
    for name in ("q4_k", "q4_k-imatrix"):
        with pytest.raises(
            EdgelibError, match="layer '0': q4_k holds rows in blocks of 256.*as q5_0; choose that type"
        ):
            quantize(model, name, [torch.randn(4, 96)])
    with pytest.raises(EdgelibError, match="q4_k holds rows in blocks of 256"):
        edgelib.packed_size(model, "q4_k")


@pytest.mark.parametrize("method", ["mse", "gptq", "awq", "smoothquant", "mbq"])
def test_methods_that_choose_ranges_do_not_go_with_it(method):
    with pytest.raises(EdgelibError, match=f"q4_k weights choose their codes by minmax or imatrix, not by {method}"):
        scheme(f"q4_k-{method}")


@pytest.mark.parametrize(
    "name,message",
    [
        ("q4_k-g32", "q4_k has blocks of 256 by definition"),
        ("q4_k-asym", "q4_k has one grid"),
        ("q4_k-rceil", "belongs to the mx formats"),
        ("q4_k-w4a8", "unknown numbers 'w4a8'.*q4_k-w4a16"),
    ],
)
def test_options_of_other_grids_are_refused(name, message):
    with pytest.raises(EdgelibError, match=message):
        scheme(name)
