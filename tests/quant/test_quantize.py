"""Quantized copies: exact formulas, an untouched baseline, exact migration, and refusals."""

from __future__ import annotations

import copy
import warnings
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
import transformers
import vlm_folders
from networks import Block, Images, Model, Waves, inputs
from torch import nn

from edgelib import dataset, load
from edgelib.errors import EdgelibError
from edgelib.formats.table import FORMATS, fake_quantize
from edgelib.ground.modules import converted
from edgelib.infer.generate import generate
from edgelib.observe.calibrate import calibrate
from edgelib.quant.folding import fold, places
from edgelib.quant.quantize import QuantLinear, quantize, shared_copy
from edgelib.quant.report import parameter_report, quantization_report
from edgelib.quant.scheme import needs_of, scheme

SCHEMES = [
    "fp32",
    "fp16",
    "bf16",
    "w8a8-minmax",
    "w8a8-smoothquant",
    "w4a8-minmax-g8",
    "w3a8-minmax",
    "w8a8-minmax-static",
    "w4a8-mse",
    "w4a8-imatrix-g4",
    "w8a8-smoothquant-search",
    "w4a8-awq",
    "w4a8-awq-fixed",
    "w4a16-awq-g8",
    "w4a16-gptq-g8-mse",
    "w3a8-mbq",
    "fp8",
    "nvfp4-awq",
    "mxfp4-gptq",
]
FORMULAS = {
    "w8a8-minmax": ("int8", "channel", "int8"),
    "w4a8-minmax": ("int4", "channel", "int8"),
    "w3a16-minmax": ("int3", "channel", "fp16"),
    "w2a32-minmax": ("int2", "channel", "fp32"),
    "w4a4-minmax-g4": ("int4", 4, "int4"),
    "fp8": ("fp8_e4m3", "channel", "fp8_e4m3"),
    "fp8-e5m2-w8a16": ("fp8_e5m2", "channel", "fp16"),
    "nvfp4": ("nvfp4", "tensor", "nvfp4"),
    "nvfp4-w4a8": ("nvfp4", "tensor", "fp8_e4m3"),
    "mxfp4-w4a8": ("mxfp4", "tensor", "mxfp8"),
}


@pytest.fixture
def block():
    torch.manual_seed(0)
    return Block().eval()


def with_outliers(block: Block, factor: float = 64.0) -> Block:
    """Scale one channel of each norm up and the readers' columns down: same function, outlying activations."""
    planted = copy.deepcopy(block)
    with torch.no_grad():
        for norm, readers in ((planted.norm1, (planted.q, planted.k, planted.v)), (planted.norm2, (planted.fc1,))):
            norm.weight[3] *= factor
            norm.bias[3] *= factor
            for reader in readers:
                reader.weight[:, 3] /= factor
    return planted


@pytest.mark.parametrize("name", FORMULAS)
def test_a_quantized_layer_is_the_written_formula(name):
    weight, granularity, activation = FORMULAS[name]
    linear, x = nn.Linear(8, 6), inputs()
    layer = quantize(linear, name)
    expected = F.linear(
        fake_quantize(x, activation, granularity="token"),
        fake_quantize(linear.weight.detach(), weight, granularity=granularity),
        linear.bias,
    )
    assert isinstance(layer, QuantLinear) and torch.equal(layer(x), expected)


@pytest.mark.parametrize("activation", ["int8", "fp8_e4m3", "nvfp4"])
def test_static_activations_span_what_calibration_saw(activation):
    weight = {"int8": "int8", "fp8_e4m3": "fp8_e4m3", "nvfp4": "nvfp4"}[activation]
    spec = {"weight": weight, "activation": activation, "activation_granularity": "tensor"}
    torch.manual_seed(0)
    linear, x = nn.Linear(32, 6), torch.randn(9, 32)
    layer = quantize(linear, spec, [x])
    assert float(layer.input_scale) == pytest.approx(float(x.abs().max()) / FORMATS[activation].qmax)
    assert F.cosine_similarity(layer(x), linear(x)).min() > 0.95


