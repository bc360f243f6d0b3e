"""Outlier twins compute the same function and carry what they say."""

from __future__ import annotations

import copy

import pytest
import torch

import edgelib
from edgelib.errors import EdgelibError
from edgelib.models.twins import KINDS, outlier_ratios, parse_twin, with_outliers
from edgelib.models.twins_kv import chosen_channels


@pytest.fixture(scope="module")
def model():
    return edgelib.load("scenes-clip")


@pytest.fixture(scope="module")
def data():
    return edgelib.dataset("scenes", n=16)


def features64(model, images):
    double = model.with_module(copy.deepcopy(model.module).double())
    text = double.encode_text(["a photo of a star.", "a ring."])
    return torch.cat([double.image_features(double.pixels(images)), text])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("strength", [0.3, 7.0, 300.0])
def test_the_function_is_unchanged_in_float64(model, data, kind, strength):
    base = model.with_module(copy.deepcopy(model.module).double())
    twin = with_outliers(base, kind, strength)
    assert not torch.equal(flat(twin), flat(base))
    assert (features64(twin, data.images) - features64(base, data.images)).abs().max() < 1e-9


def flat(model):
    return torch.cat([p.flatten() for p in model.module.parameters()])


@pytest.mark.parametrize("kind", KINDS)
def test_the_outliers_are_where_they_were_planted(model, data, kind):
    plain, planted = outlier_ratios(model, data), outlier_ratios(with_outliers(model, kind, 64.0), data)
    for other in KINDS:
        if other == kind:
            assert planted[other] > 10 * plain[other]
        else:
            assert planted[other] == pytest.approx(plain[other], rel=0.5)


def test_the_original_is_untouched_and_the_dose_is_repeatable(model):
    before = flat(model).clone()
    first, second = (flat(with_outliers(model, "weight", 8.0)) for _ in range(2))
    assert torch.equal(flat(model), before) and torch.equal(first, second)
    assert not torch.equal(first, flat(with_outliers(model, "weight", 8.0, seed=1)))


def test_five_percent_of_the_channels_are_chosen():
    assert len(chosen_channels(128, 0, "layer")) == 6 and len(chosen_channels(4, 0, "layer")) == 1


@pytest.mark.parametrize("strength", [0, -1.0, float("inf"), float("nan"), True, "8"], ids=repr)
def test_bad_strengths_are_refused(model, strength):
    with pytest.raises(EdgelibError, match="strength is how many times larger"):
        with_outliers(model, "weight", strength)


def test_unknown_kinds_are_refused(model):
    with pytest.raises(EdgelibError, match="unknown kind of outliers 'wieght' .did you mean 'weight'"):
        with_outliers(model, "wieght", 8.0)


def test_a_model_without_a_place_says_so(data):
    with pytest.raises(EdgelibError, match="key outliers cannot be planted"):
        with_outliers(edgelib.load("scenes-vit"), "key", 8.0)  # timm keeps q, k and v in one matrix


def test_twins_are_written_as_kind_and_strength():
    assert parse_twin("weight:8") == ("weight", 8.0)
    for text in ("weight", "weight:0.5", "weight:x", "weight:inf"):
        with pytest.raises(EdgelibError, match="needs a strength of at least 1"):
            parse_twin(text)
