"""Real kernels: integer arithmetic that computes what the simulation says, and refusals of what it cannot."""

from __future__ import annotations

import copy
import importlib.util

import pytest
import torch
from torch import nn

import edgelib
from edgelib.devices.device import unit_of
from edgelib.errors import EdgelibError
from edgelib.kernels import table as kernels
from edgelib.kernels.layers import by_layer
from edgelib.kernels.onnx_layers import Int8Linear, saturates
from edgelib.kernels.onnx_model import export
from edgelib.kernels.roundings import computed_by
from edgelib.kernels.table import KERNELS, Images, agreement, available_kernels, prepared, with_kernel
from edgelib.quant.quantize import quantize
from edgelib.quant.scheme import scheme

MULTIPLIED = {
    "onnx-int8": ["w8a8-minmax", "w8a8-minmax-asym", "w8a8-minmax-full"],
    "onnx-int8-tensor": ["w8a8-minmax", "w8a8-minmax-asym"],
    "onnx-int4": ["w4a16-minmax-g32", "w4a16-minmax-g16-asym", "w4a16-minmax-g64", "w4a16-minmax", "w8a16-minmax-g32"],
}
if importlib.util.find_spec("openvino"):
    MULTIPLIED["openvino-int8"] = ["w8a16-minmax-g32", "w8a16-minmax"]
    MULTIPLIED["openvino-int4"] = ["w4a16-minmax-g32", "w4a16-minmax-g16-asym", "w4a16-minmax"]
CASES = [(kernel, scheme) for kernel, schemes in MULTIPLIED.items() for scheme in schemes]


@pytest.fixture(scope="module")
def clip():
    return edgelib.load("scenes-clip")


@pytest.fixture
def linear():
    torch.manual_seed(0)
    return nn.Linear(64, 24)


def rows(n: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(n, 5, 64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("kernel", "scheme"), CASES)
def test_a_layer_computes_the_simulation_with_the_kernel_s_rounding(kernel, scheme, linear):
    quantized = quantize(linear, scheme)
    real = with_kernel(quantized, kernel, [rows(2)], dynamic=[[0, 1]])
    for x in (rows(2), rows(3, seed=2)[:, :4], 1e4 * rows(1), torch.zeros(1, 5, 64)):
        expected = computed_by(quantized, kernel)(x).detach()
        assert torch.allclose(real(x), expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))
        assert torch.allclose(prepared(quantized, kernel)(x), expected, rtol=1e-5, atol=1e-4 * float(x.abs().max() + 1))


@pytest.mark.parametrize("kernel", KERNELS.values(), ids=list(KERNELS))
def test_a_kernel_says_which_numbers_it_multiplies(kernel):
    assert unit_of(kernel.weight, kernel.activation)
    assert kernel.scheme == "" or scheme(kernel.scheme).weight == kernel.weight
    assert (kernel.bits is None) == bool(kernel.scheme), "bits of the scheme, or of what the kernel rounds itself"


def test_rows_of_int8_are_the_simulation_itself(linear):
    quantized = quantize(linear, "w8a8-minmax")
    x = rows(4)
    assert torch.allclose(with_kernel(quantized, "onnx-int8", [x])(x), quantized(x), atol=1e-5)


@pytest.mark.filterwarnings("ignore")  # of torchao's own import
@pytest.mark.parametrize(
    ("kernel", "scheme", "error"),
    [("torchao-int8", "w8a32-minmax-full", 1e-5), ("torchao-int8-dynamic", "w8a8-minmax-full", 0.02)],
)
def test_torchao_computes_the_scheme_it_stands_for(kernel, scheme, error, linear):
    pytest.importorskip("torchao")
    x, expected = rows(4), quantize(linear, scheme)(rows(4))
    found = with_kernel(linear, kernel)(x)
    assert (found - expected).norm() < error * expected.norm() and (found != linear(x)).any()


def test_a_row_does_not_depend_on_its_batch(linear):
    real = with_kernel(quantize(linear, "w8a8-minmax"), "onnx-int8", [rows(2)])
    x = rows(3)
    assert torch.equal(real(x)[:1], real(x[:1]))