def test_static_activations_use_the_largest_calibrated_value():
    linear, x = nn.Linear(8, 6), inputs()
    layer = quantize(linear, "w8a8-minmax-static", [x])
    weight = fake_quantize(linear.weight.detach(), "int8", granularity="channel")
    assert torch.allclose(layer(x), F.linear(fake_quantize(x, "int8"), weight, linear.bias))
    assert torch.equal(layer(torch.full((8,), 1e3)), layer(torch.full((8,), 1e6)))


@pytest.mark.parametrize("activation", ["int8", "fp8_e4m3"])
def test_static_activations_may_span_a_percentile(activation):
    spec = {"weight": activation, "activation": activation, "activation_granularity": "tensor"}
    linear, x = nn.Linear(4, 6), torch.arange(1.0, 1001).view(250, 4)
    layer, qmax = quantize(linear, spec | {"percentile": 99}, [x]), FORMATS[activation].qmax
    assert float(layer.input_scale) == pytest.approx(990 / qmax, rel=1 / 256)
    assert torch.equal(layer(x), layer(x.clamp(max=float(layer.input_scale) * qmax)))
    assert float(quantize(linear, spec, [x]).input_scale) == pytest.approx(1000 / qmax)


def test_codes_and_scale_rebuild_the_weight(block):
    for layer in quantize(block, "w4a8-minmax-g4").modules():
        if isinstance(layer, QuantLinear):
            codes = layer.codes()
            assert codes.dtype == torch.int8 and codes.abs().max() <= 7
            assert torch.equal(
                (codes.view(*layer.scale.shape, -1) * layer.scale[..., None]).view_as(layer.weight), layer.weight
            )


@pytest.mark.parametrize("name", SCHEMES)
def test_the_baseline_stays_bit_for_bit(block, name):
    before, output = copy.deepcopy(block.state_dict()), block(inputs())
    copied = quantize(block, name, [inputs()])
    copied(inputs())
    copied.to(torch.float64)
    assert copied is not block
    assert all(torch.equal(value, before[key]) for key, value in block.state_dict().items())
    assert torch.equal(block(inputs()), output) and block.norm1.weight.dtype == torch.float32


def test_what_is_not_rounded_shares_its_memory(block):
    copied = quantize(block, "w8a8-minmax")
    assert copied.norm1.weight is not block.norm1.weight
    assert copied.norm1.weight.data_ptr() == block.norm1.weight.data_ptr()
    assert copied.q.bias.data_ptr() == block.q.bias.data_ptr()
    assert copied.q.weight.data_ptr() != block.q.weight.data_ptr()


def test_buffers_are_copied():
    norm = nn.BatchNorm1d(4)
    copied = shared_copy(norm)
    copied(torch.randn(8, 4))
    assert torch.equal(norm.running_mean, torch.zeros(4)) and norm.weight.data_ptr() == copied.weight.data_ptr()


@pytest.mark.parametrize("name", [n for n in SCHEMES if n != "fp32"])
def test_an_item_does_not_see_its_batch(block, name):
    # float64 makes the matmul's own dependence on the batch size too small to move a rounded activation
    copied, x = quantize(block.double(), name, [inputs().double()]), inputs().double()
    alone = torch.cat([copied(item[None]) for item in x])
    assert torch.allclose(copied(x), alone, rtol=1e-9, atol=1e-9)


def test_fp32_is_an_equal_copy(block):
    assert torch.equal(quantize(block, "fp32")(inputs()), block(inputs()))


@torch.no_grad()
def test_more_bits_come_closer_to_the_baseline(block):
    reference = block(inputs())
    names = ["w2a8-minmax", "w3a8-minmax", "w4a8-minmax", "w8a8-minmax", "fp16"]
    errors = [float((quantize(block, n)(inputs()) - reference).square().mean()) for n in names]
    assert errors == sorted(errors, reverse=True) and errors[-1] < 1e-6


