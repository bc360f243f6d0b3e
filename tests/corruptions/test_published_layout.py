"""Corruptions written in the layout of CIFAR-10-C and read back are those made in memory, and so is their accuracy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from edgelib import dataset, evaluate, load
from edgelib.corruptions import CORRUPTIONS, SEVERITIES, corrupt
from edgelib.data.readers.layouts.cifar import CIFAR10

N, SEED = 12, 3


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A clean set, and CIFAR-10-C as its authors pack it: a file a corruption, five severities one after the other."""
    root = tmp_path_factory.mktemp("published")
    rng = np.random.default_rng(0)
    fields = torch.from_numpy(rng.integers(0, 256, (N, 3, 6, 6)).astype(np.float32))
    pixels = torch.nn.functional.interpolate(fields, (32, 32), mode="bicubic").clamp(0, 255).to(torch.uint8)
    labels, images = np.arange(N) % 10, pixels.permute(0, 2, 3, 1).numpy()
    np.savez(root / "clean.npz", images=images, labels=labels, class_names=np.array(CIFAR10))
    files = root / "CIFAR-10-C"
    files.mkdir()
    for name in CORRUPTIONS:
        made = torch.cat([corrupt(pixels, name, severity, seed=SEED) for severity in SEVERITIES])
        np.save(files / f"{name}.npy", np.ascontiguousarray(made.permute(0, 2, 3, 1).numpy()))
    np.save(files / "labels.npy", np.tile(labels, len(SEVERITIES)).astype(np.uint8))
    return root


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_a_split_holds_the_pixels_made_in_memory(name, folder):
    clean = dataset(folder / "clean.npz")
    order = [7, 0, 11]  # in any order and number: the noise of an image is its own
    for severity in SEVERITIES:
        stored = dataset(folder / "CIFAR-10-C", f"{name}:{severity}")
        assert stored.rows["label"].tolist() == clean.rows["label"].tolist()
        assert torch.equal(stored.images[order], corrupt(clean.images[order], name, severity, seed=SEED))


@pytest.mark.parametrize("name", ["gaussian_noise", "frost", "spatter", "jpeg_compression"])
def test_files_score_as_the_corruption_does_in_memory(name, folder):
    model = load("scenes-clip")
    clean, stored = dataset(folder / "clean.npz"), dataset(folder / "CIFAR-10-C", f"{name}:5")
    in_memory, as_files = evaluate(model, clean, corruption=name, severity=5, seed=SEED), evaluate(model, stored)
    assert in_memory["prediction"].tolist() == as_files["prediction"].tolist()
    assert in_memory["correct"].mean() == as_files["correct"].mean()
    assert (in_memory["margin"] == as_files["margin"]).all()
