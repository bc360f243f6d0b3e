"""Exported checkpoints: transformers loads them by itself, and computes what the simulation says."""

from __future__ import annotations

import json
import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import Block
from safetensors import SafetensorError, safe_open
from transformers import AutoModel, Qwen2Config, Qwen2ForCausalLM
from transformers.utils import logging

import edgelib
from edgelib.errors import EdgelibError
from edgelib.files.compressed_tensors import packed_words, save_compressed_tensors
from edgelib.formats.table import encode
from edgelib.kernels.roundings import computed_by, full_range_rows
from edgelib.quant.linear import QuantLinear
from edgelib.quant.quantize import quantize

SCHEMES = [
    "w8a8-minmax",
    "w8a8-smoothquant",
    "w8a8-minmax-asym",
    "w8a16",
    "w8a32-minmax-asym",
    "w4a16",
    "w4a16-awq-g32",
    "w3a32-minmax",
    "w4a8-minmax",
    "fp8",
    "fp8-w8a16",
    "w8a8-minmax-static",
]


@pytest.fixture(scope="module")
def clip():
    return edgelib.load("scenes-clip")


@pytest.fixture(scope="module")
def calibration():
    return edgelib.calibration_set("balanced", n=8)


@pytest.fixture(scope="module")
def inputs():
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randn(2, 3, 48, 48, generator=generator)  # the projections read [rows, in]: one scale for both
    return {"pixel_values": pixels, "input_ids": torch.tensor([[1, 20, 30, 40, 0], [1, 25, 35, 0, 0]])}


def loaded(build, folder):
    logging.disable_progress_bar()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        model, info = build.from_pretrained(folder, output_loading_info=True)
    assert not any(info.values()), info
    return model.eval()


@torch.no_grad()
def logits(model, inputs):
    return model(**inputs).logits_per_image