@pytest.mark.parametrize("name,dtype", [("fp16", torch.float16), ("bf16", torch.bfloat16)])
def test_sixteen_bit_schemes_round_every_parameter_and_input(block, name, dtype):
    copied = quantize(block, name)
    for key, value in copied.state_dict().items():
        assert value.dtype == torch.float32 and torch.equal(value, value.to(dtype).float()), key
    x = inputs()
    assert torch.equal(copied.q(x), F.linear(x.to(dtype).float(), copied.q.weight, copied.q.bias))


def test_what_a_constructor_computes_is_not_rounded():
    waves = Waves()
    copied = quantize(waves, "bf16")
    assert torch.equal(copied.inv_freq, waves.inv_freq)
    assert torch.equal(copied.mean, waves.mean.bfloat16().float()) and not torch.equal(copied.mean, waves.mean)


def test_a_conversion_leaves_rotary_frequencies_alone():
    waves = converted(Waves(), torch.bfloat16)
    assert waves.fc.weight.dtype == waves.mean.dtype == torch.bfloat16
    assert torch.equal(waves.inv_freq, Waves().inv_freq) and waves.table is None


@pytest.mark.parametrize("name", ["w8a8-minmax", "w8a8-awq", "w8a8-gptq", "w8a8-smoothquant-search"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_models_work(block, dtype, name):
    x, reference = inputs(), block(inputs())
    copied = quantize(block.to(dtype), name, [x.to(dtype)])
    assert copied(x.to(dtype)).dtype == dtype and copied.q.codes().abs().amax() == 127
    assert F.cosine_similarity(copied(x.to(dtype)).float(), reference, dim=-1).min() > 0.99


def test_gradients_may_be_enabled(block):
    x = inputs().requires_grad_()
    assert quantize(block, "w8a8-minmax")(x).shape == x.shape


@pytest.mark.parametrize("name", ["w8a8-smoothquant", "w8a8-smoothquant-search", "w3a8-awq", "w3a16-awq-channel"])
def test_a_migration_without_rounding_keeps_the_function(block, name):
    planted, x = with_outliers(block).double(), inputs().double()
    # attention mixes the tokens of v channel by channel, so its rows can absorb the scales of out
    seen = replace(calibrate(planted, [x], needs=scheme(name).needs), fed_by_value={"out": "v"})
    moved = shared_copy(planted)
    layers = dict(moved.named_modules())
    where = places(scheme(name), ["q", "k", "v", "out", "fc1", "fc2"], seen)
    for absorber, readers in where:
        migration = fold(layers, absorber, readers, scheme(name), seen)
        for reader in readers:
            layers[reader].weight.data = layers[reader].weight * migration.scales
    assert dict(where) == {"norm1": ("q", "k", "v"), "norm2": ("fc1",)} | ({"v": ("out",)} if "awq" in name else {})
    assert not torch.allclose(moved.norm1.weight, planted.norm1.weight)
    assert torch.allclose(moved(x), planted(x), rtol=1e-10, atol=1e-10)


@torch.no_grad()
def test_smoothing_helps_where_outliers_were_planted(block):
    planted, x = with_outliers(block), inputs()
    reference = planted(x)
    error = {
        n: float((quantize(planted, n, [x])(x) - reference).square().mean())
        for n in ("w8a8-minmax", "w8a8-smoothquant")
    }
    assert error["w8a8-smoothquant"] < 0.2 * error["w8a8-minmax"]


def test_a_norm_is_only_folded_when_all_its_readers_are_targets(block):
    statistics = calibrate(block, [inputs()])
    copied = quantize(block, {"preset": "w8a8-smoothquant", "exclude": ["v"]}, statistics)
    assert torch.equal(copied.norm1.weight, block.norm1.weight) and isinstance(copied.v, nn.Linear)
    assert not torch.equal(copied.norm2.weight, block.norm2.weight)


def test_one_pass_serves_several_schemes(block):
    statistics = calibrate(block, [inputs()])
    for name in ("w8a8-smoothquant", "w8a8-minmax-static"):
        assert torch.equal(quantize(block, name, statistics)(inputs()), quantize(block, name, [inputs()])(inputs()))


def test_one_pass_serves_every_method(block):
    names = [n for n in SCHEMES if scheme(n).method != "cast"]
    statistics = calibrate(block, [inputs()], needs=needs_of(names))
    for name in names:
        alone = quantize(block, name, [inputs()])
        together = quantize(block, name, statistics)
        assert all(torch.equal(a, b) for a, b in zip(alone.buffers(), together.buffers(), strict=True)), name


def test_statistics_survive_their_use(block):
    statistics = calibrate(block, [inputs()], needs=("rows", "hessian"))
    before = copy.deepcopy(statistics.layers)
    for name in SCHEMES:
        quantize(block, name, statistics)
    for name, seen in statistics.layers.items():
        for part in ("abs_max", "abs_mean", "square_mean", "rows", "hessian"):
            assert torch.equal(getattr(seen, part), getattr(before[name], part))


@pytest.mark.parametrize("name", ["w3a8-awq", "w3a16-awq-channel", "w3a16-gptq-channel", "w8a8-smoothquant-search"])
def test_the_report_shows_what_was_decided_and_gained(block, name):
    report = quantization_report(quantize(with_outliers(block, 16), name, [inputs()]))
    assert list(report["layer"]) == ["q", "k", "v", "out", "fc1", "fc2"]
    assert (report["method"] == scheme(name).method).all() and (report["fallback"] == "").all()
    assert (report["loss"] <= report["loss_rtn"] * 1.001).sum() >= 5 and (report["loss"] < 1).all()
    assert report["loss"].sum() < 0.9 * report["loss_rtn"].sum()
    migrated = report["ratio"].notna()
    assert not migrated[5] and migrated[4] == (name != "w3a16-gptq-channel")
    assert report.loc[:2, "ratio"].nunique(dropna=False) == 1, "q, k and v read one norm"
    assert (report["damping"].notna() == (scheme(name).method == "gptq")).all()


@torch.no_grad()
def test_a_loss_never_leaves_out_the_rounding_of_inputs(block):
    report = quantization_report(quantize(block, "w4a4-gptq", [inputs()]))
    assert report[["loss", "loss_rtn"]].isna().all(axis=None), "gptq needs no rows by itself"
    seen = calibrate(block, [inputs()], needs=("hessian", "rows"))
    report = quantization_report(quantize(block, "w4a4-gptq", seen))
    x, layer = seen.layers["q"].rows, quantize(block.q, "w4a4-minmax")
    error = (layer(x) - block.q(x)).square().sum() / (x @ block.q.weight.T).square().sum()
    assert report["loss_rtn"][0] == pytest.approx(float(error), rel=1e-4)


@pytest.mark.parametrize("name", ["w4a8-minmax", "w4a16-mse-channel", "nvfp4"])
def test_statistics_at_hand_tell_the_losses_of_schemes_that_need_none(block, name):
    block.spare = nn.Linear(8, 8)
    seen = calibrate(block, [inputs()], needs=("rows", "hessian"))
    told, plain = quantize(block, name, seen), quantize(block, name)
    assert all(torch.equal(a, b) for a, b in zip(told.buffers(), plain.buffers(), strict=True))
    report = quantization_report(told).set_index("layer")
    assert (report["loss"] > 0).sum() == 6 and report.loc["spare", ["loss", "loss_rtn"]].isna().all()
    assert (report["fallback"] == "").all()
    untold = quantization_report(quantize(block, name, seen, losses=False))
    assert untold["loss"].isna().all() and quantization_report(plain)["loss"].isna().all()


@pytest.mark.parametrize("name", ["w8a8-minmax-static", "w4a16-gptq-g8", "w4a8-awq"])
def test_linears_that_share_a_weight_are_quantized_alike(name):
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8))
    model[2].weight = model[0].weight
    copied = quantize(model, name, [inputs()])
    assert torch.equal(copied[0].weight, copied[2].weight) and isinstance(copied[0], QuantLinear)


