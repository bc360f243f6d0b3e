"""Convolutions are quantized as products of a matrix: held against loops, torch, and their bytes on the disk."""

from __future__ import annotations

import itertools

import pytest
import torch
from safetensors import safe_open
from torch import nn
from transformers import CLIPVisionConfig, CLIPVisionModel, ResNetConfig, ResNetForImageClassification

import edgelib
from edgelib.errors import EdgelibError
from edgelib.files.compressed_tensors import save_compressed_tensors
from edgelib.files.pack import load_packed, save_packed
from edgelib.files.size import packed_size
from edgelib.formats.table import fake_quantize
from edgelib.ground.convolutions import SeparateConvolution
from edgelib.ground.separate import rejoined, separated
from edgelib.observe.calibrate import calibrate
from edgelib.quant.methods.gptq import gptq
from edgelib.quant.quantize import quantize
from edgelib.quant.report import parameter_report, quantization_report

KINDS = {
    "3 x 3": dict(kernel_size=3, padding=1),
    "strided": dict(kernel_size=(3, 2), stride=(2, 1), padding=(1, 0)),
    "dilated": dict(kernel_size=3, dilation=2, padding="same"),
    "1 x 1": dict(kernel_size=1, bias=False),
    "reflecting": dict(kernel_size=3, padding=1, padding_mode="reflect"),
    "grouped": dict(kernel_size=3, padding=1, groups=2),
    "depthwise": dict(kernel_size=3, stride=2, padding=1, groups=8),
}


def conv(kind: str, inputs: int = 8, outputs: int = 16) -> nn.Conv2d:
    torch.manual_seed(0)
    return nn.Conv2d(inputs, outputs, **KINDS[kind]).eval()


def pixels(*shape: int) -> torch.Tensor:
    return torch.randn(shape or (2, 8, 7, 6), generator=torch.Generator().manual_seed(1))


def patches(layer: nn.Conv2d, x: torch.Tensor) -> torch.Tensor:
    """What the kernel covers at every place, by loops: [N, places, in * kernel]."""
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    x = nn.functional.pad(x, layer._reversed_padding_repeated_twice, mode=mode)
    (kh, kw), (sh, sw), (dh, dw) = layer.kernel_size, layer.stride, layer.dilation
    rows = range(0, x.shape[2] - dh * (kh - 1), sh)
    columns = range(0, x.shape[3] - dw * (kw - 1), sw)
    found = [
        x[:, :, r : r + dh * (kh - 1) + 1 : dh, c : c + dw * (kw - 1) + 1 : dw].flatten(1)
        for r, c in itertools.product(rows, columns)
    ]
    return torch.stack(found, 1)


