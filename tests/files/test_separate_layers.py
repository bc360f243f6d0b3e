"""Packed attention and mixtures of experts, which are taken apart to be quantized, in files of both kinds."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from transformers import MixtralConfig, MixtralForCausalLM, SiglipConfig, SiglipModel
from transformers.utils import logging
from vlm_folders import VISION

import edgelib
from edgelib.errors import EdgelibError
from edgelib.files.compressed_tensors import save_compressed_tensors
from edgelib.files.pack import load_packed, save_packed
from edgelib.files.pack_file import WEIGHTS
from edgelib.files.size import weight_bits
from edgelib.kernels.roundings import computed_by
from edgelib.quant.quantize import quantize

HEADER = 4096  # bytes


def siglip() -> tuple[SiglipModel, dict, str]:
    """A SigLIP, whose pooling head is an nn.MultiheadAttention, its inputs, and the pattern that leaves that out."""
    torch.manual_seed(0)
    text = VISION | dict(vocab_size=40, max_position_embeddings=8, projection_size=16)
    config = SiglipConfig(text_config=text, vision_config=VISION | dict(image_size=16, patch_size=8))
    inputs = {"pixel_values": torch.randn(2, 3, 16, 16), "input_ids": torch.arange(16).view(2, 8)}
    return SiglipModel(config).eval(), inputs, "vision_model.head.attention.*"


def mixtral() -> tuple[MixtralForCausalLM, dict, str]:
    """A mixture of four experts in two layers."""
    torch.manual_seed(0)
    sizes = dict(hidden_size=16, intermediate_size=32, num_attention_heads=2, num_key_value_heads=1)
    config = MixtralConfig(vocab_size=40, num_hidden_layers=2, num_local_experts=4, num_experts_per_tok=2, **sizes)
    return MixtralForCausalLM(config).eval(), {"input_ids": torch.arange(12).view(2, 6)}, "*.experts.*"


def outputs(model, inputs) -> torch.Tensor:
    with torch.no_grad():
        made = model(**inputs)
    return made.logits if "logits" in made else made.logits_per_image


FAMILIES = pytest.mark.parametrize("family", [siglip, mixtral], ids=["attention", "experts"])


@FAMILIES
@pytest.mark.parametrize("scheme", ["w8a8-minmax", "w4a16-minmax-g8", "mxfp4", "bf16"])
def test_a_packed_model_computes_what_was_saved(family, scheme, tmp_path):
    model, inputs, _ = family()
    quantized = quantize(model, scheme)
    predicted = edgelib.packed_size(model, scheme)
    assert predicted == edgelib.packed_size(quantized)
    folder = save_packed(quantized, tmp_path / "packed")
    assert 0 < (folder / WEIGHTS).stat().st_size - predicted["total"] < HEADER
    for like in (None, model, quantized):
        loaded = load_packed(folder, like=like)
        assert torch.equal(outputs(loaded, inputs), outputs(quantized, inputs))
        assert edgelib.quantization_report(loaded).equals(edgelib.quantization_report(quantized))


@FAMILIES
def test_a_model_that_was_not_quantized_stays_in_one_piece(family, tmp_path):
    model, inputs, _ = family()
    loaded = load_packed(save_packed(model, tmp_path / "packed"))
    assert loaded.state_dict().keys() == model.state_dict().keys()
    torch.testing.assert_close(outputs(loaded, inputs), outputs(model, inputs), rtol=1e-5, atol=1e-6)


@FAMILIES
def test_bits_count_the_parts(family):
    model, _, _ = family()
    assert 8 < weight_bits(model, "w8a16-minmax") < 12


@FAMILIES
def test_an_export_puts_parts_together_that_were_left_alone(family, tmp_path):
    model, inputs, parts = family()
    quantized = quantize(model, {"preset": "w8a8-minmax", "exclude": [parts]})
    folder = save_compressed_tensors(quantized, tmp_path / "checkpoint")
    logging.disable_progress_bar()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        loaded, info = type(model).from_pretrained(folder, output_loading_info=True)
    assert not any(info.values()), info
    same = computed_by(quantized, "compressed-tensors")
    assert torch.allclose(outputs(loaded.eval(), inputs), outputs(same, inputs), atol=2e-4, rtol=0)


@FAMILIES
def test_an_export_refuses_parts_that_transformers_loads_as_one(family, tmp_path):
    model, _, _ = family()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(EdgelibError, match="is a part of a .*exclude"):
        save_compressed_tensors(quantize(model, "w8a16"), tmp_path / "checkpoint")
    assert not list(tmp_path.iterdir())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
