"""Grafts: a decoder read from any source, its tokenizer, a connector in closed form, refinement that can be stopped."""

from __future__ import annotations

import json
import sys
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

import edgelib
from edgelib.data.scenes.captions import vocabulary_text
from edgelib.errors import EdgelibError
from edgelib.files.gguf.write import save_gguf
from edgelib.train.graft.make import CONNECTOR, GraftRecipe, graft
from edgelib.train.graft.refine import Writer
from edgelib.train.graft.sources import find_decoder, read_decoder, save_text
from edgelib.train.graft.world import sentence, sights, words_of

pytest.importorskip("gguf", reason="the package gguf is not installed")
CHAT = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n'}}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
TEXTS = [
    "It's 12 o'clock, isn't it?  3.14159\n\n",
    "Grüße, 北京 — naïve café",
    "<|im_start|>user\nHi<|im_end|>\n",
    " a\tb ",
]


def words() -> PreTrainedTokenizerFast:
    """SmolLM2's way to cut text, on a vocabulary of the scenes."""
    built = Tokenizer(models.BPE())
    digits, letters = pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)
    built.pre_tokenizer, built.decoder = pre_tokenizers.Sequence([digits, letters]), decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=384, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    built.train_from_iterator(vocabulary_text()[:500], trainer)
    ends = dict(bos_token="<|im_start|>", eos_token="<|im_end|>", pad_token="<|im_end|>")
    return PreTrainedTokenizerFast(tokenizer_object=built, **ends)


@pytest.fixture(scope="module")
def small():
    """A decoder with random weights, its tokenizer and template, as `save_gguf` takes them."""
    tokenizer = words()
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=len(tokenizer),
        max_position_embeddings=256,
        tie_word_embeddings=True,
    )
    module = LlamaForCausalLM(config).eval().requires_grad_(False)
    return SimpleNamespace(
        name="small", module=module, processor=SimpleNamespace(tokenizer=tokenizer, chat_template=CHAT)
    )


@pytest.fixture(scope="module")
def file(small, tmp_path_factory):
    return save_gguf(small, tmp_path_factory.mktemp("gguf") / "small.gguf", "f32", pre="smollm")


@pytest.fixture(scope="module")
def refined(file, tmp_path_factory):
    out = tmp_path_factory.mktemp("graft") / "whole"
    return out, graft(out, decoder=str(file), steps=3, recipe=GraftRecipe(batch=2), report=lambda _: None)


def test_a_gguf_file_becomes_a_folder_of_transformers(small, file, tmp_path):
    save_text(str(file), tmp_path / "text")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "text")
    for (name, ours), theirs in zip(small.module.state_dict().items(), again.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs), name
    tokenizer, own = AutoTokenizer.from_pretrained(tmp_path / "text"), small.processor.tokenizer
    for text in TEXTS:
        assert tokenizer(text)["input_ids"] == own(text)["input_ids"]
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    said = [{"role": "user", "content": "Is it red?"}]
    asked = "<|im_start|>user\nIs it red?<|im_end|>\n<|im_start|>assistant\n"
    assert tokenizer.apply_chat_template(said, add_generation_prompt=True, tokenize=False) == asked
    assert read_decoder(str(tmp_path / "text")).digest == read_decoder(str(file)).digest


def test_a_graft_loads_and_answers_like_any_folder(refined, file, small):
    out, record = refined
    model = edgelib.load(str(out))
    assert record["steps"] == 3 and record["scenes"] == 6 and 0 < record["explained"] < 1
    assert json.loads((out / "graft.json").read_text()) == json.loads(json.dumps(record))
    decoder = small.module.state_dict()
    ours = model.module.state_dict()
    assert all(
        torch.equal(ours[f"model.language_model.{n.removeprefix('model.')}"], t)
        for n, t in decoder.items()
        if n.startswith("model.layers")
    )
    rows = edgelib.evaluate(model, edgelib.dataset("scenes-vqa", n=2))
    assert len(rows) == 8 and rows["logprob"].notna().all()
    assert model.prompts(["Is it red?"])[0].startswith("<|im_start|>user\n<image>Is it red?<|im_end|>")