def test_large_products_do_not_overflow(linear):
    nn.init.constant_(linear.weight, 1.0)
    quantized, x = quantize(linear, "w8a8-minmax"), torch.full((1, 5, 64), 3.0)
    for kernel in ("onnx-int8", "onnx-int8-tensor"):
        assert torch.allclose(with_kernel(quantized, kernel, [x])(x), quantized(x), rtol=1e-3)
    layer = with_kernel(quantized, "onnx-int8-u8s8", [x])
    assert saturates() != torch.allclose(layer(x), quantized(x), rtol=1e-3)


@pytest.mark.parametrize(("kernel", "scheme"), [("onnx-int8", "w8a8-minmax"), ("onnx-int4", "w4a16-minmax-g32")])
def test_a_dual_encoder_runs_on_a_kernel(kernel, scheme, clip):
    quantized = quantize(clip, scheme)
    real = with_kernel(quantized, kernel)
    images = edgelib.dataset("scenes", n=12)
    names, prompts = images.class_names, ["a photo of a {}."]
    pixels = next(iter(images.batches(12)))[1]
    simulated, measured = (m.encode_images(pixels) @ m.class_vectors(names, prompts).T for m in (quantized, real))
    baseline = clip.encode_images(pixels) @ clip.class_vectors(names, prompts).T
    assert agreement(simulated, measured)["relative_difference"] < agreement(simulated, baseline)["relative_difference"]
    # padded prompts of several lengths beside each other
    texts = ["a circle", "a photo of a small red circle on a blue ground"]
    assert torch.allclose(real.encode_text(texts), quantized.encode_text(texts), atol=0.05)
    assert real.fingerprint != quantized.fingerprint
    assert real.module.images.bytes < 4 * sum(p.numel() for p in clip.module.vision_model.parameters()) / 2


