"""Twins whose first token spikes compute the same function, and static scales pay for it."""

from __future__ import annotations

import pytest
import torch

import edgelib
from edgelib.errors import EdgelibError
from edgelib.models.twins import with_outliers
from edgelib.models.twins_tokens import EXTRA


@pytest.fixture(scope="module")
def model():
    return edgelib.load("scenes-vlm")


@pytest.fixture(scope="module")
def twin(model):
    return with_outliers(model, "spike", 50.0)


def read_by_down(model, layer: int = 1):
    """What down_proj of a layer reads on the blank prompt: [tokens, neurons], and the scores of the answer."""
    seen = []
    mlp = [m for m in model.module.modules() if hasattr(m, "down_proj")][layer]
    with torch.no_grad():
        hook = mlp.down_proj.register_forward_pre_hook(lambda _, args: seen.append(args[0][0]))
        model.probe()
        hook.remove()
    return seen[0]


def test_the_function_is_unchanged(model, twin):
    data = edgelib.dataset("scenes-vqa", n=2)
    rows = edgelib.evaluate(twin, data, baseline=model)
    assert rows["kl"].max() < 1e-5


def test_the_first_token_reads_the_spike_and_no_other_channel_does(model, twin):
    before, after = read_by_down(model), read_by_down(twin)
    width = before.shape[1]
    assert after.shape[1] == width + EXTRA
    assert torch.allclose(after[:, :width], before, atol=1e-4)
    spike = after[:, width]
    assert float(spike[0]) == pytest.approx(50 * float(before.abs().max()), rel=0.02)
    assert float(spike[1:].abs().max()) < 0.1 * float(spike[0])
    assert not after[:, width + 1 :].any()


def test_only_a_decoder_has_a_first_token():
    with pytest.raises(EdgelibError, match="gated MLP"):
        with_outliers(edgelib.load("scenes-clip"), "spike", 8.0)
