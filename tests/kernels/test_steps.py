"""Decoding: whole prompts and steps with a cache are the whole sequence at once, on every kernel."""

from __future__ import annotations

import copy
import functools
import importlib.util

import pytest
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

from edgelib.errors import EdgelibError
from edgelib.kernels.roundings import computed_by
from edgelib.kernels.steps import decode, decoder_of
from edgelib.kernels.table import prepared
from edgelib.quant.quantize import quantize


@pytest.fixture(scope="module")
def model():
    config = Qwen2Config(
        vocab_size=48,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=1,
    )
    torch.manual_seed(0)
    model = Qwen2ForCausalLM(config).eval().requires_grad_(False)
    for parameter in model.parameters():
        if parameter.dim() == 1:
            parameter.data = torch.randn_like(parameter)  # the biases of q, k and v start at zero
        else:
            parameter.data *= 5
    return model


@pytest.fixture(scope="module")
def prompt():
    return torch.randint(0, 48, (2, 5), generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def decoders(model):
    return functools.cache(lambda kernel: decoder_of(model, kernel))


OPENVINO = ["openvino-fp32"] if importlib.util.find_spec("openvino") else []


@pytest.mark.parametrize("kernel", ["torch-fp32", "onnx-fp32", *OPENVINO])
def test_steps_are_the_whole_sequence_at_once(kernel, decoders, model, prompt):
    found = decode(decoders(kernel), prompt, 6)
    whole = model(torch.cat([prompt, found.tokens], 1)).logits[:, prompt.shape[1] - 1 : -1]
    assert found.tokens.shape == (2, 6)
    assert torch.allclose(found.logits, whole, atol=1e-4)
    assert torch.equal(found.tokens, found.logits.argmax(-1))


@pytest.mark.parametrize("kernel", ["torch-fp32", "onnx-fp32", *OPENVINO])
@pytest.mark.parametrize("cuts", [(1, 1, 1, 1), (3, 1), (1, 4, 2), (8, 8)], ids=str)
def test_a_prompt_may_be_read_in_any_pieces(kernel, cuts, decoders, model):
    """8 is the width of a head, where keys and a head are of one size; each piece has the logits of the whole."""
    prompt = torch.randint(0, 48, (3, sum(cuts)), generator=torch.Generator().manual_seed(1))
    whole, cache, position = model(prompt).logits, None, 0
    for cut in cuts:
        logits, cache = decoders(kernel).step(prompt[:, position : position + cut], position, cache)
        position += cut
        assert torch.allclose(logits, whole[:, position - 1], atol=1e-4)


def test_a_llama_is_read_whole_too(prompt):
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=48, hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=4,
        num_key_value_heads=4, head_dim=16, initializer_range=0.2,
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval().requires_grad_(False)
    found = decode(decoder_of(model, "onnx-fp32"), prompt, 2)
    whole = model(torch.cat([prompt, found.tokens], 1)).logits[:, prompt.shape[1] - 1 : -1]
    assert torch.allclose(found.logits, whole, atol=1e-4)


@pytest.mark.parametrize(("kernel", "scheme"), [("onnx-int8", "w8a8-minmax"), ("onnx-int4", "w4a16-minmax-g32")])
def test_integer_kernels_decode_as_simulated(kernel, scheme, model, prompt):
    quantized = quantize(model, scheme)
    real = decode(decoder_of(quantized, kernel), prompt, 4)
    simulated = decode(decoder_of(computed_by(quantized, kernel)), prompt, 4)
    assert torch.equal(real.tokens, simulated.tokens)
    moved = (real.logits - simulated.logits).abs().max()
    assert moved < 0.1 * (simulated.logits - decode(decoder_of(model), prompt, 4).logits).abs().max()


@pytest.mark.skipif(not OPENVINO, reason="openvino is not installed: edgelib[openvino]")
def test_openvino_decodes_4_bit_weights_as_simulated(model, prompt):
    quantized = quantize(model, "w4a16-minmax-g32")
    real = decode(decoder_of(quantized, "openvino-int4"), prompt, 4)
    simulated = decode(decoder_of(computed_by(quantized, "openvino-int4")), prompt, 4)
    assert torch.equal(real.tokens, simulated.tokens)
    assert torch.allclose(real.logits, simulated.logits, atol=1e-3 * float(simulated.logits.abs().max()))


def test_bfloat16_decodes_about_the_same(model, prompt):
    exact, rounded = (decode(decoder_of(model, kernel), prompt, 1).logits for kernel in ("torch-fp32", "torch-bf16"))
    assert torch.allclose(rounded, exact, atol=0.05 * float(exact.abs().max()))
    assert model.dtype == torch.float32


@pytest.mark.parametrize("kernel", ["torch-fp32", "onnx-fp32"])
def test_a_model_in_half_precision_decodes_in_float32(kernel, model, prompt):
    half = copy.deepcopy(model).bfloat16()
    found = decode(decoder_of(half, kernel), prompt, 3)
    expected = decode(decoder_of(copy.deepcopy(half).float()), prompt, 3)
    assert torch.allclose(found.logits, expected.logits, atol=1e-3) and half.dtype == torch.bfloat16


def test_rotary_frequencies_stay_in_float32(model):
    assert torch.equal(prepared(model, "torch-bf16").model.rotary_emb.inv_freq, model.model.rotary_emb.inv_freq)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda m: decoder_of(m, "onnx-int8"), r"pass quantize\(model, 'w8a8-minmax'\)"),
        (lambda m: decoder_of(m, "onnx-int9"), "unknown kernel"),
        (lambda m: decoder_of(nn.Linear(4, 4), "onnx-fp32"), "no causal language model"),
    ],
)
def test_what_cannot_decode_is_refused(call, words, model):
    with pytest.raises(EdgelibError, match=words):
        call(model)
