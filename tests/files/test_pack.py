"""Packed models: predicted bytes are the file's bytes, and what is loaded computes what was saved."""

from __future__ import annotations

import copy
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import Block, Waves, inputs
from safetensors import SafetensorError, safe_open
from torch import nn
from transformers import CLIPConfig, Qwen2Config, Qwen2ForCausalLM
from vlm_folders import qwen2_vl

import edgelib
from edgelib.devices.shapes import architectures
from edgelib.errors import EdgelibError
from edgelib.files.model_files import write_preprocess
from edgelib.files.pack import load_packed, save_packed
from edgelib.files.pack_file import COMPUTED, WEIGHTS
from edgelib.formats.bits import pack_bits, packed_width, unpack_bits
from edgelib.models.architectures import architecture
from edgelib.quant.quantize import quantize

MIB = 2**20
SCHEMES = [
    "fp32",
    "fp16",
    "bf16",
    "w8a8-minmax",
    "w8a8-minmax-full",
    "w8a8-minmax-asym",
    "w8a8-smoothquant",
    "w8a8-minmax-static",
    "w4a16-minmax-g32",
    "w4a8-awq",
    "w4a8-minmax-asym",
    "w3a8-minmax",
    "w2a16-minmax-g32-asym",
    "fp8",
    "fp8-e5m2-w8a16",
    "mxfp8",
    "mxfp4",
    "mxfp4-w4a8-even",
    "nvfp4",
    "nvfp4-static",
]


@pytest.fixture(scope="module")
def clip():
    return edgelib.load("scenes-clip")


@pytest.fixture(scope="module")
def calibration():
    return edgelib.calibration_set("balanced", n=8)