def by_loops(layer: nn.Conv2d, x: torch.Tensor, weight: str, activation: str) -> torch.Tensor:
    """The quantized convolution, group by group: rows of the matrix and patches are rounded each on its own scale."""
    rows = fake_quantize(patches(layer, x), activation, granularity="token")
    matrix = fake_quantize(layer.weight.flatten(1), weight, granularity="channel")
    each = rows.shape[-1] // layer.groups
    parts = [
        rows[..., g * each : (g + 1) * each] @ m.T for g, m in enumerate(matrix.split(len(matrix) // layer.groups))
    ]
    return torch.cat(parts, -1) + (0 if layer.bias is None else layer.bias)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("scheme", "weight", "activation"),
    [
        ("w4a8-minmax", "int4", "int8"),
        ("fp8", "fp8_e4m3", "fp8_e4m3"),
        ("w3a16-minmax", "int3", "fp16"),
    ],
)
@torch.no_grad()
def test_a_quantized_convolution_is_what_loops_compute(kind, scheme, weight, activation):
    layer, x = conv(kind), pixels()
    quantized = quantize(nn.Sequential(layer), scheme)
    expected = by_loops(layer, x, weight, activation)
    found = quantized(x)
    assert found.shape == layer(x).shape
    assert torch.allclose(found.flatten(2).mT, expected, atol=1e-5)
    assert torch.allclose(quantized(x[0]), found[0], atol=1e-6)  # an image without a batch


@pytest.mark.parametrize("kind", KINDS)
def test_an_unquantized_convolution_computes_the_same_bits(kind):
    layer, x = conv(kind), pixels()
    apart = separated(nn.Sequential(layer))
    assert isinstance(apart[0], SeparateConvolution) and apart[0].weight.data_ptr() == layer.weight.data_ptr()
    assert torch.equal(apart(x), layer(x))
    assert torch.equal(apart[0].rows(x), patches(layer, x))
    back = rejoined(apart)[0]
    assert type(back) is nn.Conv2d and torch.equal(back(x), layer(x))
    assert back.state_dict().keys() == layer.state_dict().keys()


@pytest.mark.parametrize("kind", ["strided", "depthwise"])
def test_statistics_are_those_of_the_patches(kind):
    layer, x = conv(kind), pixels()
    seen = calibrate(nn.Sequential(layer), [x[:1], x[1:]], needs=["hessian", "rows"]).layers["0.matrix"]
    width = layer.weight[0].numel()
    rows = patches(layer, x).unflatten(-1, (-1, width)).flatten(0, 2)
    assert seen.tokens == len(rows)
    assert torch.allclose(seen.abs_max, rows.abs().amax(0))
    assert torch.allclose(seen.hessian, rows.T @ rows / len(rows), atol=1e-5)
    assert sorted(map(tuple, seen.rows.tolist())) == sorted(map(tuple, rows.tolist()))


def test_gptq_and_static_scales_of_a_convolution_are_those_of_its_matrix():
    layer, x = conv("3 x 3"), pixels()
    rows = patches(layer, x).flatten(0, 1)
    quantized = quantize(nn.Sequential(layer), "w4a8-gptq-static", [x])[0].matrix
    encoded, _ = gptq(layer.weight.flatten(1), rows.T @ rows / len(rows), quantized.format)
    assert (quantized.codes() == encoded.codes).float().mean() > 0.99  # sums in another order
    assert torch.allclose(quantized.input_scale, rows.abs().max() / 127)


def resnet(layer_type: str = "basic") -> ResNetForImageClassification:
    torch.manual_seed(0)
    config = ResNetConfig(embedding_size=16, hidden_sizes=[16, 32], depths=[1, 1], layer_type=layer_type, num_labels=5)
    return ResNetForImageClassification(config).eval()


METHODS = ["w4a8-awq", "w4a8-gptq", "w4a8-mse-static", "nvfp4", "mxfp4", "fp16"]


@pytest.mark.parametrize("scheme", METHODS)
@torch.no_grad()
def test_every_method_reaches_every_convolution_and_the_file_has_the_predicted_bytes(scheme, tmp_path):
    model, x = resnet(), pixels(2, 3, 32, 32)
    quantized = quantize(model, scheme, [x])
    report = quantization_report(quantized)
    convolutions = [name for name, layer in model.named_modules() if isinstance(layer, nn.Conv2d)]
    assert report["layer"].tolist() == [*(f"{name}.matrix" for name in convolutions), "classifier.1"]
    kept = {"a bias", "a norm"} if scheme != "fp16" else set()
    assert set(report.attrs["kept"]) == kept and report.attrs["quantized"] > 0.98
    expected, found = model(x).logits, quantized(x).logits
    assert (found - expected).norm() < 0.35 * expected.norm()
    save_packed(quantized, tmp_path / "packed")
    said = packed_size(model, scheme)["total"]
    assert said == packed_size(quantized)["total"]
    header = (tmp_path / "packed" / "packed.safetensors").stat().st_size - said
    assert 0 < header < 1000
    assert torch.allclose(load_packed(tmp_path / "packed")(x).logits, found, atol=1e-5)


def test_the_size_of_a_4_bit_resnet_is_an_eighth_and_its_scales():
    model = resnet()
    matrices = [p for p in model.parameters() if p.dim() > 1]
    others = sum(t.numel() * t.element_size() for t in model.state_dict().values()) - sum(
        4 * p.numel() for p in matrices
    )
    codes = sum(len(p) * -(-p[0].numel() // 2) for p in matrices)
    assert packed_size(model, "w4a8-minmax")["total"] == others + codes + sum(4 * len(p) for p in matrices)


def vit() -> CLIPVisionModel:
    torch.manual_seed(0)
    shape = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2)
    return CLIPVisionModel(CLIPVisionConfig(**shape, image_size=32, patch_size=8)).eval()


@torch.no_grad()
def test_a_patch_embedding_stays_unless_a_pattern_names_it(tmp_path):
    model, x = vit(), pixels(2, 3, 32, 32)
    [name] = [name for name, layer in model.named_modules() if isinstance(layer, nn.Conv2d)]
    plain = quantize(model, "w8a8-minmax")
    why = parameter_report(plain).set_index("parameter")["kept"]
    assert why[f"{name}.weight"] == "a patch embedding"
    assert torch.equal(plain.get_submodule(name)(x), model.get_submodule(name)(x))
    for pattern in (name, "*patch_embedding"):
        scheme = {"preset": "w8a8-minmax-static", "targets": ["*", pattern]}
        named = quantize(model, scheme, [x])
        assert f"{name}.matrix" in quantization_report(named)["layer"].tolist()
        expected, found = model(x).pooler_output, named(x).pooler_output
        assert (found - expected).norm() < 0.1 * expected.norm()
        save_packed(named, tmp_path / "packed")
        assert packed_size(model, scheme)["total"] == packed_size(named)["total"]
        assert torch.allclose(load_packed(tmp_path / "packed")(x).pooler_output, found, atol=1e-5)


def test_a_convolution_goes_by_its_own_name_in_patterns():
    model = resnet()
    quantized = quantize(model, {"preset": "w4a8-minmax", "exclude": ["*embedder.embedder.convolution"]})
    report = parameter_report(quantized).set_index("parameter")["kept"]
    assert report["resnet.embedder.embedder.convolution.matrix.weight"] == "a Linear that the scheme leaves out"
    assert (report.drop("resnet.embedder.embedder.convolution.matrix.weight").isin(["", "a bias", "a norm"])).all()


class Standardized(nn.Conv2d):
    """A convolution that computes in its own way, as weight standardization does."""

    def forward(self, x):
        weight = (self.weight - self.weight.mean()) / self.weight.std()
        return nn.functional.conv2d(x, weight, self.bias)


def test_a_convolution_of_an_unknown_kind_is_refused_with_its_share_or_excluded():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), Standardized(4, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2)
    )
    share = model[1].weight.numel() / sum(p.numel() for p in model.parameters())
    with pytest.raises(EdgelibError, match=rf"1 \(1 in all\) hold {share:.1%} of the bytes"):
        quantize(model, "w8a8-minmax")
    quantized = quantize(model, {"preset": "w8a8-minmax", "exclude": ["1"]})
    assert quantization_report(quantized).attrs["kept"][
        "weights outside any Linear, which the scheme leaves out"
    ] == pytest.approx(share, abs=1e-3)


