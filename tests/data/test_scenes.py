"""The embedded world: addressed drawing, true labels and captions, shapes that are what they say."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from edgelib.data.scenes.captions import ATTRIBUTES, TEMPLATES, captions
from edgelib.data.scenes.records import COLOURS, SPLITS, concatenate, draw_records, record_table, render, scene_dataset
from edgelib.data.scenes.shapes import SHAPES, signed_distance
from edgelib.errors import EdgelibError


def test_a_scene_depends_on_its_index_only():
    together = render(draw_records("test", torch.arange(40)))[0]
    apart = torch.cat([render(draw_records("test", torch.tensor([i])))[0] for i in (39, 7, 0)])
    assert torch.equal(together[[39, 7, 0]], apart)


def test_splits_and_seeds_share_no_scene():
    keys = [draw_records(split, torch.arange(500), seed).keys for split in SPLITS for seed in (0, 1)]
    assert torch.cat(keys).unique().numel() == 500 * len(keys)


@pytest.mark.parametrize("size", [32, 48, 97])
def test_any_size_is_drawn(size):
    rows, images, names = scene_dataset("test", 3, size=size)
    assert images.shape == (3, 3, size, size) and images.dtype == torch.uint8 and len(rows) == 3 and len(names) == 10


def test_the_subject_is_the_largest_object_and_its_shape_the_label():
    records = draw_records("train", torch.arange(300))
    rows = record_table(records, [str(i) for i in range(300)])
    largest = torch.where(records.shape >= 0, records.radius, 0).argmax(dim=1)
    assert (largest == 0).all()
    assert [list(SHAPES)[i] for i in rows.label] == rows["shape"].tolist()


def test_objects_of_a_scene_differ_in_shape_and_colour():
    records = draw_records("train", torch.arange(500))
    for shape, colour in zip(records.shape.tolist(), records.colour.tolist(), strict=True):
        present = [s for s in shape if s >= 0]
        assert len(set(present)) == len(present) and len(set(colour)) == len(colour)


def test_classes_are_uniform():
    counts = np.bincount(draw_records("test", torch.arange(5000)).shape[:, 0].numpy(), minlength=10)
    assert ((counts - 500) ** 2 / 500).sum() < 27.9  # chi-square with 9 degrees of freedom, p = 0.001


def test_the_visible_subject_has_its_colour():
    records = draw_records("test", torch.arange(200))
    images, cover = render(records)
    palette = 255 * torch.tensor(list(COLOURS.values()))
    for image, visible, colour in zip(images.float(), cover[:, 0], records.colour[:, 0], strict=True):
        core = visible > 0.999
        if core.sum() >= 20:
            assert (image[:, core].mean(dim=1) - palette[colour]).abs().max() < 12  # sensor noise, clipped at 0 and 255


@pytest.mark.parametrize("shape", list(SHAPES))
def test_rotation_turns_the_shape(shape):
    axis = torch.linspace(-1, 1, 41)
    x, y = axis[None, None, :], axis[None, :, None]
    index = torch.tensor([list(SHAPES).index(shape)])
    zero, one = torch.zeros(1, 2), torch.ones(1)
    upright = signed_distance(index, x, y, zero, one, torch.zeros(1))[0]
    turned = signed_distance(index, x, y, zero, one, torch.full((1,), math.pi / 2))[0]
    # Turning by 90 degrees clockwise (y points down) maps pixel (x, y) to (-y, x).
    assert torch.allclose(turned, torch.rot90(upright, -1, (0, 1)), atol=1e-5)
    inside = (upright < 0).float().mean()
    assert 0.1 < inside < 0.65


def test_an_empty_slot_is_nowhere():
    axis = torch.linspace(-1, 1, 5)
    far = signed_distance(
        torch.tensor([-1]), axis[None, None, :], axis[None, :, None], torch.zeros(1, 2), torch.ones(1), torch.zeros(1)
    )
    assert torch.isinf(far).all()


def test_captions_are_true_of_exactly_the_scenes_that_match():
    rows = record_table(draw_records("train", torch.arange(60)), [""] * 60)
    said = captions(rows, np.arange(60) % len(TEMPLATES), 20)
    for j, text in enumerate(said.text):
        template = TEMPLATES[j % len(TEMPLATES)]
        for i, row in rows.iterrows():
            assert said.truth[i, j] == (template.format(**{a: row[a] for a in ATTRIBUTES}) == text)
    assert said.truth[:20].diagonal().all()


def test_joined_records_are_the_records():
    whole, parts = draw_records("test", torch.arange(6)), [draw_records("test", torch.arange(a, a + 3)) for a in (0, 3)]
    assert torch.equal(concatenate(parts).centre, whole.centre)


def test_an_unknown_split_is_named():
    with pytest.raises(EdgelibError, match="unknown split 'tset'.*train, validation, test"):
        draw_records("tset", torch.arange(1))
