"""MBQ: weights by modality, and what they change."""

from __future__ import annotations

import pytest
import torch
from layers import layer_of, random_layer

from edgelib.quant.methods.awq import RATIOS, migrate_salient, salience_scales
from edgelib.quant.methods.mbq import migrate_balanced, row_weights

IMAGE, TEXT = 1, 2


def mixed_layer(spec="w3a8-mbq", images=60, texts=6):
    """A layer that sees many image rows, loud in one half of the channels, and few text rows, loud in the other."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(images + texts, 32, generator=generator)
    rows[:images, :16] *= 30
    rows[images:, 16:] *= 30
    modalities = torch.tensor([IMAGE] * images + [TEXT] * texts)
    return layer_of(spec, torch.randn(12, 32, generator=generator), rows, modalities=modalities)


def test_modalities_count_alike_by_default():
    weights = row_weights(torch.tensor([IMAGE, IMAGE, IMAGE, TEXT]))
    assert torch.allclose(weights, torch.tensor([2 / 3, 2 / 3, 2 / 3, 2])) and weights.mean() == 1


def test_the_task_s_sensitivity_sets_the_ratio():
    weights = row_weights(torch.tensor([IMAGE, TEXT, IMAGE]), {IMAGE: 0.1, TEXT: 0.5})
    assert torch.allclose(weights[1] / weights[0], torch.tensor(5.0)) and torch.isclose(
        weights.mean(), torch.tensor(1.0)
    )


@pytest.mark.parametrize("spec", ["w3a8-mbq", "w3a16-mbq-channel"])
@pytest.mark.parametrize("modalities", [None, torch.zeros(40, dtype=torch.long)], ids=["unknown", "one"])
def test_with_one_modality_it_is_awq(spec, modalities):
    layer = random_layer(spec)
    layer = layer_of(spec, layer.weight, layer.seen.rows, modalities=modalities)
    found, plain = migrate_balanced([layer]), migrate_salient([layer])
    assert found.notes == plain.notes and torch.equal(found.scales, plain.scales)


@pytest.mark.parametrize("spec", ["w3a8-mbq", "w3a16-mbq-channel"])
@pytest.mark.parametrize("sensitivity", [None, {IMAGE: 1.0, TEXT: 0.001}, {IMAGE: 0.001, TEXT: 1.0}], ids=str)
def test_the_ratio_is_the_best_of_the_weighted_absolute_error(spec, sensitivity):
    layer = mixed_layer(spec)
    x, w, weights = layer.seen.rows, layer.weight, row_weights(layer.seen.row_modalities, sensitivity)
    errors = []
    for ratio in RATIOS:
        moved = layer.scaled(salience_scales(layer.seen.abs_mean, ratio))
        step = moved.weight.abs().amax(1, keepdim=True) / 3
        error = moved.rounded_inputs() @ ((moved.weight / step).round() * step).T - x @ w.T
        errors.append(float((error.abs().mean(1) * weights).mean()))
    assert migrate_balanced([layer], sensitivity).notes["ratio"] == RATIOS[errors.index(min(errors))]


def test_the_balance_can_change_the_choice():
    layer = mixed_layer()
    ratios = [migrate_balanced([layer], {IMAGE: a, TEXT: 1 - a}).notes["ratio"] for a in (0.999, 0.001)]
    assert ratios[0] > ratios[1]
