"""Calibration sets: which items a mix draws, what happens to their images, and what the towers see of them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from scipy.stats import chisquare, kstest

from edgelib.corruptions import corrupt
from edgelib.data.calibration import DARK_GAIN, MIXES, calibration_set, mix_table
from edgelib.data.datasets import dataset
from edgelib.data.images import image_digests
from edgelib.data.labelled import Dataset
from edgelib.data.mixes import MIXTURE
from edgelib.data.prompts import templates
from edgelib.data.scenes.captions import ATTRIBUTES, TEMPLATES, item_texts, second_language
from edgelib.data.scenes.records import COLOURS, SIZES, TEXTURES
from edgelib.data.scenes.shapes import SHAPES
from edgelib.errors import EdgelibError
from edgelib.models.load import load
from edgelib.quant.quantize import quantize

NAMES = ("ant", "bee", "cat", "dog")


def write_npz(path, seed=0, per_class=(20, 20, 20, 20)):
    labels = np.repeat(np.arange(4), per_class)
    images = np.random.default_rng(seed).integers(0, 256, (len(labels), 16, 16, 3), dtype=np.uint8)
    np.savez(path, images=images, labels=labels, class_names=np.array(NAMES))
    return path


@pytest.fixture
def folder(tmp_path):
    write_npz(tmp_path / "train.npz", seed=1)
    write_npz(tmp_path / "test.npz", seed=2)
    return tmp_path


def whole(data: Dataset) -> torch.Tensor:
    return data.images[torch.arange(len(data))]


def test_scenes_are_drawn_from_the_training_split_by_default():
    data = calibration_set("balanced", n=20)
    assert set(data.rows["split"]) == {"train"} and data.rows["item"].str.startswith("scenes/train/").all()
    assert (data.rows["label"].value_counts() == 2).all()
    assert torch.equal(whole(calibration_set("balanced", n=5)), whole(data)[:5])


@pytest.mark.parametrize("mix", list(MIXES))
def test_equal_addresses_give_equal_sets_and_other_seeds_others(mix, folder):
    first, again, other = (calibration_set(mix, 8, seed, folder) for seed in (0, 0, 1))
    assert first.fingerprint == again.fingerprint != other.fingerprint
    assert torch.equal(whole(calibration_set(mix, 16, 0, folder))[:8], whole(first))


def test_all_mixes_start_from_the_same_images(folder):
    mixes = [mix for mix in MIXES if mix not in ("clean", "single-class")]
    items = {mix: calibration_set(mix, 12, 3, folder).rows["item"].tolist() for mix in mixes}
    assert len(set(map(tuple, items.values()))) == 1


def test_classes_take_turns_until_one_is_used_up(tmp_path):
    path = write_npz(tmp_path / "data.npz", per_class=(30, 30, 3, 10))
    counts = calibration_set("balanced", 35, 0, path).rows["label"].value_counts()
    assert counts[2] == 3 and counts[3] == 10 and abs(counts[0] - counts[1]) <= 1 and counts.sum() == 35


def test_dark_is_a_quarter_and_gray_has_no_colour(folder):
    plain, dark, gray = (whole(calibration_set(mix, 16, 0, folder)) for mix in ("balanced", "dark", "gray"))
    assert (dark.float() - DARK_GAIN * plain.float()).abs().max() <= 0.5
    assert torch.equal(gray[:, 0], gray[:, 1]) and torch.equal(gray[:, 0], gray[:, 2])
    pillow = [np.array(Image.fromarray(image.permute(1, 2, 0).numpy()).convert("L")) for image in plain]
    assert np.abs(gray[:, 0].numpy().astype(int) - np.stack(pillow)).max() <= 1


def test_noise_is_uniform_and_independent_of_the_images(folder):
    noise = whole(calibration_set("noise", 64, 0, folder))
    assert kstest((noise.numpy().reshape(-1) + 0.5) / 256, "uniform").pvalue > 1e-3
    assert abs(np.corrcoef(noise.flatten(), whole(calibration_set("balanced", 64, 0, folder)).flatten())[0, 1]) < 0.05
    assert len(set(image_digests(noise))) == 64


def test_excluded_images_are_never_drawn_whatever_file_they_come_from(tmp_path):
    path = write_npz(tmp_path / "data.npz")
    scored = dataset(path, n=40, seed=7)
    copies = tmp_path / "copies"
    for i, label in enumerate(scored.rows["label"]):
        (copies / NAMES[label]).mkdir(parents=True, exist_ok=True)
        Image.fromarray(scored.images[i].permute(1, 2, 0).numpy()).save(copies / NAMES[label] / f"{i}.png")
    for exclude in (scored, dataset(copies)):
        drawn = calibration_set("balanced", 40, 0, path, exclude=exclude)
        assert not set(image_digests(drawn.images)) & set(image_digests(scored.images))
    with pytest.raises(EdgelibError, match="has 40 outside 'data', which is excluded"):
        calibration_set("balanced", 41, 0, path, exclude=scored)


def test_equal_seeds_keep_scored_and_calibration_draws_apart(tmp_path):
    path = write_npz(tmp_path / "data.npz")
    scored, drawn = dataset(path, n=48, seed=5), calibration_set("balanced", 32, 5, path)
    assert not set(scored.rows["item"]) & set(drawn.rows["item"]) and set(drawn.rows["split"]) == {"test"}


def test_a_data_set_can_be_the_source(folder):
    source = dataset(folder, "test", n=30)
    drawn = calibration_set("gray", 10, 0, source)
    assert set(drawn.rows["item"]) <= set(source.rows["item"]) and drawn.name == f"{source.name} (gray)"
    assert source.fingerprint == dataset(folder, "test", n=30).fingerprint


@pytest.mark.parametrize("mix", [mix for mix in MIXES if mix != "corrupted"])
def test_images_of_several_sizes_keep_their_sizes(mix, tmp_path):
    (tmp_path / "ant").mkdir()
    shapes = [(4, 6), (6, 4), (4, 6), (5, 5)]
    for i, shape in enumerate(shapes):
        Image.fromarray(np.full((*shape, 3), 40 * i, dtype=np.uint8)).save(tmp_path / "ant" / f"{i}.png")
    data = calibration_set(mix, 4, 0, tmp_path)
    for positions, images in data.batches(2):
        for item, image in zip(data.rows["item"].iloc[positions.tolist()], images, strict=True):
            assert image.shape == (3, *shapes[int(item[-5])])
            assert mix == "noise" or (image == 40 * int(item[-5]) * (DARK_GAIN if mix == "dark" else 1)).all()


def test_clean_draws_each_item_with_equal_chance(tmp_path):
    path = write_npz(tmp_path / "data.npz", per_class=(40, 8, 8, 8))
    counts = calibration_set("clean", 32, 0, path).rows["label"].value_counts()
    assert abs(counts[0] - 20) <= 1 and (calibration_set("balanced", 32, 0, path).rows["label"] == 0).sum() == 8
    drawn = [item for seed in range(40) for item in calibration_set("clean", 16, seed, path).rows["item"]]
    assert chisquare(np.unique_counts(drawn).counts).pvalue > 1e-3 and len(set(drawn)) == 64


def test_a_single_class_is_the_named_one_or_the_seed_s(folder):
    dogs = calibration_set("single-class:dog", 10, 0, folder)
    assert set(dogs.rows["label"]) == {3} and set(dogs.rows["item"]) == set(
        calibration_set("balanced", 40, 0, folder).rows.query("label == 3")["item"]
    )
    labels = [calibration_set("single-class", 4, seed, folder).rows["label"] for seed in range(20)]
    assert all(len(set(own)) == 1 for own in labels) and {own[0] for own in labels} == {0, 1, 2, 3}


def test_corrupted_images_are_those_of_the_deployment(folder):
    plain, foggy = (calibration_set(mix, 12, 5, folder) for mix in ("balanced", "corrupted:fog:4"))
    assert torch.equal(whole(foggy), corrupt(whole(plain), "fog", 4, seed=5))
    assert calibration_set("corrupted:fog", 12, 5, folder).fingerprint == (
        replace(foggy, images=corrupt(whole(plain), "fog", 3, seed=5)).fingerprint
    )


def test_the_mixture_gives_each_image_one_of_ten_corruptions():
    plain, mixed, strong = (whole(calibration_set(mix, 60)) for mix in ("balanced", "corrupted", "corrupted:all:5"))
    made = {severity: [corrupt(plain, name, severity) for name in MIXTURE] for severity in (3, 5)}
    met = [
        [next(j for j, images in enumerate(made[severity]) if torch.equal(images[i], found[i])) for i in range(60)]
        for severity, found in ((3, mixed), (5, strong))
    ]
    assert met[0] == met[1] and set(met[0]) == set(range(10))


def test_every_mix_can_be_named_and_is_in_the_table(folder):
    table = mix_table()
    assert table["mix"].str.partition("[")[0].tolist() == list(MIXES)
    for mix in MIXES:
        assert len(calibration_set(mix, 9, 0, folder)) == 9


@pytest.mark.parametrize(
    ("mix", "images", "texts"),
    [("text-only", 0, 40), ("text-heavy", 5, 35), ("vision-heavy", 35, 5), ("vision-only", 40, 0), ("english", 40, 40)],
)
def test_modality_mixes_share_the_items_between_the_towers(mix, images, texts, folder):
    data = calibration_set(mix, 40, 0, folder)
    shown, told = data.shown().tolist(), data.texts()[0]
    assert (len(shown), len(told)) == (images, texts)
    assert set(shown) | set(told) == set(range(40)) and (mix == "english" or not set(shown) & set(told))
    first = calibration_set(mix, 11, 0, folder)
    assert data.rows["text_seen"].tolist()[:11] == first.rows["text_seen"].tolist()


def test_towers_see_what_the_mix_gives_them():
    model = load("scenes-clip")
    for mix in ("text-only", "vision-only", "text-heavy", "second-language"):
        data, seen = calibration_set(mix, 16), {"image": [], "text": []}
        for step in model.calibration_passes(data, 4):
            seen[step.modality] += step.items.tolist()
            step.run()
        assert sorted(seen["image"]) == data.shown().tolist() and sorted(seen["text"]) == data.texts()[0]
    plain = [step for step in model.calibration_passes(calibration_set("dark", 16)) if step.modality == "text"]
    assert sum(len(step.items) for step in plain) == 10


def test_a_tower_that_is_never_reached_is_warned_about():
    with pytest.warns(UserWarning, match="never reached"):
        quantize(load("scenes-clip"), "w8a8-smoothquant", calibration_set("text-only", 8))


def test_what_towers_see_is_part_of_the_fingerprint(folder):
    mixes = ("balanced", "vision-only", "english", "second-language", "text-only")
    assert len({calibration_set(mix, 8, 0, folder).fingerprint for mix in mixes}) == len(mixes)


def test_english_texts_are_true_captions_of_the_scenes():
    rows = calibration_set("english", 40).rows
    for said, row in zip(rows["text_seen"], rows.to_dict("records"), strict=True):
        assert said in {template.format(**row) for template in TEMPLATES}


def test_german_texts_say_the_same_in_german():
    english, german = (calibration_set(mix, 60).rows for mix in ("english", "second-language"))
    assert english["item"].tolist() == german["item"].tolist()
    words = second_language()
    for said, row in zip(german["text_seen"], english.to_dict("records"), strict=True):
        assert words["shape"][row["shape"]]["word"] in said
        for key in ("colour", "size", "texture"):
            assert (words[key][row[key]] in said) == (row[key] in row["text_seen"])


def test_every_word_of_the_scenes_is_translated():
    words = second_language()
    assert set(words["shape"]) == set(SHAPES) and set(words["colour"]) == set(COLOURS)
    assert set(words["size"]) == set(SIZES) and set(words["texture"]) == set(TEXTURES)
    assert len(words["captions"]) == len(TEMPLATES)
    for german, english in zip(words["captions"], TEMPLATES, strict=True):
        assert all((("{" + a + "}") in german) == (("{" + a + "}") in english) for a in ATTRIBUTES)


def test_german_endings_agree_with_the_noun():
    values = {"colour": "red", "size": "large", "texture": "plain"}
    draw = np.array([2, 3, 4]) / len(TEMPLATES) + 0.01
    said = {
        shape: item_texts(pd.DataFrame([{**values, "shape": shape}] * 3), (), draw, "german")
        for shape in ("circle", "crescent", "square")
    }
    assert said == {
        "circle": [
            "ein Foto von einem roten Kreis.",
            "ein großer roter Kreis.",
            "ein roter Kreis vor einfarbigem Hintergrund.",
        ],
        "crescent": [
            "ein Foto von einer roten Mondsichel.",
            "eine große rote Mondsichel.",
            "eine rote Mondsichel vor einfarbigem Hintergrund.",
        ],
        "square": [
            "ein Foto von einem roten Quadrat.",
            "ein großes rotes Quadrat.",
            "ein rotes Quadrat vor einfarbigem Hintergrund.",
        ],
    }


def test_other_sources_are_described_by_their_classes(folder):
    english, german = (calibration_set(mix, 40, 0, folder).rows for mix in ("english", "second-language"))
    for row, other in zip(english.to_dict("records"), german.to_dict("records"), strict=True):
        assert row["text_seen"] in {line.format(NAMES[row["label"]]) for line in templates("cifar")}
        name = {"cat": "Katze", "dog": "Hund"}.get(NAMES[row["label"]], NAMES[row["label"]])
        assert other["text_seen"] in {line.format(name) for line in second_language()["prompts"]}


def test_a_source_s_own_captions_are_used(folder):
    source = dataset(folder, "test", n=20)
    captioned = replace(source, rows=source.rows.assign(caption=[f"caption {i}" for i in range(20)]))
    drawn = calibration_set("text-only", 12, 0, captioned)
    assert drawn.rows["text_seen"].tolist() == drawn.rows["caption"].tolist()
    broken = replace(source, rows=source.rows.assign(caption=None))
    with pytest.raises(EdgelibError, match="caption of item .* is None, expected a text"):
        calibration_set("text-only", 12, 0, broken)


def test_texts_longer_than_the_context_are_cut():
    model, source = load("scenes-clip"), dataset("scenes", n=8)
    long = replace(source, rows=source.rows.assign(caption="a circle and " * 50))
    steps = list(model.calibration_passes(calibration_set("text-only", 8, 0, long)))
    assert [step.run().shape for step in steps] == [(8, 128)]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("darc",), "unknown calibration mix 'darc' (did you mean 'dark'?); choose from balanced, clean, corrupted,"),
        (("dark:3",), "calibration mix 'dark:3' has '3' after the colon; write 'dark'"),
        (("single-class:",), "write it as single-class[:CLASS]"),
        (("single-class:dgo",), "has no class 'dgo' (did you mean 'dog'?); classes: ant, bee, cat, dog"),
        (("single-class:dog", 21), "has 20 of class 'dog'; ask for at most that many"),
        (("corrupted:frog",), "unknown corruption 'frog' (did you mean 'fog'?); choose from alias, all, brightness"),
        (("corrupted:fog:6",), "severity in calibration mix 'corrupted:fog:6' must be one of 1 to 5, got '6'"),
        ((3,), "unknown calibration mix 3"),
        (("dark", 0), "n must be a whole number of at least 1, got 0"),
        (("dark", 81), "has 80; ask for at most that many"),
        (("dark", 8, 0.5), "seed must be a whole number"),
    ],
    ids=[
        "mix",
        "argument",
        "no argument",
        "class",
        "small class",
        "corruption",
        "severity",
        "no name",
        "none",
        "too many",
        "seed",
    ],
)
def test_wrong_arguments_are_named(arguments, says, folder):
    with pytest.raises(EdgelibError) as error:
        calibration_set(*arguments, source=folder)
    assert says in str(error.value)


def test_what_is_excluded_must_be_a_data_set(folder):
    with pytest.raises(EdgelibError, match="exclude must be a Dataset.*got str"):
        calibration_set("dark", 8, source=folder, exclude="scenes")


def test_a_source_that_does_not_exist_is_named(tmp_path):
    with pytest.raises(EdgelibError, match="does not exist"):
        calibration_set("balanced", source=tmp_path / "nothing")
