"""Outcome rows: right by brute force, independent of batching, honest about bad input."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import edgelib
from edgelib.corruptions.condition import Condition
from edgelib.errors import EdgelibError
from edgelib.infer.classify import OUTCOME_COLUMNS, margins, outcomes


@pytest.fixture(scope="module")
def model():
    return edgelib.load("scenes-clip")


@pytest.fixture(scope="module")
def data():
    return edgelib.dataset("scenes", n=30)


def test_margins_are_own_score_minus_best_other():
    scores = torch.tensor([[0.1, 0.7, 0.2], [0.5, 0.4, 0.3]])
    assert torch.allclose(margins(scores, torch.tensor([1, 2])), torch.tensor([0.5, -0.2]))


def test_rows_agree_with_one_image_at_a_time(model, data):
    rows = edgelib.evaluate(model, data, corruption="fog", severity=3)
    vectors = model.class_vectors(data.class_names, ["a photo of a {}."])
    for i in range(0, len(data), 7):
        image = edgelib.corrupt(data.images[i : i + 1], "fog", 3)
        scores = (model.encode_images(image) @ vectors.T)[0]
        assert rows.prediction[i] == scores.argmax()
        assert rows.margin[i] == pytest.approx(margins(scores[None], torch.tensor([rows.label[i]])).item(), abs=1e-5)
    assert (rows.correct == (rows.prediction == rows.label)).all()
    assert list(rows.columns) == [*OUTCOME_COLUMNS, "corruption", "severity"]


@pytest.mark.parametrize("corruption", [None, "gaussian_noise", "motion_blur"])
def test_batch_size_and_order_do_not_matter(model, data, corruption):
    severity = 3 if corruption else 0
    whole = edgelib.evaluate(model, data, corruption=corruption, severity=severity, batch_size=30).set_index("item")
    turned = data.subset(np.arange(len(data))[::-1].copy())
    parts = edgelib.evaluate(model, turned, corruption=corruption, severity=severity, batch_size=7).set_index("item")
    parts = parts.loc[whole.index]
    assert (whole.prediction == parts.prediction).all()
    assert np.allclose(whole.margin, parts.margin, atol=1e-5)


def test_severity_zero_is_clean(model, data):
    clean, none = edgelib.evaluate(model, data), edgelib.evaluate(model, data, corruption="fog", severity=0)
    assert (clean.margin == none.margin).all() and (clean.corruption == "clean").all()


def test_drift_is_measured_from_the_baseline(model, data):
    quantized = edgelib.quantize(model, "w4a8-minmax")
    rows = edgelib.evaluate(quantized, data, baseline=model)
    expected = 1 - (quantized.encode_images(data.images) * model.encode_images(data.images)).sum(dim=1)
    assert np.allclose(rows.drift, expected, atol=1e-5) and rows.drift.mean() > 0
    assert edgelib.evaluate(model, data).drift.isna().all()
    assert (edgelib.evaluate(model, data, baseline=model).drift < 1e-6).all()


def test_models_evaluated_together_get_what_they_get_alone(model, data):
    models = {"a": model, "b": edgelib.quantize(model, "w8a8-minmax")}
    vectors = {n: m.class_vectors(data.class_names, ["a photo of a {}."]) for n, m in models.items()}
    together = outcomes(models, vectors, data, Condition("jpeg_compression", 4), reference="a")
    alone = edgelib.evaluate(models["b"], data, corruption="jpeg_compression", severity=4, baseline=model)
    assert together["b"].equals(alone[list(OUTCOME_COLUMNS)])


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"corruption": "fogg", "severity": 3}, "did you mean 'fog'"),
        ({"corruption": "fog", "severity": 6}, "severity"),
        ({"corruption": "fog", "severity": 1, "table": "imagenet"}, "imagenet-c"),
        ({"prompts": "simpel"}, "did you mean 'simple'"),
    ],
    ids=["corruption", "severity", "table", "prompts"],
)
def test_bad_names_are_refused_before_any_work(model, data, arguments, text):
    with pytest.raises(EdgelibError, match=text):
        edgelib.evaluate(model, data, **arguments)


def test_severity_without_corruption_is_refused(model, data):
    with pytest.raises(EdgelibError, match="severity 3 of no corruption"):
        edgelib.evaluate(model, data, severity=3)