@pytest.mark.parametrize("scheme", SCHEMES)
def test_transformers_computes_what_the_simulation_says(scheme, clip, calibration, inputs, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        quantized = quantize(clip, scheme, calibration)
    folder = save_compressed_tensors(quantized, tmp_path / "checkpoint")
    model = loaded(AutoModel, folder)
    same = computed_by(quantized, "compressed-tensors")
    assert torch.allclose(logits(model, inputs), logits(same.module, inputs), atol=2e-4, rtol=0)
    # rounding activations elsewhere on the grid moves logits less than the quantization does
    moved = (logits(model, inputs) - logits(quantized.module, inputs)).abs().max()
    assert moved <= 0.02 * logits(clip.module, inputs).abs().max()


@pytest.mark.parametrize(
    ("scheme", "name", "dtype"),
    [
        ("w8a8-minmax", "weight", torch.int8),
        ("fp8", "weight", torch.float8_e4m3fn),
        ("w4a16-minmax-g32", "weight_packed", torch.int32),
    ],
)
def test_weights_are_stored_in_their_own_bits(scheme, name, dtype, clip, tmp_path):
    folder = save_compressed_tensors(quantize(clip, scheme), tmp_path / "checkpoint")
    with safe_open(folder / "model.safetensors", framework="pt") as file:
        weight = file.get_tensor(f"visual_projection.{name}")
    assert weight.dtype == dtype
    bits = 4 if name == "weight_packed" else 8
    assert weight.nbytes == 128 * 128 * bits // 8


@pytest.mark.parametrize("scheme", ["nvfp4-w4a16", "nvfp4-w4a8", "nvfp4-static"])
def test_nvfp4_is_read_bit_for_bit_by_compressed_tensors(scheme, calibration, inputs, tmp_path):
    clip = edgelib.load("scenes-clip", dtype="bfloat16")
    quantized = quantize(clip, scheme, calibration)
    folder = save_compressed_tensors(quantized, tmp_path / "checkpoint")
    ours = {n: layer for n, layer in quantized.module.named_modules() if isinstance(layer, QuantLinear)}
    with safe_open(folder / "model.safetensors", framework="pt") as file:
        for name, layer in ours.items():
            assert file.get_tensor(f"{name}.weight_packed").nbytes == layer.weight.numel() // 2
            assert file.get_tensor(f"{name}.weight_scale").nbytes == layer.weight.numel() // 16
            assert file.get_tensor(f"{name}.weight_global_scale").shape == (1,)
    model = loaded(AutoModel, folder)
    inputs = inputs | {"pixel_values": inputs["pixel_values"].bfloat16()}
    found, expected = logits(model, inputs), logits(quantized.module, inputs)  # running it unpacks the weights
    for name, layer in ours.items():
        assert torch.equal(model.get_submodule(name).weight, layer.weight)
    # inputs of 4 and 8 bits are rounded in bfloat16 there and in float32 here
    assert torch.allclose(found, expected, atol=0.0 if scheme == "nvfp4-w4a16" else 0.05 * float(expected.abs().max()))


def test_nvfp4_inputs_without_an_outer_scale_and_odd_widths_are_refused(tmp_path):
    with pytest.raises(EdgelibError, match="rounds its inputs to nvfp4, .* write nvfp4-static"):
        save_compressed_tensors(quantize(tiny_decoder().bfloat16(), "nvfp4"), tmp_path / "checkpoint")
    config = tiny_decoder().config
    config.hidden_size, config.intermediate_size = 24, 64
    odd = quantize(Qwen2ForCausalLM(config).bfloat16().eval(), "nvfp4-w4a16")
    with pytest.raises(EdgelibError, match="has 24 inputs, and an nvfp4 checkpoint needs a multiple of 16"):
        save_compressed_tensors(odd, tmp_path / "checkpoint")
    assert not list(tmp_path.iterdir())


def test_layers_left_alone_are_ignored_by_the_loader(clip, inputs, tmp_path):
    kept = {"preset": "w8a32-minmax", "targets": ["vision_model.*"]}
    quantized = quantize(clip, kept)
    folder = save_compressed_tensors(quantized, tmp_path / "checkpoint")
    config = json.loads((folder / "config.json").read_text())["quantization_config"]
    assert "visual_projection" in config["ignore"]
    assert torch.allclose(
        logits(loaded(AutoModel, folder), inputs), logits(quantized.module, inputs), atol=2e-4, rtol=0
    )


@pytest.mark.parametrize("exclude", [[], ["lm_head"]], ids=["with lm_head", "without"])
def test_a_decoder_with_a_shared_output_layer_comes_back(exclude, tmp_path):
    config = Qwen2Config(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=1,
    )
    torch.manual_seed(0)
    quantized = quantize(Qwen2ForCausalLM(config).eval(), {"preset": "w4a32-minmax-g32", "exclude": exclude})
    folder = save_compressed_tensors(quantized, tmp_path / "checkpoint")
    ids = torch.arange(10)[None]
    with torch.no_grad():
        ours, theirs = quantized(ids).logits, loaded(Qwen2ForCausalLM, folder)(ids).logits
    assert torch.allclose(theirs, ours, atol=1e-5)


@given(bits=st.integers(2, 8), width=st.sampled_from([8, 32, 33, 96]), seed=st.integers(0, 2**16))
@settings(max_examples=30, deadline=None)
def test_words_are_packed_as_compressed_tensors_packs_them(bits, width, seed):
    from compressed_tensors.compressors.pack_quantized.helpers import pack_to_int32

    generator = torch.Generator().manual_seed(seed)
    codes = torch.randint(-(2 ** (bits - 1)), 2 ** (bits - 1), (3, width), dtype=torch.int8, generator=generator)
    assert torch.equal(packed_words(codes, bits), pack_to_int32(codes, bits))


def test_rows_are_rounded_on_the_full_range_grid():
    x = torch.randn(2, 3, 16, generator=torch.Generator().manual_seed(0))
    encoded = encode(x, edgelib.formats.table.FORMATS["int8"].variant(full_range=True), "token")
    assert torch.allclose(full_range_rows(x, 8), encoded.codes * encoded.scale, atol=1e-6)


def tiny_decoder() -> Qwen2ForCausalLM:
    config = Qwen2Config(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        tie_word_embeddings=False,
        bos_token_id=0,
        eos_token_id=1,
    )
    torch.manual_seed(0)
    return Qwen2ForCausalLM(config).eval()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_a_model_in_half_precision_comes_back_to_its_scales_precision(dtype, tmp_path):
    model = tiny_decoder().to(dtype)
    model.lm_head.weight.data[3] = 0
    quantized = quantize(model, "w8a32-minmax")
    folder = save_compressed_tensors(quantized, tmp_path / "checkpoint")
    theirs = loaded(Qwen2ForCausalLM, folder)
    ids = torch.arange(10)[None]
    with torch.no_grad():
        found, expected = theirs(ids).logits.float(), quantized(ids).logits.float()
    assert torch.isfinite(found).all() and (found[..., 3] == 0).all()
    assert torch.allclose(found, expected, atol=float(torch.finfo(dtype).eps * expected.abs().max() * 4))


def test_a_scale_that_the_model_s_dtype_cannot_hold_is_named(tmp_path):
    model = tiny_decoder().half()
    model.lm_head.weight.data[3] *= 2.0**-15
    with pytest.raises(EdgelibError, match="layer 'lm_head' has a scale of .*, which is 0 in torch.float16"):
        save_compressed_tensors(quantize(model, "w8a8-minmax"), tmp_path / "checkpoint")
    assert not list(tmp_path.iterdir())


def test_a_file_that_cannot_be_written_is_reported(tmp_path, monkeypatch):
    def fail(*_, **__):
        raise SafetensorError("I/O error: disk full")

    monkeypatch.setattr("safetensors.torch.save_file", fail)
    with pytest.raises(EdgelibError, match="cannot be written to 'checkpoint' .*disk full"):
        save_compressed_tensors(quantize(tiny_decoder(), "w8a8-minmax"), tmp_path / "checkpoint")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("shape", [(16,), (3, 16), (2, 3, 16), (2, 3, 4, 16)], ids=str)
@pytest.mark.parametrize("scheme", ["w8a8-minmax", "fp8"])
def test_activations_share_scales_as_compressed_tensors_shares_them(scheme, shape):
    from compressed_tensors.quantization import QuantizationArgs
    from compressed_tensors.quantization.lifecycle.forward import fake_quantize
    from compressed_tensors.quantization.utils import compute_dynamic_scales_and_zp

    x = torch.randn(shape, generator=torch.Generator().manual_seed(0)).cumsum(0)
    layer = computed_by(quantize(torch.nn.Linear(16, 4), scheme), "compressed-tensors")
    kind = "int" if scheme == "w8a8-minmax" else "float"
    args = QuantizationArgs(num_bits=8, type=kind, symmetric=True, strategy="token", dynamic=True)
    scale, zero = compute_dynamic_scales_and_zp(x, args, layer)
    assert torch.allclose(layer.activation.round_rows(x), fake_quantize(x, scale, zero, args), atol=1e-6)


@pytest.mark.parametrize(
    ("scheme", "words"),
    [
        ("fp16", "fp16 weights, which this export does not write"),
        ("fp8-e5m2", "fp8_e5m2 weights, which this export does not write"),
        ("mxfp4", "mxfp4 weights, which this export does not write"),
        ("nvfp4-w4a16", "nvfp4 weights out in bfloat16: quantize"),
        ("w4a16-minmax-g32-asym", "packed zero points"),
    ],
)
def test_a_scheme_that_cannot_be_exported_says_so(scheme, words, clip, tmp_path):
    with pytest.raises(EdgelibError, match=words):
        save_compressed_tensors(quantize(clip, scheme), tmp_path / "checkpoint")
    assert not list(tmp_path.iterdir())


def test_other_models_and_places_are_refused(clip, tmp_path):
    with pytest.raises(EdgelibError, match="holds no quantized layer"):
        save_compressed_tensors(clip, tmp_path / "checkpoint")
    with pytest.raises(EdgelibError, match="Block is no model class of transformers"):
        save_compressed_tensors(quantize(Block(), "w8a8-minmax"), tmp_path / "checkpoint")
    with pytest.raises(EdgelibError, match="exists; choose a new folder"):
        save_compressed_tensors(quantize(clip, "w8a8-minmax"), tmp_path)


def test_an_unknown_runtime_is_refused(clip):
    with pytest.raises(EdgelibError, match="unknown runtime 'onnx-int5'.*did you mean"):
        computed_by(quantize(clip, "w8a8-minmax"), "onnx-int5")
    with pytest.raises(EdgelibError, match="holds no quantized layer"):
        computed_by(clip, "onnx-int8")