def test_the_report_is_of_a_quantized_model(block):
    report = quantization_report(quantize(block, "w4a8-minmax"))
    assert report[["ratio", "loss", "loss_rtn"]].isna().all(axis=None)
    with pytest.raises(EdgelibError, match="no quantized layer"):
        quantization_report(block)


def test_an_output_projection_takes_scales_that_the_value_projection_absorbs(block):
    planted, x = copy.deepcopy(block), inputs()
    with torch.no_grad():
        planted.v.weight[3] *= 64
        planted.v.bias[3] *= 64
        planted.out.weight[:, 3] /= 64
    statistics = calibrate(planted, [x], needs=("rows",))
    pair = replace(statistics, fed_by_value={"out": "v"})
    loss = {
        key: quantization_report(quantize(planted, "w3a8-awq-noclip", seen)).set_index("layer").loc["out", "loss"]
        for key, seen in {"alone": replace(statistics, fed_by_value={}), "pair": pair}.items()
    }
    assert loss["pair"] < 0.5 * loss["alone"]
    kept = quantize(planted, {"preset": "w3a8-awq-noclip", "exclude": ["v"]}, pair)
    assert torch.equal(kept.v.weight, planted.v.weight)


def test_a_channel_that_calibration_never_saw_active_keeps_its_precision(block):
    x = inputs()
    x[..., 2] = 0
    linear = nn.Linear(8, 4)
    for name in ("w8a8-awq", "w8a16-gptq", "w8a8-imatrix"):
        copied = quantize(linear, name, [x])
        awake = inputs()
        assert F.cosine_similarity(copied(awake), linear(awake), dim=-1).min() > 0.99, name


