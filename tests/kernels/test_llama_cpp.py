"""llama.cpp on our files: the same network in float32, the same numbers in a mix, and what is refused."""

from __future__ import annotations

import importlib.util
import math

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

import edgelib
from edgelib.errors import EdgelibError
from edgelib.files.gguf.write import save_gguf
from edgelib.kernels.llama_cpp import engine as engines
from edgelib.kernels.llama_cpp.agreement import Pair, agreement_ladder, agreement_of, input_rounding
from edgelib.kernels.llama_cpp.engine import Engine
from edgelib.kernels.llama_cpp.speed import engine_speed
from edgelib.kv.cache import kv_cache

needs_engine = pytest.mark.skipif(
    not all(importlib.util.find_spec(name) for name in ("xllamacpp", "gguf")),
    reason="xllamacpp and gguf are not installed: pip install 'edgelib[llama-cpp]'",
)


def decoder():
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        vocab_size=96, max_position_embeddings=64, initializer_range=0.2,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval().requires_grad_(False)


@needs_engine
@pytest.mark.slow
def test_a_written_model_answers_images_as_its_simulation_does(tmp_path):
    """Bounds: in float32 nothing but the order of sums and tables of exp differ; files add rounding on other grids."""
    model, data = edgelib.load("scenes-vlm"), edgelib.dataset("scenes-vqa", n=6)
    images, questions = [data.images[i] for i in range(6)], list(data.rows["question"][:6])
    ladder = agreement_ladder(model, images, questions, "q4_k_m", tmp_path, threads=1).set_index("step")
    assert ladder.loc["engine", "top1"] == 1 and ladder.loc["engine", "kl"] < 1e-4
    assert ladder.loc["files", "kl"] < 1e-2
    assert ladder.loc["weights", "kl"] > ladder.loc["engine", "kl"]


@needs_engine
def test_a_decoder_in_float32_is_the_decoder(tmp_path):
    """Of "llama", whose rows are turned in the file."""
    model = decoder()
    file = save_gguf(model, tmp_path / "m.gguf", "f32")
    ids = [5, 17, 80, 3, 41, 9]
    with Engine(file, threads=1, cache_k="f32", cache_v="f32", context=64) as engine:
        said = engine.answer(ids, scores=96, tokens=3, stop=False)
    expected = model(input_ids=torch.tensor([ids])).logits[0, -1:].log_softmax(-1)
    assert said.scores.shape == (3, 96) and said.prompt_tokens == 6 and len(said.tokens) == 3
    measured = agreement_of(Pair(expected, said.scores[:1]))
    assert measured["top1"] == 1 and abs(measured["kl"]) < 1e-4 and measured["max_difference"] < 0.02


@needs_engine
@pytest.mark.parametrize("turned", [True, False], ids=["turned", "as it is"])
def test_a_quantized_cache_is_the_one_that_we_simulate(tmp_path, monkeypatch, turned):
    """Heads of 64, whose keys and values llama.cpp turns unless it is told not to. What is left is its rounding of
    queries to 8 bits. Of "qwen2", whose channels of a key stand in the file as in transformers."""
    torch.manual_seed(0)
    config = Qwen2Config(
        hidden_size=64, intermediate_size=64, num_hidden_layers=2, num_attention_heads=1, num_key_value_heads=1,
        vocab_size=96, max_position_embeddings=64, initializer_range=0.2, tie_word_embeddings=True,
    )  # fmt: skip
    model = Qwen2ForCausalLM(config).eval().requires_grad_(False)
    monkeypatch.setenv("LLAMA_ATTN_ROT_DISABLE", "0" if turned else "1")
    prompts = torch.randint(96, (4, 24), generator=torch.Generator().manual_seed(0))
    file = save_gguf(model, tmp_path / "m.gguf", "f32")
    with Engine(file, threads=1, cache_k="q4_0", cache_v="q4_0", context=64) as engine:
        said = torch.cat([engine.answer(ids, scores=96, stop=False).scores for ids in prompts.tolist()])

    def divergence(cache: str) -> float:
        scores = model(input_ids=prompts, past_key_values=kv_cache(model, cache)()).logits[:, -1].log_softmax(-1)
        return agreement_of(Pair(scores, said))["kl"]

    same, other = ("q4_0-hadamard", "q4_0") if turned else ("q4_0", "q4_0-hadamard")
    assert 10 * divergence(same) < min(divergence("fp32"), divergence(other))


@needs_engine
def test_speed_is_a_row_for_each_mix_cache_and_repeat(tmp_path):
    rows = engine_speed(
        decoder(), tmp_path, mixes=["f16", "q8_0"], caches=["f16"], prompt=8, tokens=4, repeats=2, threads=1
    )
    assert list(rows["mix"]) == ["f16", "f16", "q8_0", "q8_0"] and (rows["prompt_tokens"] == 8).all()
    assert (rows[["prompt_per_s", "decode_per_s", "decode_ms", "file_bytes"]] > 0).all(axis=None)


@needs_engine
def test_what_the_engine_refuses_is_said(tmp_path):
    with pytest.raises(EdgelibError, match="no file 'none.gguf' for llama.cpp"):
        Engine(tmp_path / "none.gguf")
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(save_gguf(decoder(), tmp_path / "m.gguf").read_bytes()[:-4000])
    with pytest.raises(EdgelibError, match="llama.cpp does not load 'broken.gguf'"):
        Engine(broken, threads=1)
    with pytest.raises(EdgelibError, match="unknown type of llama.cpp's cache 'q3_0'"):
        Engine(tmp_path / "m.gguf", cache_k="q3_0")
    with Engine(tmp_path / "m.gguf", threads=1, context=64) as engine:
        with pytest.raises(EdgelibError, match="llama.cpp refuses this prompt"):
            engine.answer(list(range(90)))
    with pytest.raises(EdgelibError, match="this engine is closed"):
        engine.answer([1])


def test_a_missing_engine_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setattr(engines, "find_spec", lambda name: None)
    with pytest.raises(EdgelibError, match=r"xllamacpp missing: install 'edgelib\[llama-cpp\]'"):
        Engine(tmp_path / "m.gguf")


def test_agreement_is_divergence_and_flips():
    one = torch.tensor([[0.5, 0.5], [0.9, 0.1]]).log()
    two = torch.tensor([[0.25, 0.75], [0.9, 0.1]]).log()
    measured = agreement_of(Pair(one, two))
    assert measured["kl"] == pytest.approx(0.5 * (0.5 * math.log(4 / 3)), abs=1e-4)
    assert measured["n"] == 2 and measured["max_difference"] == pytest.approx(0.6931, abs=1e-3)
    assert agreement_of(Pair(one, one))["kl"] == 0 and agreement_of(Pair(one, one))["top1"] == 1
    with pytest.raises(EdgelibError, match="two tensors of one shape"):
        agreement_of(Pair(one, two[:1]))


def test_inputs_are_rounded_in_the_blocks_of_the_weights():
    x = torch.randn(3, 512, generator=torch.Generator().manual_seed(0))
    for type, size in (("q4_k", 256), ("q5_0", 32)):
        rounded = input_rounding(type).round_rows(x)
        step = x.view(3, -1, size).abs().amax(-1, keepdim=True) / 127
        assert ((rounded - x).view(3, -1, size).abs() <= step * 0.51 + 0.13 * step).all()
        codes = rounded.view(3, -1, size) / step
        assert torch.allclose(codes, codes.round(), atol=0.1)
    assert torch.equal(input_rounding("fp16").round_rows(x), x.half().float())
