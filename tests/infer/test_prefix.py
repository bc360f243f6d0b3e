"""Questions about one image share what is read before them: the same scores, and nothing shared that looks ahead."""

from __future__ import annotations

import pandas as pd
import pytest
import torch
import vlm_folders

from edgelib import load, quantize
from edgelib.data.questions import QuestionSet
from edgelib.infer import prefix
from edgelib.infer.decode import decode
from edgelib.infer.generate import generate
from edgelib.tasks.pope import POPE

FAMILIES = {f.__name__: f for f in (vlm_folders.qwen2_vl, vlm_folders.idefics3, vlm_folders.llava_onevision)}
TEXTS = ["how many", "is there a red circle in the image", "what colour is the circle or the red or the"]
IMAGE = 9


@pytest.fixture(scope="module", params=FAMILIES)
def model(request, tmp_path_factory):
    return load(FAMILIES[request.param](tmp_path_factory.mktemp(request.param)))


@pytest.fixture(scope="module")
def qwen(tmp_path_factory):
    return load(vlm_folders.qwen2_vl(tmp_path_factory.mktemp("qwen")))


@pytest.fixture
def images():
    """Three images, of which Qwen2-VL makes different numbers of tokens."""
    generator = torch.Generator().manual_seed(1)
    sizes = [(48, 48), (96, 48), (48, 72)]
    return [torch.randint(0, 256, (3, h, w), dtype=torch.uint8, generator=generator) for h, w in sizes]


WHICH = torch.tensor([0, 2, 1, 0, 2, 0, 2])
QUESTIONS = [TEXTS[i % 3] for i in range(len(WHICH))]


def both(model, images):
    prompts = model.prepare(images, QUESTIONS, WHICH)
    features = model.features(prompts.pixels)
    assert prefix.read_images(model, prompts, features) is not None
    return [decode(model, prompts, features, max_new_tokens=6, share=share) for share in (False, True)]


def test_shared_images_give_the_scores_of_whole_prompts(model, images):
    plain, shared = both(model, images)
    assert torch.equal(plain.tokens, shared.tokens) and torch.equal(plain.length, shared.length)
    for name in ("logprob", "margin", "first"):
        torch.testing.assert_close(getattr(shared, name), getattr(plain, name), atol=1e-4, rtol=1e-4)
    assert len(plain.tokens.unique(dim=0)) > 1


def test_a_quantized_decoder_shares_too(qwen, images):
    plain, shared = both(quantize(qwen, "w8a16"), images)
    torch.testing.assert_close(shared.first, plain.first, atol=1e-4, rtol=1e-4)


def test_the_image_is_read_once(qwen, images):
    read = []
    hook = qwen.module.get_decoder().layers[0].register_forward_hook(lambda layer, given, out: read.append(len(out)))
    prompts = qwen.prepare(images, QUESTIONS, WHICH)
    features = qwen.features(prompts.pixels)
    prefix.looks_back(qwen, prompts, features), read.clear()
    try:
        decode(qwen, prompts, features, max_new_tokens=1, share=True)
    finally:
        hook.remove()
    assert read == [3, 7], "three images, then seven questions"


@pytest.mark.parametrize("which", [[0, 1, 2], [0]], ids=["an image each", "one question"])
def test_nothing_is_shared_where_nothing_is_saved(qwen, images, which):
    prompts = qwen.prepare(images, TEXTS[: len(which)], torch.tensor(which))
    assert prefix.read_images(qwen, prompts, qwen.features(prompts.pixels)) is None


def test_nothing_is_shared_with_a_cache_under_examination(qwen, images, monkeypatch):
    rows = [
        dict(item=str(i), image=0, image_id="a", question=q, category="random", answer="yes")
        for i, q in enumerate(TEXTS)
    ]
    data, asked = QuestionSet("toy", POPE, pd.DataFrame(rows), images[0][None]), []
    monkeypatch.setattr("edgelib.infer.decode.read_images", lambda *given: asked.append(given))
    from transformers import DynamicCache

    generate(qwen, data, max_new_tokens=1, baseline=qwen, cache_factory=DynamicCache)
    assert not asked
    generate(qwen, data, max_new_tokens=1, baseline=qwen)
    assert len(asked) == 2


def test_a_decoder_that_looks_ahead_is_found_out(qwen, images):
    ahead = quantize(qwen, "fp32")  # a copy
    attention = ahead.module.get_decoder().layers[0]
    # every token learns what the last one is, as in a prefix language model
    attention.register_forward_pre_hook(
        lambda layer, given, named: ((given[0] + given[0][:, -1:], *given[1:]), named), with_kwargs=True
    )
    prompts = ahead.prepare(images, QUESTIONS, WHICH)
    features = ahead.features(prompts.pixels)
    assert not prefix.looks_back(ahead, prompts, features) and prefix.looks_back(qwen, prompts, features)
    assert prefix.read_images(ahead, prompts, features) is None


# --- the layout


def rows(*tokens: list[int]) -> dict[str, torch.Tensor]:
    """Left-padded ids and their mask."""
    length = max(map(len, tokens))
    ids = torch.tensor([[0] * (length - len(row)) + row for row in tokens])
    places = torch.arange(length).expand(3, len(tokens), -1)
    return {"input_ids": ids, "attention_mask": (ids > 0).long(), "position_ids": places}


def test_rows_are_split_behind_the_image_and_padded_on_the_left():
    texts, width = prefix.split(rows([1, IMAGE, IMAGE, 5], [1, IMAGE, 6, 7, 8]), torch.tensor([0, 1]), IMAGE)
    assert width == 3
    assert texts["input_ids"].tolist() == [[1, IMAGE, IMAGE, 0, 0, 5], [0, 1, IMAGE, 6, 7, 8]]
    assert texts["attention_mask"].tolist() == [[1, 1, 1, 0, 0, 1], [0, 1, 1, 1, 1, 1]]
    kept = texts["attention_mask"].bool()
    assert texts["position_ids"][0][kept].tolist() == [1, 2, 3, 4, 0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("tokens", "image"),
    [
        ([[1, 2, IMAGE, 5], [1, 3, IMAGE, 5]], [0, 0]),
        ([[1, IMAGE, IMAGE, 5], [1, IMAGE, 5]], [0, 0]),
        ([[1, IMAGE], [1, IMAGE]], [0, 0]),
        ([[1, IMAGE, 5], [1, 4, 5]], [0, 1]),
    ],
    ids=["a question before the image", "images of two sizes", "nothing after the image", "a row without image"],
)
def test_what_cannot_be_shared_is_not_split(tokens, image):
    assert prefix.split(rows(*tokens), torch.tensor(image), IMAGE) is None