@pytest.mark.parametrize("name", ["w4a8-awq", "w4a16-gptq-g8", "w4a8-imatrix", "w8a8-smoothquant-search"])
@pytest.mark.parametrize("case", ["one row", "constant"])
def test_poor_calibration_sets_work(block, name, case):
    x = inputs(1)[:, :1] if case == "one row" else torch.ones(4, 5, 8)
    assert torch.isfinite(quantize(block, name, [x])(inputs())).all()


def test_targets_choose_the_layers(block):
    copied = quantize(block, {"preset": "w4a8-minmax", "targets": ["fc*"], "exclude": ["fc2"]})
    assert [n for n, layer in copied.named_modules() if isinstance(layer, QuantLinear)] == ["fc1"]


def test_a_layer_with_two_names_is_replaced_under_both():
    model = nn.ModuleDict({"a": nn.Linear(4, 4)})
    model["b"] = model["a"]
    copied = quantize(model, "w8a8-minmax")
    assert copied["a"] is copied["b"] and isinstance(copied["a"], QuantLinear)


def test_a_wrapped_model_comes_back_wrapped(block):
    class Wrapped(Model):
        def with_module(self, module):
            return Wrapped(module)

    model = Wrapped(block)
    result = quantize(model, "w8a8-smoothquant", Images(inputs()))
    assert isinstance(result, Wrapped) and model.module is block and isinstance(result.module.q, QuantLinear)


def broken(block, name="fc1", value=float("nan")):
    with torch.no_grad():
        block.get_submodule(name).weight[0, 0] = value
    return block


def packed_attention(**options):
    return nn.ModuleDict({"attention": nn.MultiheadAttention(8, 2, **options), "head": nn.Linear(8, 2)})


class Stacked(nn.Module):
    """Two matrices in one parameter, which a forward of its own reads."""

    def __init__(self):
        super().__init__()
        self.stack, self.out = nn.Parameter(torch.randn(2, 8, 8)), nn.Linear(8, 8)

    def forward(self, x):
        return self.out(x @ self.stack[0] + x @ self.stack[1])


def stacked():
    return nn.ModuleDict(
        {"block": nn.ModuleDict({"experts": Stacked(), "fc": nn.Linear(8, 8)}), "head": nn.Linear(8, 2)}
    )


