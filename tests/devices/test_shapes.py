"""Dimensions of models from their configurations: those of the built model, of the model cards, and refusals."""

from __future__ import annotations

import json
import re
from dataclasses import astuple

import pytest
import transformers
from torch import nn

from edgelib.devices.shapes import FOLDER, architectures, decoder, encoder, encoder_of, read_architecture
from edgelib.errors import EdgelibError
from edgelib.models.architectures import architecture

ENCODERS = ("clip-vit-base-patch32", "clip-vit-large-patch14", "owlvit-b16", "owlvit-b32", "qwen2-vl-2b")
DECODERS = [name for name in architectures() if not name.startswith(("clip", "owlvit"))]
# hidden, layers, heads, key-value heads, width of a head, MLP, vocabulary, tied
SHAPES = {
    "llama-2-7b": (4096, 32, 32, 32, 128, 11008, 32000, False),
    "llama-3.2-3b": (3072, 28, 24, 8, 128, 8192, 128256, True),
    "qwen2-vl-2b": (1536, 28, 12, 2, 128, 8960, 151936, True),
    "qwen3-0.6b": (1024, 28, 16, 8, 128, 3072, 151936, True),
    "gemma-3-12b": (3840, 48, 16, 8, 256, 15360, 262208, True),
    "cosmos-reason2-2b": (2048, 28, 16, 8, 128, 6144, 151936, True),
}
# hidden, layers, heads, MLP, patch, image, extra tokens, projection
TOWERS = {
    "clip-vit-base-patch32": (768, 12, 12, 3072, 32, 224, 1, 512),
    "clip-vit-large-patch14": (1024, 24, 16, 4096, 14, 224, 1, 768),
    "owlvit-b16": (768, 12, 12, 3072, 16, 768, 1, 0),
    "qwen2-vl-2b": (1280, 32, 16, 5120, 14, 448, 0, 0),
}


def linear_weights(module: nn.Module) -> int:
    return sum(layer.weight.numel() for layer in module.modules() if isinstance(layer, nn.Linear))


def blocks(model: nn.Module, part: str) -> nn.Module:
    """The longest list of layers whose name has the part in it."""
    found = [(m, name) for name, m in model.named_modules() if isinstance(m, nn.ModuleList) and re.search(part, name)]
    return max(found, key=lambda pair: len(pair[0]))[0]


@pytest.mark.parametrize("name", architectures())
def test_an_architecture_says_where_it_is_from(name):
    path = FOLDER / f"{name}.json"
    assert json.loads(path.read_text())["source"]
    assert "source" not in read_architecture(name)


@pytest.mark.parametrize("name", DECODERS)
def test_a_decoder_has_the_weights_of_its_model(name):
    shape, model = decoder(name), architecture(name)
    assert linear_weights(blocks(model, r"^(model\.)?(language_model\.)?layers$")) == shape.body
    assert model.get_input_embeddings().weight.shape == (shape.vocab, shape.hidden)
    assert (model.get_output_embeddings().weight is model.get_input_embeddings().weight) == shape.tied


@pytest.mark.parametrize("name", ENCODERS)
def test_an_encoder_has_the_weights_of_its_model(name):
    shape, model = encoder(name), architecture(name)
    assert linear_weights(blocks(model, r"vision_model|visual")) == shape.body
    assert (shape.image // shape.patch) ** 2 + shape.extra == shape.tokens


@pytest.mark.parametrize(("name", "shape"), SHAPES.items(), ids=list(SHAPES))
def test_a_decoder_is_read_from_its_configuration(name, shape):
    assert astuple(decoder(name)) == shape


@pytest.mark.parametrize(("name", "shape"), TOWERS.items(), ids=list(TOWERS))
def test_an_encoder_is_read_from_its_configuration(name, shape):
    assert astuple(encoder(name)) == shape


@pytest.mark.parametrize("name", ["clip-vit-base-patch32", "clip-vit-large-patch14", "qwen2-vl-2b"])
def test_a_configuration_of_transformers_has_the_same_shape(name):
    assert encoder_of(architecture(name).config) == encoder_of(architecture(name).config.vision_config) == encoder(name)


@pytest.mark.parametrize("name", ["SiglipModel", "Qwen3VLForConditionalGeneration"])
def test_other_families_have_the_weights_of_their_model(name, tmp_path):
    config = getattr(transformers, name).config_class(architectures=[name])
    (tmp_path / "config.json").write_text(json.dumps(config.to_dict(), default=str))
    assert linear_weights(blocks(architecture(tmp_path), r"vision_model|visual")) == encoder(tmp_path).body


def test_parameters_are_those_of_the_published_models():
    """Totals as the model cards give them, norms and biases left out."""
    published = {
        "llama-2-7b": 6.738,
        "llama-2-13b": 13.016,
        "llama-3-8b": 8.030,
        "llama-3.2-3b": 3.213,
        "qwen2-0.5b": 0.494,
        "qwen2-1.5b": 1.544,
        "qwen2-7b": 7.616,
        "qwen3-0.6b": 0.596,
        "qwen3-1.7b": 1.721,
        "qwen3-4b": 4.022,
    }
    for name, billions in published.items():
        model = decoder(name)
        assert (model.body + model.head + model.embedding) / 1e9 == pytest.approx(billions, rel=1e-3), name
    tower = encoder("clip-vit-base-patch32")
    assert tower.tokens == 50 and (tower.body + tower.stem) / 1e6 == pytest.approx(87.8, rel=2e-3)


def test_a_configuration_of_ones_own_is_an_architecture(tmp_path):
    config = read_architecture("qwen2-0.5b") | {"num_hidden_layers": 3}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert decoder(tmp_path).layers == decoder(tmp_path / "config.json").layers == 3


BAD = {
    "unknown": (lambda: decoder("llama-3-9b"), "did you mean 'llama-3-8b'"),
    "no decoder": (
        lambda: decoder("clip-vit-base-patch32"),
        "is no decoder .*choose from .*qwen2-vl-2b",
    ),
    "no encoder": (lambda: encoder("qwen2-0.5b"), "no patch_size.*choose from .*clip-vit-base-patch32"),
    "text for a number": (lambda: encoder_of({"vision_config": {"hidden_size": "8"}}), "hidden_size '8'"),
    "infinite": (lambda: encoder_of({"hidden_size": float("inf")}), "hidden_size inf"),
    "no table": (lambda: encoder_of({"vision_config": "x"}), "vision_config must be a table"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_named(case):
    run, words = BAD[case]
    with pytest.raises(EdgelibError, match=words):
        run()


@pytest.mark.parametrize("data", [b"[1]", b"{", b"\xff\xfe\x00", b"[" * 100_000], ids=["list", "cut", "binary", "deep"])
def test_a_file_that_is_no_configuration_is_named(tmp_path, data):
    (tmp_path / "config.json").write_bytes(data)
    with pytest.raises(EdgelibError, match="config.json (is not valid JSON|must hold)"):
        read_architecture(tmp_path)