@pytest.fixture(scope="module")
def images():
    return torch.randint(0, 256, (2, 3, 48, 48), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def saved_bytes(folder) -> int:
    return (folder / WEIGHTS).stat().st_size


@given(
    bits=st.sampled_from([2, 3, 4, 8]),
    rows=st.integers(1, 4),
    width=st.integers(1, 40),
    seed=st.integers(0, 2**16),
)
@settings(max_examples=60, deadline=None)
def test_packed_codes_come_back(bits, rows, width, seed):
    rng = np.random.default_rng(seed)
    codes = torch.from_numpy(rng.integers(-(2 ** (bits - 1)), 2 ** (bits - 1), (rows, width), dtype=np.int8))
    packed = pack_bits(codes, bits)
    assert packed.shape == (rows, packed_width(width, bits))
    assert torch.equal(unpack_bits(packed, bits, width, signed=True), codes)
    low = codes.to(torch.uint8) & (2**bits - 1)
    assert torch.equal(unpack_bits(packed, bits, width, signed=False), low)


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_packed_codes_are_one_little_endian_number_per_row(bits):
    codes = torch.tensor([[1, 0, 2, 3, 1, 2, 3]])
    number = sum(int(code) << (bits * i) for i, code in enumerate(codes[0]))
    assert bytes(pack_bits(codes, bits)[0].tolist()) == number.to_bytes(packed_width(7, bits), "little")


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_packed_model_computes_what_was_saved(scheme, clip, calibration, images, tmp_path):
    quantized = quantize(clip, scheme, calibration)
    folder = save_packed(quantized, tmp_path / "packed")
    loaded = load_packed(folder)
    assert torch.equal(loaded.encode_images(images), quantized.encode_images(images))
    assert torch.equal(loaded.encode_text(["a red circle"]), quantized.encode_text(["a red circle"]))
    state = quantized.module.state_dict()
    assert state.keys() == loaded.module.state_dict().keys()
    for name, tensor in loaded.module.state_dict().items():
        assert tensor.dtype == state[name].dtype and torch.equal(tensor, state[name]), name


@pytest.mark.parametrize("scheme", SCHEMES)
def test_predicted_bytes_are_those_of_the_file(scheme, clip, calibration, tmp_path):
    quantized = quantize(clip, scheme, calibration)
    predicted = edgelib.packed_size(clip, scheme)
    assert predicted == edgelib.packed_size(quantized)
    assert predicted["total"] == sum(predicted["by_class"].values())
    size = saved_bytes(save_packed(quantized, tmp_path / "packed"))
    assert 0 < size - predicted["total"] < 0.005 * size


def test_the_file_holds_integers_where_the_format_is_one(clip, tmp_path):
    folder = save_packed(quantize(clip, "w8a8-minmax"), tmp_path / "int8")
    with safe_open(folder / WEIGHTS, framework="pt") as file:
        assert file.get_tensor("linear_weights.int8").dtype == torch.int8
    folder = save_packed(quantize(clip, "mxfp4"), tmp_path / "mxfp4")
    with safe_open(folder / WEIGHTS, framework="pt") as file:
        assert file.get_tensor("scales.e8m0").dtype == torch.float8_e8m0fnu


def test_the_report_comes_back_with_the_model(clip, calibration, tmp_path):
    quantized = quantize(clip, "w4a8-awq", calibration)
    loaded = load_packed(save_packed(quantized, tmp_path / "packed"))
    assert edgelib.quantization_report(loaded).equals(edgelib.quantization_report(quantized))


def test_the_other_tensors_may_be_stored_in_half_the_bytes(clip, images, tmp_path):
    quantized = quantize(clip, "w8a8-minmax")  # its weights were published in fp16, so nothing is lost
    folder = save_packed(quantized, tmp_path / "packed", other_dtype=torch.float16)
    predicted = edgelib.packed_size(clip, "w8a8-minmax", other_dtype=torch.float16)["total"]
    assert 0 < saved_bytes(folder) - predicted < 0.005 * predicted
    loaded = load_packed(folder)
    assert loaded.dtype == torch.float32
    assert torch.equal(loaded.encode_images(images), quantized.encode_images(images))


@pytest.mark.parametrize("scheme", ["w4a8-minmax-g4", "fp16"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_any_module_is_loaded_into_its_like(scheme, dtype, tmp_path):
    block = Block().to(dtype).eval()
    before = copy.deepcopy(block.state_dict())
    quantized = quantize(block, scheme)
    folder = save_packed(quantized, tmp_path / "packed", other_dtype=torch.float64)
    for like in (block, quantized):
        loaded = load_packed(folder, like=like)
        assert torch.equal(loaded(inputs(1).to(dtype)), quantized(inputs(1).to(dtype)))
        assert all(p.dtype == dtype for p in loaded.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in block.state_dict().items())


@pytest.mark.parametrize("scheme", [None, "fp32", "fp16", "bf16", "w8a8-minmax", "w4a16-minmax-g8"])
def test_a_shared_output_layer_counts_as_often_as_it_is_stored(scheme, tmp_path):
    config = Qwen2Config(
        vocab_size=40,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=1,
    )
    model = Qwen2ForCausalLM(config).eval()
    quantized = model if scheme is None else quantize(model, scheme)
    predicted = edgelib.packed_size(model, scheme)
    assert predicted == edgelib.packed_size(quantized)
    weights = sum(p.numel() for p in model.parameters())
    if scheme in ("fp16", "bf16"):
        assert predicted["total"] == 2 * weights
    loaded = load_packed(save_packed(quantized, tmp_path / "packed"))
    ids = torch.arange(12)[None]
    assert torch.equal(loaded(ids).logits, quantized(ids).logits)
    assert loaded.generation_config.to_dict() == model.generation_config.to_dict()


def test_a_model_that_writes_comes_back_with_its_processor(tmp_path):
    model = edgelib.load(qwen2_vl(tmp_path / "qwen2-vl"))
    quantized = quantize(model, "w4a8-minmax")
    predicted = edgelib.packed_size(model, "w4a8-minmax")
    assert predicted == edgelib.packed_size(quantized)
    loaded = load_packed(save_packed(quantized, tmp_path / "packed"))
    assert loaded.processor.tokenizer.get_vocab() == model.processor.tokenizer.get_vocab()
    ids = torch.arange(12)[None]
    assert torch.equal(loaded.module(ids).logits, quantized.module(ids).logits)


@pytest.mark.parametrize("scheme", ["bf16", "w4a8-minmax"])
def test_rotary_frequencies_that_were_changed_come_back(scheme, tmp_path):
    model = edgelib.load(qwen2_vl(tmp_path / "qwen2-vl"))
    twin = quantize(edgelib.with_outliers(model, "key-offset", 64), scheme)
    folder = save_packed(twin, tmp_path / "packed")
    ids = torch.arange(12)[None]
    for loaded in (load_packed(folder), load_packed(folder, like=model)):
        assert torch.equal(loaded.module(ids).logits, twin.module(ids).logits)
    assert not torch.equal(quantize(model, scheme).module(ids).logits, twin.module(ids).logits)
    plain = load_packed(save_packed(quantize(model, scheme), folder), like=twin)
    assert torch.equal(plain.module(ids).logits, quantize(model, scheme).module(ids).logits)
    (folder / COMPUTED).unlink()
    with pytest.raises(EdgelibError, match="lacks 'computed.safetensors'"):
        load_packed(folder)


def test_what_any_module_computes_comes_back_in_its_like(tmp_path):
    waves = Waves()
    waves.inv_freq *= 2
    folder = save_packed(quantize(waves, "w8a8-minmax"), tmp_path / "packed")
    assert torch.equal(load_packed(folder, like=Waves()).inv_freq, waves.inv_freq)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_model_is_loaded_on_the_cpu_wherever_its_like_is(packed):
    block, folder = packed
    loaded = load_packed(folder, like=copy.deepcopy(block).cuda())
    assert torch.equal(loaded(inputs(1)), load_packed(folder, like=block)(inputs(1)))


@pytest.mark.parametrize(
    ("scheme", "mib"), [("fp32", 577.1), ("fp16", 288.5), ("w8a8-minmax", 224.7), ("w4a8-minmax", 165.9)]
)
def test_clip_vit_b32_has_the_bytes_of_edgevlm_bench_s_table(scheme, mib):
    # its "FP16" row is fp32; the quantized rows are linears at 8 or 4 bit, fp32 scales, and the rest in fp32
    size = edgelib.packed_size(architecture("clip-vit-base-patch32"), scheme)
    assert round(size["total"] / MIB, 1) == mib


def test_qwen2_vl_2b_has_its_published_parameters():
    model = architecture("qwen2-vl-2b")
    weights = sum(p.numel() for p in model.parameters())
    assert weights == 2_208_985_600
    assert edgelib.packed_size(model, "bf16")["total"] == 2 * weights
    language = {"preset": "w4a16", "targets": ["model.language_model.*"]}
    kept = edgelib.packed_size(model, language, other_dtype=torch.bfloat16)["total"]
    rounded = sum(
        layer.weight.numel() for layer in model.model.language_model.modules() if isinstance(layer, nn.Linear)
    )
    assert kept == 2 * (weights - rounded) + rounded // 2 + 4 * rounded // 128


@pytest.mark.parametrize("name", architectures())
def test_an_architecture_has_shapes_and_no_weights(name):
    model = architecture(name)
    assert all(p.is_meta for p in model.parameters())
    sizes = [edgelib.packed_size(model, s)["total"] for s in ("fp32", "w8a8-minmax", "w4a8-minmax", "w3a8-minmax")]
    assert all(a > b for a, b in pairwise(sizes))


def test_an_architecture_on_a_device_has_weights_that_follow_the_seed(tmp_path):
    config = CLIPConfig(
        text_config={
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "vocab_size": 20,
        },
        vision_config={
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "image_size": 8,
            "patch_size": 4,
        },
        projection_dim=8,
        architectures=["CLIPModel"],
    )
    config.save_pretrained(tmp_path)
    state = torch.random.get_rng_state()
    a, b, c = (architecture(tmp_path, device="cpu", seed=seed).visual_projection.weight for seed in (0, 0, 1))
    assert torch.equal(a, b) and not torch.equal(a, c)
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("clip-vit-base-patch23", "did you mean 'clip-vit-base-patch32'"),
        ("{", "not valid JSON"),
        ('{"architectures": ["Popen"]}', "must name a model class of transformers"),
        ("[]", "must hold a model's configuration"),
    ],
)
def test_an_architecture_that_is_none_is_refused(spec, words, tmp_path):
    path = tmp_path / "config.json"
    path.write_text(spec)
    with pytest.raises(EdgelibError, match=words):
        architecture(path if spec[0] in "{[" else spec)


def test_a_preprocessor_comes_back_as_it_was(clip, tmp_path):
    from edgelib.models.preprocess import from_transformers

    write_preprocess(clip.preprocess, tmp_path)
    assert from_transformers(tmp_path) == clip.preprocess


@pytest.fixture
def packed(tmp_path):
    torch.manual_seed(0)
    block = Block().eval()
    return block, save_packed(quantize(block, "w8a8-minmax"), tmp_path / "packed")


def test_saving_again_replaces_the_model(packed):
    block, folder = packed
    save_packed(quantize(block, "w4a8-minmax"), folder)
    assert torch.equal(load_packed(folder, like=block)(inputs(1)), quantize(block, "w4a8-minmax")(inputs(1)))
    assert [path.name for path in folder.parent.iterdir()] == ["packed"]


@pytest.mark.parametrize(
    "error", [OSError(28, "disk full"), SafetensorError("I/O error: disk full")], ids=["system", "safetensors"]
)
def test_a_failed_save_leaves_the_old_model(packed, monkeypatch, error):
    block, folder = packed
    before = (folder / WEIGHTS).read_bytes()
    monkeypatch.setattr("edgelib.files.pack.write_slots", lambda *_: (_ for _ in ()).throw(error))
    with pytest.raises(EdgelibError, match="disk full"):
        save_packed(quantize(block, "w4a8-minmax"), folder)
    assert (folder / WEIGHTS).read_bytes() == before
    assert [path.name for path in folder.parent.iterdir()] == ["packed"]


def test_a_folder_with_other_things_is_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(EdgelibError, match="holds no packed model"):
        save_packed(Block(), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_values_that_do_not_fit_are_refused_before_anything_is_written(tmp_path):
    block = Block()
    block.norm1.weight.data[0] = 1e6
    with pytest.raises(EdgelibError, match=r"'norm1.weight' does not fit into torch.float16"):
        save_packed(block, tmp_path / "packed", other_dtype=torch.float16)
    assert not list(tmp_path.iterdir())


def test_a_module_that_transformers_does_not_build_needs_its_like(packed):
    with pytest.raises(EdgelibError, match="like="):
        load_packed(packed[1])


def test_a_packed_model_does_not_load_into_another(packed):
    with pytest.raises(EdgelibError, match="another model"):
        load_packed(packed[1], like=nn.Sequential(nn.Linear(8, 8)))
    with pytest.raises(EdgelibError, match="belongs to another model"):
        load_packed(packed[1], like=Block(width=16))


def test_a_folder_without_a_packed_model_says_what_is_missing(tmp_path):
    with pytest.raises(EdgelibError, match="write it with save_packed"):
        load_packed(tmp_path)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: edgelib.packed_size(Block(), "w4a8-minmax-g7"), "do not divide"),
        (lambda: edgelib.packed_size(Block(), "w8a8-minmax", other_dtype=torch.int8), "other_dtype is a floating"),
        (lambda: edgelib.packed_size(quantize(Block(), "w8a8-minmax"), "w4a8-minmax"), "quantized already"),
        (lambda: edgelib.packed_size(Block(), {"preset": "w8a8-minmax", "targets": ["head"]}), "matches none"),
    ],
)
def test_a_size_that_means_nothing_is_refused(call, words):
    with pytest.raises(EdgelibError, match=words):
        call()