def test_float_kernels_compute_the_baseline(clip):
    images = torch.randint(0, 256, (3, 3, 48, 48), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    real = with_kernel(clip, "onnx-fp32")
    assert torch.allclose(real.encode_images(images), clip.encode_images(images), atol=1e-5)
    rounded = with_kernel(clip, "torch-bf16")
    assert rounded.dtype == torch.bfloat16 and clip.dtype == torch.float32
    assert torch.allclose(rounded.encode_images(images), clip.encode_images(images), atol=0.05)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize(
    ("kernel", "scheme"),
    [("torch-fp32", "fp32"), ("onnx-fp32", "fp32"), ("onnx-int8", "w8a8-minmax"), ("onnx-int4", "w4a16-minmax-g32")],
)
def test_a_model_of_any_dtype_computes_in_float32(kernel, scheme, dtype, linear):
    model = quantize(linear.to(dtype), scheme)
    x, wide = rows(2).to(dtype), copy.deepcopy(model).float()
    real = with_kernel(model, kernel, [x])
    found = real(x.float()) if kernel == "torch-fp32" else real(x)
    assert found.dtype == torch.float32 and model.weight.dtype == dtype
    assert torch.allclose(found, prepared(wide, kernel)(x.float()), rtol=1e-4, atol=1e-4)


@pytest.mark.skipif(not importlib.util.find_spec("openvino"), reason="openvino is not installed: edgelib[openvino]")
def test_openvino_takes_a_tower_whole_and_no_single_layers(clip):
    pixels = torch.randn(2, 3, *clip.preprocess.size, generator=torch.Generator().manual_seed(0))
    quantized = quantize(clip, {"preset": "w4a16-minmax-g32", "targets": ["vision_model.*"]})
    real = with_kernel(Images(quantized.module), "openvino-int4", [pixels])
    expected = Images(computed_by(quantized, "openvino-int4").module)(pixels)
    assert torch.allclose(real(pixels), expected, atol=1e-4 * float(expected.abs().max()))
    with pytest.raises(EdgelibError, match="takes a whole network, not single layers"):
        by_layer(clip, "openvino-int4", [])


def test_a_dual_encoder_in_half_precision_runs_on_a_kernel(clip):
    half = clip.with_module(copy.deepcopy(clip.module).bfloat16())
    images = torch.randint(0, 256, (2, 3, 48, 48), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    real = with_kernel(quantize(half, "w8a8-minmax"), "onnx-int8")
    assert real.dtype == torch.float32
    assert torch.allclose(real.encode_images(images), clip.encode_images(images), atol=0.05)


def test_the_quantized_model_stays_as_it_was(linear):
    quantized = quantize(linear, "w8a8-minmax")
    before = {name: tensor.clone() for name, tensor in quantized.state_dict().items()}
    with_kernel(quantized, "onnx-int8", [rows(1)])
    assert all(torch.equal(tensor, before[name]) for name, tensor in quantized.state_dict().items())


def test_every_kernel_says_whether_it_runs_here(monkeypatch):
    table = available_kernels().set_index("kernel")
    assert list(table.index) == list(KERNELS)
    assert table.available.equals(table.why_not == "")
    assert table.available["torch-fp32"]
    monkeypatch.setattr(kernels, "find_spec", lambda package: None)
    assert available_kernels().set_index("kernel").why_not["onnx-int8"].endswith("install 'edgelib[kernels]'")
    with pytest.raises(EdgelibError, match=r"onnxruntime missing: install 'edgelib\[kernels\]'"):
        with_kernel(nn.Linear(4, 4), "onnx-fp32", [torch.zeros(1, 4)])


def test_a_device_that_is_too_old_is_named(monkeypatch):
    monkeypatch.setattr(kernels, "find_spec", lambda package: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (8, 7))
    assert kernels.why_not(KERNELS["torchao-fp8"]) == "needs compute capability 8.9, this device has 8.7"
    assert kernels.why_not(KERNELS["torchao-int4"]) == ""


def test_agreement_counts_what_differs():
    a = torch.tensor([[1.0, 2.0], [3.0, 1.0], [0.0, 4.0], [1.0, 1.5]])
    b = torch.tensor([[1.0, 2.5], [3.0, 1.0], [5.0, 4.0], [1.0, 1.5]])
    found = agreement(a, b)
    assert found["flip_rate"] == 0.25 and found["max_difference"] == 5.0
    assert found["mean_difference"] == pytest.approx(5.5 / 8)
    assert found["relative_difference"] == pytest.approx((0.25 + 25) ** 0.5 / float(a.norm()))
    assert set(agreement(a, a).values()) == {0.0}


def static(linear: nn.Linear, scheme: str):
    return quantize(linear, f"{scheme}-static", [rows(2)])


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda m: with_kernel(m, "onnx-int5", [rows(1)]), "unknown kernel 'onnx-int5'.*did you mean"),
        (lambda m: with_kernel(m, "onnx-int8", [rows(1)]), r"pass quantize\(model, 'w8a8-minmax'\)"),
        (lambda m: with_kernel(quantize(m, "w8a8-minmax"), "onnx-fp32", [rows(1)]), "quantized already"),
        (lambda m: with_kernel(quantize(m, "w4a8-minmax"), "onnx-int8", [rows(1)]), "has int4 weights with 1 scales"),
        (lambda m: with_kernel(quantize(m, "w4a16-minmax-g8"), "onnx-int4", [rows(1)]), "in groups of 8"),
        (lambda m: with_kernel(quantize(m, "fp8"), "onnx-int4", [rows(1)]), "has fp8_e4m3 weights"),
        (lambda m: with_kernel(static(m, "w8a8-minmax"), "onnx-int8", [rows(1)]), "static activation scale.*-static"),
        (lambda m: with_kernel(static(m, "w8a8-minmax"), "onnx-int4", [rows(1)]), "static activation scale.*-static"),
        (lambda m: computed_by(static(m, "w8a8-minmax"), "onnx-int8"), "layer '' has a static activation scale"),
        (lambda m: with_kernel(m, "onnx-fp32"), "pass example inputs"),
        (lambda m: agreement(torch.zeros(2, 3), torch.zeros(3, 2)), "two tensors of one shape"),
        (lambda m: agreement(torch.full((2, 3), torch.nan), torch.zeros(2, 3)), "NaN or inf"),
    ],
)
def test_what_cannot_be_is_refused(call, words, linear):
    with pytest.raises(EdgelibError, match=words):
        call(linear)


def test_a_module_that_cannot_be_exported_is_named():
    class Odd(nn.Module):
        def forward(self, x):
            return torch.linalg.eigvals(x).real

    with pytest.raises(EdgelibError, match="Odd cannot be exported to ONNX"):
        export(Odd(), [torch.eye(3)], [[0]])


def test_signed_and_unsigned_codes_say_the_same(linear):
    layer = quantize(linear, "w8a8-minmax-asym")
    signed, unsigned = (Int8Linear("fc", layer, per_row=True, unsigned=flag) for flag in (False, True))
    assert torch.allclose(signed(rows(2)), unsigned(rows(2)), atol=1e-5)
