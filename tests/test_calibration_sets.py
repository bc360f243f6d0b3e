from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import kstest

from edgelib.errors import EdgelibError
from edgelib.inputs.calibration import DARK_GAIN, MIXES, calibration_set
from edgelib.inputs.datasets import Dataset, dataset
from edgelib.inputs.image_store import image_digests

NAMES = ("ant", "bee", "cat", "dog")


def write_npz(path, seed=0, per_class=(20, 20, 20, 20)):
    labels = np.repeat(np.arange(4), per_class)
    images = np.random.default_rng(seed).integers(0, 256, (len(labels), 8, 8, 3), dtype=np.uint8)
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
    items = {mix: calibration_set(mix, 12, 3, folder).rows["item"].tolist() for mix in MIXES}
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


@pytest.mark.parametrize("mix", list(MIXES))
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


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("darc",), "unknown calibration mix 'darc' (did you mean 'dark'?); choose from balanced, dark, gray, noise"),
        (("dark", 0), "n must be a whole number of at least 1, got 0"),
        (("dark", 81), "has 80; ask for at most that many"),
        (("dark", 8, 0.5), "seed must be a whole number"),
    ],
    ids=["mix", "none", "too many", "seed"],
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
