"""Mixed precision end to end: layers keep to their own scheme, and what a layer alone costs is what it says."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from edgelib import dataset, load, quantize
from edgelib.errors import EdgelibError
from edgelib.files.size import packed_size
from edgelib.infer.sensitivity import class_logits, layer_sensitivity
from edgelib.observe.distance import divergence
from edgelib.quant.linear import QuantLinear
from edgelib.quant.mixed import quantize_mixed


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.c = (nn.Linear(32, 32) for _ in range(3))

    def forward(self, x):
        return self.c(self.b(self.a(x)))


@pytest.fixture(scope="module")
def model():
    return Small().eval()


def test_each_layer_follows_its_own_scheme(model):
    before = {name: p.clone() for name, p in model.named_parameters()}
    mixed = quantize_mixed(model, {"a": "w8a8-minmax", "b": "w4a8-minmax-g16", "c": "fp32"})
    assert (mixed.a.format.name, mixed.b.format.name, type(mixed.c)) == ("int8", "int4", nn.Linear)
    assert torch.equal(mixed.a.weight, quantize(model, "w8a8-minmax").a.weight)
    assert torch.equal(mixed.b.weight, quantize(model, "w4a8-minmax-g16").b.weight)
    assert all(torch.equal(before[name], p) for name, p in model.named_parameters())


def test_one_scheme_for_all_layers_is_that_scheme(model):
    x = torch.randn(5, 32)
    mixed = quantize_mixed(model, dict.fromkeys("abc", "w4a8-minmax"))
    assert torch.equal(mixed(x), quantize(model, "w4a8-minmax")(x))
    assert packed_size(mixed) == packed_size(model, "w4a8-minmax")
    assert not any(isinstance(m, QuantLinear) for m in quantize_mixed(model, {}).modules())


def test_a_layer_with_two_names_is_replaced_under_both():
    shared = nn.ModuleDict({"a": nn.Linear(8, 8), "b": nn.Linear(8, 8)})
    shared["again"] = shared["a"]
    mixed = quantize_mixed(shared, {"a": "w8a8-minmax", "b": "w4a8-minmax"})
    assert mixed["again"] is mixed["a"] and isinstance(mixed["a"], QuantLinear)
    assert mixed["b"].format.name == "int4" and isinstance(shared["again"], nn.Linear)


@given(st.lists(st.lists(st.floats(-20, 20), min_size=3, max_size=3), min_size=2, max_size=2))
def test_divergence_is_zero_for_equals_and_never_negative(rows):
    p, q = torch.tensor(rows, dtype=torch.float64).log_softmax(-1).split(1)
    expected = torch.nn.functional.kl_div(q, p.exp(), reduction="sum")
    assert float(divergence(p, p)) == 0 and float(divergence(p, q)) >= 0
    assert float(divergence(p, q)) == pytest.approx(max(0.0, float(expected)), abs=1e-9)


def test_a_class_that_the_reference_rules_out_adds_nothing():
    p, q = torch.tensor([[-torch.inf, 0.0]]), torch.tensor([[-torch.inf, 0.0]])
    assert float(divergence(p, q)) == 0 and float(divergence(torch.zeros(1, 1), p[:, :1])) == torch.inf


@pytest.fixture(scope="module")
def clip():
    return load("scenes-clip")


def test_sensitivity_is_what_quantizing_the_layer_alone_does(clip):
    data = dataset("scenes", n=6)
    losses, sizes = layer_sensitivity(clip, ["w2a8-minmax", "w8a8-minmax", "fp32"], data, progress=False)
    assert (losses["fp32"] == 0).all() and losses.shape == sizes.shape and (losses >= 0).all(axis=None)
    assert losses["w2a8-minmax"].sum() > losses["w8a8-minmax"].sum()
    layer = losses["w2a8-minmax"].idxmax()
    images = [next(data.batches(6))[1]]
    whole, alone = (
        class_logits(m, images, data.class_names, "simple").log_softmax(-1)
        for m in (clip, quantize_mixed(clip, {layer: "w2a8-minmax"}))
    )
    assert losses.at[layer, "w2a8-minmax"] == pytest.approx(float(divergence(whole, alone).mean()), rel=1e-4)
    # all layers at 8 bits: what the packed file saves is what the layers say they save
    saved = (sizes["fp32"] - sizes["w8a8-minmax"]).sum()
    assert saved == packed_size(clip)["total"] - packed_size(clip, "w8a8-minmax")["total"]


BAD = {
    "unknown layer": (lambda m: quantize_mixed(m, {"aa": "w8a8-minmax"}), "unknown layer 'aa'"),
    "moves scales": (lambda m: quantize_mixed(m, {"a": "w4a8-awq"}), "acts on more than the layer"),
    "casts": (lambda m: quantize_mixed(m, {"a": "fp16"}), "acts on more than the layer"),
    "no calibration": (lambda m: quantize_mixed(m, {"a": "w4a8-gptq"}), "needs a calibration set"),
    "sensitivity of gptq": (lambda m: layer_sensitivity(m, ["w4a8-gptq"], None), "needs calibration"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_named(model, case):
    run, words = BAD[case]
    with pytest.raises(EdgelibError, match=words):
        run(model)
