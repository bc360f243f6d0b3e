"""The training of the embedded models: closed forms of its parts, and that a run is reproducible."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from edgelib.train import clip as train_clip
from edgelib.train import vit as train_vit
from edgelib.train.loop import learning_rate, patch_cover, scene_batch

TINY = {"cycles": ((1, 1e-3), (1, 1e-3)), "batch": 8, "log_every": 1}


def test_the_learning_rate_rises_then_falls_to_zero():
    rates = [learning_rate(step, 100, 1.0, 0.1) for step in range(100)]
    assert rates[0] == pytest.approx(0.1) and max(rates) == pytest.approx(1.0)
    assert np.argmax(rates) in (9, 10) and rates[55] == pytest.approx(0.5) and rates[99] < 1e-3


def test_patch_cover_adds_up_to_one_and_counts_the_shape():
    cover = torch.zeros(1, 3, 4, 4)
    cover[0, 0, :2, :2] = 1  # the subject covers the first patch of 2 x 2
    cover[0, 1, 2:, 2:] = 0.5
    share = patch_cover(cover, torch.tensor([[4, 7, -1]]), 2)[0]
    assert torch.allclose(share.sum(1), torch.ones(4))
    assert share[0, 4] == 1 and share[3, 7] == 0.5 and share[3, -1] == 0.5 and share[1, -1] == 1


def test_the_contrastive_loss_is_cross_entropy_where_one_caption_fits_each_scene():
    logits = torch.randn(5, 5, generator=torch.Generator().manual_seed(0))
    found = train_clip.contrastive_loss(logits, torch.eye(5, dtype=torch.bool))
    target = torch.arange(5)
    cross = torch.nn.functional.cross_entropy
    assert found.item() == pytest.approx((cross(logits, target) + cross(logits.T, target)).item() / 2, rel=1e-5)


def test_the_contrastive_loss_ignores_a_scene_without_a_caption():
    truth = torch.tensor([[True, False], [False, True], [False, False]])
    assert math.isfinite(train_clip.contrastive_loss(torch.randn(3, 2), truth).item())


def test_batches_do_not_depend_on_each_other():
    whole, part = scene_batch(torch.arange(6), 8, seed=0), scene_batch(torch.arange(3, 6), 8, seed=0)
    assert torch.equal(whole.pixels[3:], part.pixels) and torch.equal(whole.attributes[3:], part.attributes)


@pytest.mark.parametrize(
    ("train", "recipe"),
    [
        (train_clip.train, train_clip.ClipRecipe(**TINY, captions=4, contrastive_from=1)),
        (train_vit.train, train_vit.VitRecipe(**TINY)),
    ],
    ids=["clip", "vit"],
)
def test_training_twice_gives_the_same_folder(train, recipe, tmp_path, monkeypatch):
    monkeypatch.setattr("edgelib.train.loop.SCORED", 20)
    monkeypatch.setattr("edgelib.train.loop.VALIDATED", 20)
    for run in ("first", "second"):
        train(tmp_path / run, recipe, report=lambda line: None)
    names = sorted(p.name for p in (tmp_path / "first").iterdir())
    assert {"config.json", "model.safetensors", "README.md", "training_log.csv"} <= set(names)
    for name in names:
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes()
    weights = load_file(tmp_path / "first" / "model.safetensors")
    assert all(w.dtype == torch.float16 and torch.isfinite(w).all() for w in weights.values())


def test_a_stopped_training_goes_on_after_its_last_cycle(tmp_path, monkeypatch):
    monkeypatch.setattr("edgelib.train.loop.SCORED", 20)
    monkeypatch.setattr("edgelib.train.loop.VALIDATED", 20)
    recipe = train_vit.VitRecipe(**TINY)

    def stop_after_the_first(line):
        if line.startswith("step 2/"):
            raise KeyboardInterrupt

    train_vit.train(tmp_path / "whole", recipe, report=lambda line: None)
    with pytest.raises(KeyboardInterrupt):
        train_vit.train(tmp_path / "stopped", recipe, report=stop_after_the_first)
    assert (tmp_path / "stopped" / "cycle-1.safetensors").is_file()
    train_vit.train(tmp_path / "stopped", recipe, report=lambda line: None)
    for file in (tmp_path / "whole").iterdir():
        assert file.read_bytes() == (tmp_path / "stopped" / file.name).read_bytes()
