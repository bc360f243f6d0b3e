"""The number of tokens of an image, by the limits of the processor alone."""

from __future__ import annotations

import pytest
import torch

import edgelib
from edgelib import EdgelibError
from edgelib.models.token_budget import image_tokens, with_image_tokens


@pytest.fixture(scope="module")
def model():
    return edgelib.load("scenes-vlm")


def test_an_image_becomes_as_many_tokens_as_are_asked_for(model):
    image = torch.zeros(3, 48, 48, dtype=torch.uint8)
    own = image_tokens(model, image)
    for tokens in (1, 4, 16, 25):
        assert image_tokens(with_image_tokens(model, tokens), image) == tokens
    same = with_image_tokens(model, own)
    assert same.fingerprint == model.fingerprint != with_image_tokens(model, 4).fingerprint
    assert image_tokens(model, image) == own and same.module is model.module


def test_wrong_numbers_and_processors_are_refused(model):
    for wrong in (0, -1, True, 2.0):
        with pytest.raises(EdgelibError, match="an image is at least 1 token"):
            with_image_tokens(model, wrong)

    class Other:
        name, processor = "other", type("P", (), {"image_processor": object()})()

    with pytest.raises(EdgelibError, match="leave image_tokens empty"):
        with_image_tokens(Other(), 4)