ERRORS = {
    "scheme": (lambda b: quantize(b, "w8a8-minmx"), "did you mean 'minmax'"),
    "nan weight": (lambda b: quantize(broken(b), "w8a8-minmax"), "'fc1.weight' holds NaN or inf"),
    "inf norm": (lambda b: quantize(broken(b, "out", float("inf")), "fp16"), "'out.weight' holds NaN or inf"),
    "fp16 overflow": (
        lambda b: quantize(broken(b, "fc2", 1e6), "fp16"),
        "'fc2.weight' does not fit into fp16.*1e\\+06",
    ),
    "no calibration": (lambda b: quantize(b, "w8a8-smoothquant"), "needs a calibration set"),
    "empty calibration": (lambda b: quantize(b, "w8a8-smoothquant", []), "calibration set is empty"),
    "pattern": (lambda b: quantize(b, {"targets": ["fc3"]}), "'fc3' matches none of the 6 Linear.*such as q"),
    "nothing left": (lambda b: quantize(b, {"exclude": ["*"]}), "leaves no Linear"),
    "no linears": (lambda b: quantize(nn.Sequential(nn.ReLU()), "w8a8-minmax"), "no nn.Linear"),
    "twice": (lambda b: quantize(quantize(b, "w8a8-minmax"), "w4a8-minmax"), "already quantized"),
    "group size": (lambda b: quantize(b, "w4a8-minmax-g5"), "layer 'q'.*groups of 5 do not divide.*exclude"),
    "packed": (
        lambda b: quantize(packed_attention(add_bias_kv=True), "w8a8-minmax"),
        r"attention .1 in all. hold \d+.\d% of the bytes.*would stay in floating point.*\"exclude\": \['attention'\]",
    ),
    "not a model": (lambda b: quantize("scenes-clip", "w8a8-minmax"), "got str"),
    "group size of a search": (lambda b: quantize(b, "w4a8-awq-g5", [inputs()]), "layer 'q'.*groups of 5 do not"),
    "lacking rows": (
        lambda b: quantize(b, "w4a8-awq", calibrate(b, [inputs()])),
        "'w4a8-awq' needs rows of layer 'q'.*calibrate.*needs=.*'rows'",
    ),
    "lacking hessian": (
        lambda b: quantize(b, "w4a8-gptq", calibrate(b, [inputs()], needs="rows")),
        "needs hessian of layer 'q'",
    ),
    "nan input": (lambda b: quantize(b, "w4a8-awq", [inputs() * float("nan")]), "layer 'q' hold NaN or inf"),
    "other model": (
        lambda b: quantize(with_outliers(b), "w8a8-smoothquant", calibrate(b, [inputs()])),
        "another model, they do not fit layer 'q'",
    ),
    "other model of a scheme without needs": (
        lambda b: quantize(with_outliers(b), "w8a8-minmax", calibrate(b, [inputs()])),
        "another model, they do not fit layer 'q'",
    ),
    "lacking percentiles": (
        lambda b: quantize(b, "w8a8-minmax-static-p99", calibrate(b, [inputs()])),
        "needs percentiles of layer 'q'.*needs=.*'percentiles'",
    ),
    "other shape": (
        lambda b: quantize(b, "w8a8-smoothquant", calibrate(nn.Linear(8, 8), [inputs()])),
        "another model",
    ),
}


@pytest.mark.parametrize("case", ERRORS)
def test_refusals(block, case):
    act, message = ERRORS[case]
    with pytest.raises(EdgelibError, match=message):
        act(block)


def test_the_advice_for_packed_attention_works():
    odd = packed_attention(add_bias_kv=True)
    model = quantize(odd, {"preset": "w8a8-minmax", "exclude": ["attention"]})
    assert isinstance(model["head"], QuantLinear) and isinstance(model["attention"], nn.MultiheadAttention)
    assert quantize(odd, "fp16")["attention"].out_proj.weight is not None
    alone = quantize(packed_attention(), {"preset": "w8a8-minmax", "exclude": ["attention.*"]})
    assert isinstance(alone["head"], QuantLinear) and isinstance(alone["attention"].q_proj, nn.Linear)


