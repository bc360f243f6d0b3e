"""Image features by image, in the shapes that families return them in; where they do not come apart, none is shared."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
import vlm_folders
from transformers.modeling_outputs import BaseModelOutputWithPooling

from edgelib import EdgelibError, dataset, load, quantize
from edgelib.infer.generate import generate
from edgelib.models.features import by_image


@dataclass
class Indicated(BaseModelOutputWithPooling):
    """What a vision tower of an unknown kind returns."""

    indicator: torch.Tensor | None = None


@pytest.fixture
def strange(tmp_path, monkeypatch):
    """A model whose vision tower returns one thing more than is known here."""
    model = load(vlm_folders.internvl(tmp_path / "strange"))
    encode = model.module.base_model.get_image_features

    def with_indicator(pixel_values, **options):
        made = encode(pixel_values, **options)
        return Indicated(pooler_output=made.pooler_output, indicator=torch.ones(1))

    monkeypatch.setattr(model.module.base_model, "get_image_features", with_indicator)
    return model


def test_where_features_do_not_come_apart_each_question_brings_its_image(strange, tmp_path):
    data = dataset("scenes-pope", n=2)
    with pytest.warns(UserWarning, match="strange encodes an image again for each question .*indicator") as told:
        rows = generate(strange, data, max_new_tokens=4, batch_size=5)
    assert len(told) == 1 and not strange.encodes_apart
    expected = generate(load(tmp_path / "strange"), data, max_new_tokens=4)["prediction"]
    assert rows["prediction"].equals(expected)
    copy = quantize(strange, "fp32")
    assert generate(copy, data, max_new_tokens=4)["prediction"].equals(expected), "said once, for all copies"


D = 2
TILES = torch.arange(5 * 4 * D, dtype=torch.float32).view(5, 4, D)


def output(**fields) -> BaseModelOutputWithPooling:
    return BaseModelOutputWithPooling(**fields)


@pytest.mark.parametrize(
    ("value", "tokens", "expected"),
    [
        (TILES, [12, 8], TILES[[3, 4, 0, 1, 2]]),
        (TILES.flatten(0, 1), [12, 8], TILES.flatten(0, 1)[[*range(12, 20), *range(12)]]),
    ],
    ids=["tiles", "a row of tokens"],
)
def test_a_tensor_is_cut_behind_each_image(value, tokens, expected):
    found = by_image(output(pooler_output=value), tokens)
    assert len(found) == 2 and torch.equal(found.of([1, 0]).pooler_output, expected)


def test_lists_of_images_and_lists_of_tiles_stay_lists():
    parts = [torch.ones(n, D) * n for n in (3, 5, 4)]
    for tokens, order in (([3, 5, 4], [2, 0]), ([8, 4], [1, 0])):
        made = by_image(output(pooler_output=parts), tokens).of(order).pooler_output
        assert [len(part) for part in made] == ([4, 3] if len(tokens) == 3 else [4, 3, 5])


def test_layers_are_cut_each():
    layers = [torch.arange(6.0).view(6, 1), -torch.arange(6.0).view(6, 1)]
    kind = type("Deep", (dict,), {"__init__": lambda self, **fields: dict.__init__(self, fields)})
    made = by_image(kind(pooler_output=torch.zeros(6, 1), deepstack_features=layers), [2, 4]).of([1, 0, 1])
    assert made["deepstack_features"][0].flatten().tolist() == [2, 3, 4, 5, 0, 1, 2, 3, 4, 5]
    assert made["deepstack_features"][1].flatten().tolist() == [-2, -3, -4, -5, 0, -1, -2, -3, -4, -5]


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        (dict(pooler_output=TILES), "for 20 tokens where the prompts have 12"),
        (dict(pooler_output=TILES[:3]), None),
        (dict(pooler_output=torch.ones(3)), "as Tensor, which cannot be taken apart"),
        (dict(hidden_states=(TILES,)), "no features under a known name"),
    ],
    ids=["more than the prompts have", "as many", "one number a row", "none"],
)
def test_features_that_do_not_add_up_are_not_shared(fields, said):
    if said is None:
        assert len(by_image(output(**fields), [8, 4])) == 2
        return
    with pytest.raises(EdgelibError, match=said):
        by_image(output(**fields), [8, 4])
