"""Grafts: a decoder read from any source, its tokenizer, a connector in closed form, refinement that can be stopped."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

import edgelib
from edgelib.data.scenes.captions import vocabulary_text
from edgelib.errors import EdgelibError
from edgelib.files.gguf.write import save_gguf
from edgelib.models.gguf.reader import GGUFFile
from edgelib.models.gguf.tokenizer import gguf_tokenizer
from edgelib.models.load import EMBEDDED
from edgelib.quant.rounded import grids_of, rounded_before
from edgelib.train.graft.make import CONNECTOR, SHIPPED, GraftRecipe, graft, light_connector, shipped_connectors
from edgelib.train.graft.refine import Refinement, read_checkpoint
from edgelib.train.graft.sources import find_decoder, read_decoder, read_tower, save_text
from edgelib.train.graft.world import DESCRIBE, cases, patch_shares, sentence, sights, words_of

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


QUICK = GraftRecipe(squares=(1, 1), batch=2)


def quiet(_: str) -> None:
    pass


@pytest.fixture(scope="module")
def refined(file, tmp_path_factory):
    out = tmp_path_factory.mktemp("graft") / "whole"
    return out, graft(out, decoder=str(file), steps=3, recipe=QUICK, report=quiet)


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


def test_a_stopped_refinement_goes_on_as_if_it_had_not_been(refined, file, tmp_path):
    out, record = refined
    graft(tmp_path, decoder=str(file), steps=1, recipe=QUICK, report=quiet)
    assert read_checkpoint(tmp_path / CONNECTOR)[2] == 1
    again = graft(tmp_path, decoder=str(file), steps=3, recipe=QUICK, report=quiet)
    differ = {key for key in record if record[key] != again[key]}
    assert differ <= {"seconds", "loss"}  # what was measured, and over which steps
    whole, parts = load_file(out / CONNECTOR), load_file(tmp_path / CONNECTOR)
    assert all(torch.equal(tensor, parts[name]) for name, tensor in whole.items())
    with pytest.raises(EdgelibError, match="trained with another recipe"):
        graft(tmp_path, decoder=str(file), steps=4, recipe=GraftRecipe(seed=1, squares=(1, 1)), report=quiet)


def test_a_connector_is_taken_from_another_graft_of_the_same_halves(refined, file, small, tmp_path):
    out, record = refined
    light = light_connector(out / CONNECTOR, tmp_path / "light.safetensors")
    taken = graft(tmp_path / "a", decoder=str(file), connector=str(light), report=quiet)
    ours, theirs = (load_file(folder / "model.safetensors") for folder in (out, tmp_path / "a"))
    assert all(torch.allclose(tensor, theirs[name], rtol=1e-3, atol=1e-6) for name, tensor in ours.items())
    assert taken["steps"] == record["steps"]
    torch.manual_seed(1)
    other = SimpleNamespace(name="other", module=LlamaForCausalLM(small.module.config), processor=small.processor)
    save_gguf(other, tmp_path / "other.gguf", "f32", pre="smollm")
    with pytest.raises(EdgelibError, match="made for the decoder 'small' with other weights"):
        graft(tmp_path / "b", decoder=str(tmp_path / "other.gguf"), connector=str(out / CONNECTOR), report=quiet)
    with pytest.raises(EdgelibError, match="there is no connector 'nobody'"):
        graft(tmp_path / "b", decoder=str(file), connector="nobody", report=quiet)


def test_what_is_learned_is_the_prompt_with_one_question(refined):
    """The loss of questions in one sequence is that of each of them in a prompt of its own."""
    model = edgelib.load(str(refined[0]))
    tower = read_tower("scenes-clip")
    work = Refinement(model.module, model.processor, tower, QUICK, {"layer": refined[1]["layer"]})
    [seen] = [next(sights(1, "test", 0))]
    asked = cases(seen.scenes, "test", 0)
    with torch.no_grad():
        together = float(work.loss(seen.images, asked))
    off, tokens = 0.0, 0
    for question, answer in asked[0]:
        blank, whole = (model.prepare(seen.images, [question], answers=[text]) for text in ("", f"{answer}<|im_end|>"))
        start = blank.texts["input_ids"].shape[1]
        features = model.features(whole.pixels)
        with torch.no_grad():
            logits = model.module(**model.decoder_inputs(whole, features)).logits[0].log_softmax(-1)
        ids = whole.texts["input_ids"][0, start:]
        off -= float(logits[start - 1 : -1].gather(1, ids[:, None]).sum())
        tokens += len(ids)
    assert together == pytest.approx(off / tokens, rel=1e-4)


def test_words_name_what_covers_a_patch():
    seen = next(sights(8, "train", 0))
    shares = patch_shares(seen.cover, 6)
    assert torch.allclose(shares.sum(-1), torch.ones(8, 36), atol=1e-5) and (shares >= 0).all()
    for scene in seen.scenes:
        named = words_of(scene, 3)
        assert len(named) == 4 and named[-1] == f"{scene.texture} background"
        assert all(name in sentence(scene).lower() for name in named)
    assert [own[0] for own in cases(seen.scenes, "train", 0)] == [(DESCRIBE, sentence(s)) for s in seen.scenes]


def test_halves_that_cannot_be_read_are_named(file, tmp_path, monkeypatch):
    with pytest.raises(EdgelibError, match="no installed package is called so.*make real"):
        find_decoder("llm_nobody")
    with pytest.raises(EdgelibError, match="package 'json' holds 0 GGUF files"):
        find_decoder("json")
    package = tmp_path / "holds_a_decoder"
    package.mkdir()
    (package / "__init__.py").write_text("raise SystemExit('code of a package ran')")
    (package / "small.gguf").write_bytes(file.read_bytes())
    monkeypatch.syspath_prepend(tmp_path)
    assert read_decoder("holds_a_decoder").name == "small"
    with pytest.raises(EdgelibError, match="a graft takes the vision tower of a clip or siglip"):
        read_tower("scenes-vit")
    with pytest.raises(EdgelibError, match="takes the text decoders llama, qwen2"):
        read_decoder("scenes-vlm")
    with pytest.raises(EdgelibError, match="minutes must be 0 or more"):
        graft(tmp_path / "x", decoder=str(file), minutes=-1, report=quiet)
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    "change,match",
    [
        ({"tokenizer.ggml.model": "llama"}, "kind 'llama', and only byte-level BPE"),
        ({"tokenizer.ggml.pre": "smolm"}, "did you mean 'smollm'"),
        ({"tokenizer.ggml.tokens": None}, "has no tokenizer.ggml.tokens"),
        ({"tokenizer.ggml.merges": ["q q"]}, "merges of 'small.gguf' do not fit"),
    ],
    ids=["sentencepiece", "unknown cut", "no tokens", "strange merges"],
)
def test_tokenizers_that_cannot_be_read_are_refused(file, change, match):
    opened = GGUFFile(file)
    opened.metadata |= change
    with pytest.raises(EdgelibError, match=match):
        gguf_tokenizer(opened)


@pytest.mark.parametrize("pre", ["gpt-2", "smollm", "qwen2", "llama-bpe"])
def test_every_way_of_cutting_text_gives_the_text_back(file, pre):
    opened = GGUFFile(file)
    opened.metadata |= {"tokenizer.ggml.pre": pre, "tokenizer.ggml.add_bos_token": True}
    made = gguf_tokenizer(opened)
    for text in TEXTS:
        ids = made(text)["input_ids"]
        assert ids[0] == made.bos_token_id and made.decode(ids[1:]) == text
    one, grouped = ("1234", 4 if pre in ("smollm", "qwen2") else 1 if pre == "gpt-2" else 2)
    words = made.backend_tokenizer.pre_tokenizer.pre_tokenize_str(one)
    assert len(words) == grouped


def test_a_decoder_from_a_file_of_4_bits_lies_on_the_file_s_grid(small, tmp_path):
    file = save_gguf(small, tmp_path / "small.gguf", "q4_1", pre="smollm")
    module = read_decoder(str(file)).module
    told = rounded_before(module)
    inner = told["layer"].str.contains("layers")
    assert told["rounded"][inner].all() and grids_of(module) == ["q4_1"]
    assert not rounded_before(small.module)["rounded"].any()


def test_connectors_that_ship_say_where_they_come_from():
    for name in shipped_connectors():
        file = EMBEDDED / SHIPPED / f"{name}.safetensors"
        _, told, steps, _ = read_checkpoint(file)
        assert {"decoder", "decoder_sha256", "tower", "tower_sha256", "layer", "recipe"} <= set(told)
        assert steps > 0 and file.stat().st_size < 2**21