def test_packed_attention_is_quantized_whole():
    model, x = packed_attention(batch_first=True).eval(), inputs()
    copied = quantize(model, "w8a8-minmax")
    assert list(quantization_report(copied)["layer"]) == [f"attention.{n}_proj" for n in ("q", "k", "v", "out")] + [
        "head"
    ]
    expected = fake_quantize(model["attention"].in_proj_weight.detach(), "int8", granularity="channel")
    parts = torch.cat([getattr(copied["attention"], f"{n}_proj").weight for n in "qkv"])
    assert torch.equal(parts, expected) and isinstance(model["attention"], nn.MultiheadAttention)
    rounded, answer = copied["attention"](x, x, x)[0], model["attention"](x, x, x)[0]
    assert F.cosine_similarity(rounded, answer, dim=-1).min() > 0.99


# --- weights that no Linear reads, and an account of all parameters


def test_stacked_weights_are_refused_with_their_share():
    model = stacked()
    whole = sum(p.numel() for p in model.parameters())
    with pytest.raises(EdgelibError, match=f"block.experts .1 in all. hold {128 / whole:.1%} of the bytes"):
        quantize(model, "w8a8-minmax")
    with pytest.raises(EdgelibError, match="would stay in floating point"):  # beside a layer that is named
        quantize(model, {"preset": "w8a8-minmax", "targets": ["block.fc"]})


def test_stacked_weights_may_be_left_out_by_name_and_are_accounted_for():
    model = stacked()
    copied = quantize(model, {"preset": "w8a8-minmax", "exclude": ["block.experts"]})
    table = parameter_report(copied).set_index("parameter")
    assert table["kept"]["block.experts.stack"] == "weights outside any Linear, which the scheme leaves out"
    assert table["count"].sum() == sum(p.numel() for p in model.parameters())
    assert quantization_report(copied).attrs["quantized"] == pytest.approx(144 / table["count"].sum())
    far = quantize(model, {"preset": "w8a8-minmax", "targets": ["head"]})
    assert (parameter_report(far)["kept"] == "a Linear that the scheme leaves out").sum() == 2
    assert (parameter_report(quantize(model, "bf16"))["format"] == "bf16").all()


@pytest.mark.parametrize("name", ["fp16", "w4a8-minmax", "w4a8-awq"])
def test_every_floating_parameter_has_one_row(block, name):
    table = parameter_report(quantize(block, name, [inputs()]))
    assert sorted(table["parameter"]) == sorted(name for name, _ in block.named_parameters())
    assert table["count"].sum() == sum(p.numel() for p in block.parameters())
    assert ((table["format"] == "") == (table["kept"] != "")).all()
    assert set(table["kept"]) <= {"", "a bias", "a norm"}


def test_experts_are_rounded_one_by_one(tmp_path):
    model = load(vlm_folders.qwen3_vl_moe(tmp_path / "experts"))
    data, name = dataset("scenes-pope", n=2), "model.language_model.layers.0.mlp.experts"
    copied = quantize(model, "w4a16-minmax-g8", data)
    report = quantization_report(copied)
    assert report["layer"].str.startswith(f"{name}.").sum() == 4 * 2 and not report["fallback"].any()
    table = parameter_report(copied).set_index("parameter")
    assert (table[table.index.str.contains("experts")]["format"] == "int4").all()
    assert table["count"].sum() == sum(p.numel() for p in model.module.parameters())
    weight = model.module.get_submodule(f"{name}.2.down_proj").weight.detach()
    assert torch.equal(
        copied.module.get_submodule(f"{name}.2.down_proj").weight, fake_quantize(weight, "int4", granularity=8)
    )
    kl = generate(quantize(model, "w8a8-minmax"), data, max_new_tokens=2, baseline=model)["kl"]
    assert (kl > 0).any() and (kl < 0.1).all()


@pytest.mark.parametrize(
    "name", ["w8a8-minmax", "w4a8-awq-g8", "w4a16-gptq-g8", "w8a8-smoothquant", "w8a8-minmax-static"]
)
def test_methods_reach_experts_and_warn_of_those_that_no_token_chose(name, tmp_path):
    model = load(vlm_folders.qwen3_vl_moe(tmp_path / "experts"))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="calibration never reached")
        report = quantization_report(quantize(model, name, dataset("scenes-pope", n=2)))
    assert report["layer"].str.contains(".experts.").sum() == 2 * 4 * 2


