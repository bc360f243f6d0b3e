"""GGUF files: bytes predicted, names as in llama.cpp, weights read back, importance files, and what is refused."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

import edgelib
from edgelib.errors import EdgelibError
from edgelib.files.gguf.imatrix import load_imatrix, save_imatrix
from edgelib.files.gguf.tokens import spelled
from edgelib.files.gguf.write import gguf_size, save_gguf
from edgelib.models.gguf.names import entries, halved, interleaved
from edgelib.models.gguf.reader import GGUFFile, load_gguf
from edgelib.quant.linear import QuantLinear
from edgelib.quant.quantize import quantize

gguf = pytest.importorskip("gguf", reason="the package gguf is not installed")


@pytest.fixture(scope="module")
def vlm():
    return edgelib.load("scenes-vlm")


def decoder(kind: str = "llama", tied: bool = False):
    config, model = {"llama": (LlamaConfig, LlamaForCausalLM), "qwen2": (Qwen2Config, Qwen2ForCausalLM)}[kind]
    torch.manual_seed(0)
    sizes = dict(hidden_size=256, intermediate_size=320, num_hidden_layers=2, vocab_size=64, max_position_embeddings=64)
    heads = dict(num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=tied)
    return model(config(**sizes, **heads)).eval().requires_grad_(False)


@pytest.mark.parametrize("mix", ["f32", "f16", "q8_0", "Q4_K_M", "iq4_xs"])
def test_files_have_the_bytes_that_were_predicted(vlm, tmp_path, mix):
    for part in ("decoder", "vision"):
        file = save_gguf(vlm, tmp_path / f"{part}.gguf", mix, part=part)
        size = gguf_size(vlm, mix, part=part)
        assert file.stat().st_size == size["total"] == size["header"] + sum(size["by_type"].values())
    assert not [p for p in tmp_path.iterdir() if p.suffix == ".tmp"]


@pytest.mark.parametrize("kind,tied", [("llama", False), ("llama", True), ("qwen2", True)])
def test_text_decoders_are_written_and_built_again(tmp_path, kind, tied):
    model = decoder(kind, tied)
    file = save_gguf(model, tmp_path / "m.gguf", "f32")
    assert file.stat().st_size == gguf_size(model, "f32")["total"]
    again = load_gguf(file)
    for (name, one), two in zip(model.state_dict().items(), again.state_dict().values(), strict=True):
        assert torch.equal(one, two), name
    ids = torch.arange(9)[None]
    assert torch.allclose(model(input_ids=ids).logits, again(input_ids=ids).logits, atol=1e-5)


def test_names_are_those_of_llama_cpp(vlm):
    """The package's own map knows transformers' names and llama.cpp's."""
    maps = {
        "decoder": gguf.get_tensor_name_map(gguf.MODEL_ARCH.QWEN2VL, 4),
        "vision": gguf.get_tensor_name_map(gguf.MODEL_ARCH.MMPROJ, 4),
    }
    for part, names in maps.items():
        for entry in entries(vlm.module, part):
            if entry.part or "patch_embd" in entry.name:
                continue  # one parameter, several tensors
            theirs = entry.parameter.removeprefix("model.").replace("language_model.", "model.")
            assert names.get_name(theirs, (".weight", ".bias")) == entry.name


def test_weights_are_those_of_quantize(vlm, tmp_path):
    scheme = "gguf-q4_k_m+q8_0"
    quantized = quantize(vlm, scheme)
    decoder, vision = (
        save_gguf(vlm, tmp_path / f"{p}.gguf", m, part=p) for p, m in (("decoder", "q4_k_m"), ("vision", "q8_0"))
    )
    read = load_gguf(decoder, vision=vision, like=vlm)
    assert read.name == "decoder.gguf (dequantized)"
    for name, layer in quantized.module.named_modules():
        if isinstance(layer, QuantLinear):
            assert torch.equal(layer.weight, read.module.get_submodule(name).weight), name
    tables = [m.get_input_embeddings().weight for m in (quantized.module, read.module, vlm.module)]
    assert torch.equal(tables[0], tables[1]) and not torch.equal(tables[1], tables[2])
    assert (
        read.module.model.visual.patch_embed.proj.weight.shape == vlm.module.model.visual.patch_embed.proj.weight.shape
    )


def test_types_are_in_the_file(vlm, tmp_path):
    opened = GGUFFile(save_gguf(vlm, tmp_path / "m.gguf", "q4_k_m"))
    assert opened.types["blk.0.attn_q.weight"] == "Q5_0" and opened.types["output.weight"] == "Q8_0"
    assert opened.types["blk.0.attn_norm.weight"] == opened.types["blk.0.attn_q.bias"] == "F32"
    assert opened.metadata["general.file_type"] == 15 and opened.value("rope.dimension_sections") == [4, 6, 6, 0]


def test_a_loaded_file_is_a_model(tmp_path):
    file = save_gguf(decoder(), tmp_path / "m.gguf", "q8_0")
    assert isinstance(edgelib.load(file), LlamaForCausalLM)


def test_rows_of_llama_are_turned_and_turned_back():
    """HF's half-split rotation pairs row i with row i + d/2; llama.cpp's pairs neighbours."""
    rows = torch.arange(8.0)[:, None]
    assert interleaved(1)(rows)[:, 0].tolist() == [0, 4, 1, 5, 2, 6, 3, 7]
    assert torch.equal(halved(2)(interleaved(2)(rows)), rows)


def test_whole_words_are_spelled_with_a_blank(vlm):
    ids = vlm.tokenizer("<|im_start|>user what color?<|im_end|>").input_ids
    assert spelled(vlm.tokenizer, ids) == "<|im_start|> user what color ?<|im_end|>"


