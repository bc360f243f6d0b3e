"""Corruptions that move pixels, against loops written out, SciPy, OpenCV's rule for affine maps and Pillow."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage

from edgelib.corruptions import CORRUPTIONS, corrupt, gaussian
from edgelib.corruptions.gaussian import FINE, smoothed
from edgelib.corruptions.geometry import zoom
from edgelib.corruptions.geometry.elastic import affine_matrices, displacements, warped
from edgelib.corruptions.geometry.glass import shuffled
from edgelib.corruptions.geometry.zoom import POINT, enlarged
from edgelib.corruptions.products import products_are_exact
from edgelib.corruptions.weather.snow import flakes
from edgelib.ground.randomness import address, bits, keys_for

SMALL = torch.randint(0, 256, (2, 3, 20, 24), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
KEYS = keys_for(address("moved"), torch.arange(2))


@pytest.mark.parametrize("mode, scipy_mode", [("edge", "nearest"), ("symmetric", "reflect")])
@pytest.mark.parametrize("sigma", [0.05, 0.4, 1, 2.24, 6])
def test_smoothing_is_scipys_within_a_tenth_of_a_level(sigma, mode, scipy_mode):
    theirs = ndimage.gaussian_filter(SMALL.numpy().astype(float), (0, 0, sigma, sigma), mode=scipy_mode)
    ours = smoothed(SMALL.flatten(0, 1), sigma, mode).view(SMALL.shape).numpy() / 2**FINE
    assert np.abs(ours - theirs).max() < 0.1


@pytest.mark.parametrize("mode", ["edge", "symmetric"])
@pytest.mark.parametrize("size", [(20, 24), (33, 64), (70, 17)], ids=str)
@pytest.mark.parametrize("sigma", [2, 2.24, 6])
def test_smoothing_by_products_of_matrices_is_that_by_sums_bit_for_bit(sigma, size, mode, monkeypatch):
    planes = torch.randint(-256, 257, (3, *size), generator=torch.Generator().manual_seed(0))
    images = (planes & 255).to(torch.uint8)[None]
    truncate = 3.0 if sigma > 3 and min(size) < 24 else 4.0
    made = smoothed(planes, sigma, mode, truncate), gaussian.blurred(images, sigma)
    monkeypatch.setattr(gaussian, "products_are_exact", lambda device: False)
    sums = smoothed(planes, sigma, mode, truncate), gaussian.blurred(images, sigma)
    assert all(torch.equal(a, b) for a, b in zip(made, sums, strict=True))


def test_products_of_matrices_are_left_alone_where_they_may_be_cut():
    images, exact = SMALL, torch.get_float32_matmul_precision()
    expected = gaussian.blurred(images, 3)
    try:
        torch.set_float32_matmul_precision("medium")
        assert not products_are_exact(images.device)
        assert torch.equal(gaussian.blurred(images, 3), expected)
    finally:
        torch.set_float32_matmul_precision(exact)


@pytest.mark.parametrize("mode, scipy_mode", [("reflect", "mirror"), ("symmetric", "reflect")])
def test_a_warp_is_scipys_map_coordinates(mode, scipy_mode):
    height, width = SMALL.shape[2:]
    rng = np.random.default_rng(0)
    rows, columns = (rng.integers(-size * 256, 2 * size * 256, (2, height, width)) for size in (height, width))
    ours = warped(SMALL.int(), *(torch.from_numpy(c).int() for c in (rows, columns)), mode).numpy() / 2**16
    for image, theirs, y, x in zip(SMALL.numpy(), ours, rows / 256, columns / 256, strict=True):
        for plane, ours_of_it in zip(image, theirs, strict=True):
            expected = ndimage.map_coordinates(plane.astype(float), (y, x), order=1, mode=scipy_mode)
            assert np.allclose(expected, ours_of_it)


def test_an_affine_map_takes_the_moved_corners_back():
    matrices = affine_matrices(KEYS, 30, 40, 5.0)
    centre, third = np.array([20, 15]), 10
    before = centre + third * np.array([[1, 1], [1, -1], [-1, -1]])
    for matrix in matrices:
        after = np.linalg.solve(matrix[:, :2], (before - matrix[:, 2]).T).T
        assert 0 < np.abs(after - before).max() <= 5.0


def test_displacements_are_as_wide_as_smoothed_uniform_noise():
    keys = keys_for(address("wide"), torch.arange(40))
    alpha, sigma = 14.0, 2.24
    found = displacements(keys, 64, 64, alpha, sigma)[0].double().numpy() / 256
    noise = np.random.default_rng(0).uniform(-1, 1, (40, 64, 64))
    expected = alpha * ndimage.gaussian_filter(noise, (0, sigma, sigma), mode="reflect", truncate=3)
    assert abs(found.mean()) < 0.05 and abs(found.std() / expected.std() - 1) < 0.03


@pytest.mark.parametrize("reach, turn", [(1, 0), (2, 0), (2, 1), (4, 0)])
def test_glass_is_the_peers_loop(reach, turn):
    height, width = SMALL.shape[2:]
    count = 2 * height * width
    draws = bits(KEYS, count * (turn + 1))[:, count * turn :]
    moves = ((draws & 0x7FFF) * (2 * reach) >> 15) - reach
    assert set(moves.unique().tolist()) == set(range(-reach, reach))
    expected = SMALL.clone()
    for image, (down, right) in zip(expected, moves.view(2, 2, height, width).tolist(), strict=True):
        for y in range(height - reach, reach, -1):
            for x in range(width - reach, reach, -1):
                image[:, y, x] = image[:, y + down[y][x], x + right[y][x]]
    assert torch.equal(shuffled(SMALL, KEYS, reach, turn), expected)


@pytest.mark.parametrize("part", ["start", "middle"])
@pytest.mark.parametrize("factor", [1, 1.07, 1.31, 4.5])
def test_enlarging_by_products_of_matrices_is_that_by_steps_bit_for_bit(factor, part, monkeypatch):
    planes = torch.randint(-8191, 8192, (2, 33, 70), generator=torch.Generator().manual_seed(0)).int()
    images = (planes & 255).to(torch.uint8)[None].expand(3, -1, -1, -1).transpose(0, 1)
    made = enlarged(planes, factor, part), corrupt(images, "zoom_blur", 3)
    monkeypatch.setattr(zoom, "products_are_exact", lambda device: False)
    steps = enlarged(planes, factor, part), corrupt(images, "zoom_blur", 3)
    assert all(torch.equal(a, b) for a, b in zip(made, steps, strict=True))


@pytest.mark.parametrize("part", ["start", "middle"])
@pytest.mark.parametrize("factor", [1.0, 1.01, 1.18, 1.75, 3.0, 4.5])
def test_an_enlarged_middle_is_scipys_zoom(factor, part):
    size = 32
    image = np.random.default_rng(0).integers(0, 256, (size, size))
    kept = int(np.ceil(size / factor))
    top = (size - kept) // 2
    theirs = ndimage.zoom(image[top : top + kept, top : top + kept].astype(float), factor, order=1)
    start = (len(theirs) - size) // 2 if part == "middle" else 0
    ours = enlarged(torch.from_numpy(image)[None].int(), factor, part)[0].numpy() / 2 ** (2 * POINT)
    assert np.abs(ours - theirs[start : start + size, start : start + size]).max() < 0.6


def test_flakes_fall_on_part_of_the_picture_and_end_at_white():
    for level in CORRUPTIONS["snow"].levels["imagenet-c"]:
        layer = flakes(keys_for(0, torch.arange(4)), 64, 48, level)
        assert layer.shape == (4, 1, 64, 48) and layer.dtype == torch.uint8
        assert not torch.equal(layer[0], layer[1]) and 0 < layer.float().mean() < 200


@pytest.mark.parametrize(
    "name, shrink, enlarge", [("upsample", "BICUBIC", "BICUBIC"), ("alias", "NEAREST", "BILINEAR")]
)
@pytest.mark.parametrize("table", ["imagenet-c", "cifar-c"])
def test_resampling_is_pillows_by_the_filters_that_it_names(table, name, shrink, enlarge):
    for severity, factor in enumerate(CORRUPTIONS[name].levels[table], start=1):
        ours = corrupt(SMALL, name, severity, table=table)
        for image, there in zip(SMALL, ours, strict=True):
            picture = Image.fromarray(image.permute(1, 2, 0).numpy())
            small = picture.resize((int(24 * factor), int(20 * factor)), Image.Resampling[shrink])
            expected = np.asarray(small.resize((24, 20), Image.Resampling[enlarge]))
            assert (there.permute(1, 2, 0).numpy() == expected).all()


def test_saturation_of_grey_and_of_full_colours():
    grey = torch.full((1, 3, 16, 16), 120, dtype=torch.uint8)
    assert torch.equal(corrupt(grey, "saturate", 1), grey)
    assert corrupt(grey, "saturate", 5, table="imagenet-c")[0, :, 0, 0].tolist() == [120, 96, 96]
    red = torch.tensor([200, 0, 0], dtype=torch.uint8).view(1, 3, 1, 1).expand(1, 3, 16, 16)
    assert corrupt(red, "saturate", 2)[0, :, 0, 0].tolist() == [200, 180, 180]
    assert torch.equal(corrupt(red, "saturate", 3), red)