def test_groups_that_do_not_divide_a_kernel_are_named_with_those_that_do():
    with pytest.raises(EdgelibError, match="embedder.convolution.matrix.*groups of 32 do not divide .* 147; .*exclude"):
        quantize(resnet(), "w4a16-minmax-g32")


def test_quantized_convolutions_are_not_exported_to_compressed_tensors_and_others_keep_their_names(tmp_path):
    model = resnet()
    with pytest.raises(EdgelibError, match="is a convolution, for which compressed-tensors has no format"):
        save_compressed_tensors(quantize(model, "w8a16"), tmp_path / "export")
    linear = quantize(model, {"preset": "w8a32-minmax", "targets": ["classifier*"]})
    folder = save_compressed_tensors(linear, tmp_path / "export")
    with safe_open(folder / "model.safetensors", framework="pt") as file:
        held = {key: file.get_tensor(key) for key in file.keys()}
    known = model.state_dict()
    assert held.keys() - known.keys() == {f"classifier.1.weight_{part}" for part in ("packed", "scale", "shape")}
    assert all(torch.equal(known[key], held[key]) for key in known.keys() - {"classifier.1.weight"})


@pytest.mark.parametrize("name", ["mobilenetv3_small_050", pytest.param("resnet18", marks=pytest.mark.slow)])
@torch.no_grad()
def test_a_classifier_of_timm_is_quantized_as_a_whole(name):
    import timm

    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=4).eval()
    x = pixels(1, 3, 64, 64)
    quantized = quantize(model, "w8a8-minmax", losses=False)
    report = quantization_report(quantized)
    assert report.attrs["quantized"] > 0.97
    assert (quantized(x) - model(x)).norm() < 0.2 * model(x).norm()
    assert packed_size(model, "w8a8-minmax")["total"] < 0.29 * packed_size(model)["total"]


def test_loading_leaves_what_a_vision_transformer_computes_alone():
    siglip = nn.Sequential(nn.Conv2d(3, 8, 4, 4, padding="valid"), nn.Conv3d(3, 8, (2, 4, 4), (2, 4, 4)))
    assert separated(siglip) is siglip
    assert not any(isinstance(m, SeparateConvolution) for m in edgelib.load("scenes-clip").module.modules())