def importance(model, value=1.0) -> dict:
    names = [e.layer for e in entries(model) if e.name.startswith("blk.") and ".attn_q.w" in e.name]
    return {name: value * torch.rand(256, generator=torch.Generator().manual_seed(1)) for name in names}


def test_importance_is_exported_imported_and_used(tmp_path):
    model = decoder("qwen2")
    weights = importance(model)
    file = save_imatrix(model, weights, tmp_path / "imatrix.gguf")
    read = load_imatrix(model, file)
    assert read.keys() == weights.keys() and all(torch.equal(read[name], weights[name]) for name in read)
    plain, weighed = (
        GGUFFile(save_gguf(model, tmp_path / f"{i}.gguf", "q4_k_m", importance=w)) for i, w in enumerate((None, read))
    )
    assert not torch.equal(plain.decoded("blk.0.attn_q.weight"), weighed.decoded("blk.0.attn_q.weight"))
    assert torch.equal(plain.decoded("output.weight"), weighed.decoded("output.weight"))


def old_imatrix(path: Path, values: np.ndarray, name: str = "blk.0.attn_q.weight", calls: int = 4) -> Path:
    name_bytes = name.encode()
    head = struct.pack("<ii", 1, len(name_bytes)) + name_bytes + struct.pack("<ii", calls, len(values))
    path.write_bytes(head + (values * calls).astype("<f4").tobytes() + struct.pack("<i", 0))
    return path


def test_old_importance_files_are_read(tmp_path):
    model = decoder("qwen2")
    values = np.linspace(0, 2, 256, dtype=np.float32)
    read = load_imatrix(model, old_imatrix(tmp_path / "imatrix.dat", values))
    assert torch.allclose(read["model.layers.0.self_attn.q_proj"], torch.from_numpy(values))


@pytest.mark.parametrize(
    "values,name,words",
    [
        (np.ones(255), "blk.0.attn_q.weight", "255 values for 'blk.0.attn_q.weight', whose rows have 256"),
        (np.full(256, np.nan), "blk.0.attn_q.weight", "NaN, infinite or negative values"),
        (np.zeros(256), "blk.0.attn_q.weight", "0 throughout for 'blk.0.attn_q.weight'"),
        (np.ones(256), "blk.7.attn_q.weight", "no tensor of this model, but of blk.7.attn_q.weight"),
    ],
)
def test_importance_without_meaning_is_refused(tmp_path, values, name, words):
    with pytest.raises(EdgelibError, match=words):
        load_imatrix(decoder("qwen2"), old_imatrix(tmp_path / "i.dat", values, name))


def test_importance_of_the_wrong_length_names_the_tensor(tmp_path):
    model = decoder("qwen2")
    wrong = {name: torch.ones(8) for name in importance(model)}
    with pytest.raises(EdgelibError, match=r"'blk.0.attn_q.weight': importance is a tensor \[columns\].*256"):
        save_gguf(model, tmp_path / "m.gguf", "q4_k_m", importance=wrong)
    assert not list(tmp_path.iterdir())


def damaged(tmp_path, change) -> Path:
    file = save_gguf(decoder("qwen2"), tmp_path / "m.gguf", "q8_0")
    file.write_bytes(change(file.read_bytes()))
    return file


@pytest.mark.parametrize(
    "change,words",
    [
        (lambda data: data[:-40], "no GGUF file, or damaged or cut short"),
        (lambda data: data[:100], "no GGUF file, or damaged or cut short"),
        (lambda data: b"GGML" + data[4:], "no GGUF file, or damaged or cut short"),
        (lambda data: data.replace(b"qwen2", b"qwenX", 1), "unknown architecture in 'm.gguf': 'qwenX'"),
    ],
)
def test_damaged_and_foreign_files_are_refused(tmp_path, change, words):
    with pytest.raises(EdgelibError, match=words):
        load_gguf(damaged(tmp_path, change))


def test_a_foreign_type_is_named(tmp_path):
    file = tmp_path / "m.gguf"
    writer = gguf.GGUFWriter(file, "qwen2")
    writer.add_tensor("a.weight", np.zeros((2, 66), np.uint8), raw_dtype=gguf.GGMLQuantizationType.IQ2_XXS)
    writer.write_header_to_file(), writer.write_kv_data_to_file(), writer.write_tensors_to_file(), writer.close()
    with pytest.raises(EdgelibError, match="'a.weight' of 'm.gguf' is of type IQ2_XXS, which is not known here.*Q4_K"):
        GGUFFile(file).decoded("a.weight")


def test_what_does_not_fit_is_refused(vlm, tmp_path):
    file = save_gguf(vlm, tmp_path / "m.gguf", "q8_0")
    with pytest.raises(EdgelibError, match="the decoder of a qwen2vl.*like=load"):
        load_gguf(file)
    with pytest.raises(EdgelibError, match="holds a qwen2vl, and the model to read it into is a llama"):
        load_gguf(file, like=decoder())
    with pytest.raises(EdgelibError, match="holds a qwen2vl, not a vision tower"):
        load_gguf(file, vision=file, like=vlm)
    with pytest.raises(EdgelibError, match="quantized already; a file is made from the baseline"):
        save_gguf(quantize(vlm, "gguf-q8_0"), tmp_path / "n.gguf", "q8_0")
    with pytest.raises(EdgelibError, match="unknown mix of a GGUF file 'q4_k_x'.*did you mean"):
        save_gguf(vlm, tmp_path / "n.gguf", "q4_k_x")
    with pytest.raises(EdgelibError, match="clip model cannot be written as GGUF here"):
        save_gguf(edgelib.load("scenes-clip"), tmp_path / "n.gguf")
    with pytest.raises(EdgelibError, match="there is no file 'none.gguf'"):
        load_gguf(tmp_path / "none.gguf")