@torch.no_grad()
@pytest.mark.parametrize("name", ["w8a8-minmax", "w8a8-smoothquant", "w4a8-awq-g8"])
def test_siglip_is_quantized_with_its_pooling_head(name, tmp_path):
    model, data = load(vlm_folders.siglip(tmp_path / "siglip")), dataset("scenes", n=8)
    copied = quantize(model, name, data)
    layers = set(quantization_report(copied)["layer"])
    assert {f"vision_model.head.attention.{part}_proj" for part in ("q", "k", "v", "out")} <= layers
    whole = transformers.SiglipModel.from_pretrained(tmp_path / "siglip")
    pixels = model.pixels(data.images)
    assert torch.allclose(
        model.module.get_image_features(pixels).pooler_output, whole.get_image_features(pixels).pooler_output, atol=1e-5
    )
    assert F.cosine_similarity(copied.encode_images(data.images), model.encode_images(data.images)).min() > 0.8


@pytest.mark.parametrize("name", ["w8a8-smoothquant", "w4a8-awq", "w4a16-gptq-g8", "w4a8-imatrix"])
def test_layers_that_calibration_missed(block, name):
    block.spare = nn.Linear(8, 8)
    statistics = calibrate(block, [inputs()], needs=("rows", "hessian"))
    with pytest.warns(UserWarning, match="never reached 1 layers, such as 'spare': rounded to nearest"):
        copied = quantize(block, name, statistics)
    plain = quantize(block.spare, {"preset": name, "method": "minmax"})
    assert torch.equal(copied.spare.weight, plain.weight)
    report = quantization_report(copied).set_index("layer")
    assert report.loc["spare", "fallback"] and not report.loc["q", "fallback"]
    with pytest.raises(EdgelibError, match="never reached 'spare'"):
        quantize(block, "w8a8-minmax-static", statistics)


def tiny_clip():
    from transformers import CLIPConfig, CLIPModel

    tower = dict(hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, projection_dim=8)
    text = tower | dict(vocab_size=32, max_position_embeddings=8, eos_token_id=31, bos_token_id=30, pad_token_id=0)
    torch.manual_seed(0)
    return CLIPModel(
        CLIPConfig(text_config=text, vision_config=tower | dict(image_size=16, patch_size=8), projection_dim=8)
    ).eval()


def test_hugging_face_clip():
    model = tiny_clip()
    batch = dict(input_ids=torch.tensor([[30, 4, 5, 31]]), pixel_values=torch.randn(2, 3, 16, 16))
    statistics = calibrate(model, [batch])
    assert statistics.unreached == ()
    first = "vision_model.encoder.layers.0"
    readers = statistics.fed_by_norm[f"{first}.layer_norm1"]
    assert set(readers) == {f"{first}.self_attn.{p}_proj" for p in "qkv"}
    assert statistics.fed_by_norm[f"{first}.layer_norm2"] == (f"{first}.mlp.fc1",)
    copied = quantize(model, "w8a8-smoothquant", statistics)
    assert sum(isinstance(layer, QuantLinear) for layer in copied.modules()) == 2 * 2 * 6 + 2
    with torch.no_grad():
        for key in ("image_embeds", "text_embeds"):
            assert F.cosine_similarity(copied(**batch)[key], model(**batch)[key]).min() > 0.99


def test_timm_vision_transformer():
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    model = timm.create_model("vit_tiny_patch16_224", img_size=32, depth=2, num_classes=4).eval()
    x = torch.randn(2, 3, 32, 32)
    statistics = calibrate(model, [x])
    assert statistics.fed_by_norm["blocks.0.norm1"] == ("blocks.0.attn.qkv",)
    copied = quantize(model, "w8a8-smoothquant", statistics)
    assert isinstance(copied.head, QuantLinear)
    assert F.cosine_similarity(copied(x), model(x)).min() > 0.99
