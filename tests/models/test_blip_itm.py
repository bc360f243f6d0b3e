"""BLIP's image-text matching in the layout of its own repository: scores, quantization and files."""

from __future__ import annotations

import warnings

import pytest
import torch
import transformers
import vlm_folders

from edgelib import calibration_set, dataset, evaluate, load, load_packed, quantization_report, quantize, save_packed


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    kind = transformers.BlipForImageTextRetrieval
    return vlm_folders.blip(tmp_path_factory.mktemp("blip") / "blip-itm", kind=kind)


@pytest.fixture(scope="module")
def model(folder):
    return load(folder)


@torch.no_grad()
def test_scores_are_those_of_transformers_without_the_matching_head(model, folder):
    images, texts = dataset("scenes", n=3).images[range(3)], ["a photo of a circle", "the red"]
    network = transformers.BlipForImageTextRetrieval.from_pretrained(folder).eval()
    processor = transformers.AutoProcessor.from_pretrained(folder)
    inputs = processor(images=list(images), text=texts, padding=True, return_tensors="pt")
    expected = network(
        input_ids=inputs["input_ids"],
        attention_mask=inputs["attention_mask"],
        pixel_values=inputs["pixel_values"],
        use_itm_head=False,
    ).itm_score
    found = model.encode_images(images) @ model.encode_text(texts).T
    assert torch.allclose(found, expected, atol=2e-2)  # images are resized by torch, not by Pillow
    pixels = model.pixels(images)
    same = network(inputs["input_ids"], pixels, use_itm_head=False, attention_mask=inputs["attention_mask"]).itm_score
    assert torch.allclose(model.image_features(pixels) @ model.encode_text(texts).T, same, atol=1e-5)


def test_it_is_quantized_packed_and_evaluated_as_any_zero_shot_model(model, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # calibration never reaches the cross-attention
        quantized = quantize(model, "w4a8-awq", calibration_set("balanced", n=4))
    assert (quantization_report(quantized)["fallback"] != "").any()
    data = dataset("scenes", n=4)
    rows = evaluate(quantized, data, baseline=model)
    assert len(rows) == 4
    again = load_packed(save_packed(quantized, tmp_path / "packed"))
    assert evaluate(again, data)["prediction"].tolist() == rows["prediction"].tolist()
