"""Frost and spatter: OpenCV's steps written out, the peers' spatter of the same drops, statistics of their frost."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers import REFERENCE
from scipy import ndimage, stats
from scipy.spatial.distance import cdist

from edgelib.corruptions import CORRUPTIONS, TABLES, corrupt
from edgelib.corruptions.gaussian import smoothed
from edgelib.corruptions.weather.edges import POINT, canny, distances, spread
from edgelib.corruptions.weather.frost import PANES, crystals, pane_of, panes
from edgelib.corruptions.weather.spatter import UNIT, gleam, noise, spattered
from edgelib.errors import EdgelibError
from edgelib.ground.randomness import address, keys_for

FOLDER = REFERENCE / "corruptions"
SETS = {"imagenet-c_32": "cifar", "cifar-c_32": "cifar", "imagenet-c_224": "natural"}


def clean(kind):
    return torch.from_numpy(np.load(FOLDER / "clean.npz")[SETS[kind]]).permute(0, 3, 1, 2).contiguous()


def drops(side, seed=0):
    """Grey levels of smoothed noise with what lies low set to 0: steps and gentle slopes."""
    field = ndimage.gaussian_filter(np.random.default_rng(seed).normal(0.65, 0.3, (side, side)), 1.3)
    return torch.from_numpy(np.where(field < 0.68, 0, field * 255).clip(0, 255).astype(np.uint8))


def keys(n, name="weather"):
    return keys_for(address(name), torch.arange(n))


# Spatter --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", SETS)
def test_spatter_of_the_peers_drops_is_the_peers(kind):
    reference, images = np.load(FOLDER / "spatter_layer_given.npz"), clean(kind)
    levels = CORRUPTIONS["spatter"].levels[kind.split("_")[0]]
    for severity, layer, theirs in zip(*(reference[kind + e] for e in ("_severities", "_layer", "")), strict=True):
        level = levels[severity - 1]
        ours = spattered(images, torch.from_numpy(layer.astype(np.int32)), level)
        apart = (ours.int() - torch.from_numpy(theirs).permute(0, 3, 1, 2).int()).abs()
        assert apart.max() <= (1 if level[-1] else 0) and (apart > 0).float().mean() < 0.003


def canny_by_loops(plane, low, high):
    """Canny's rule pixel by pixel: a ridge along the rounded direction of the gradient, then what touches an edge."""
    values = np.pad(plane.astype(int), 1, mode="edge")
    shape, ways = plane.shape, ndimage.generate_binary_structure(2, 2)
    gradient = [ndimage.correlate(values, k, mode="constant")[1:-1, 1:-1] for k in (SOBEL, SOBEL.T)]
    size = np.pad(abs(gradient[0]) + abs(gradient[1]), 1)
    ridge = np.zeros(shape, bool)
    for y, x in np.ndindex(shape):
        across, down = (int(g[y, x]) for g in gradient)
        angle, here = np.degrees(np.arctan2(abs(down), abs(across))), size[y + 1, x + 1]
        slanted = 22.5 < angle < 67.5
        turn = -1 if across * down < 0 else 1
        dy, dx = (1, turn) if slanted else (0, 1) if angle <= 22.5 else (1, 0)
        before, after = size[y + 1 - dy, x + 1 - dx], size[y + 1 + dy, x + 1 + dx]
        ridge[y, x] = here > low and here > before and (here > after or (here == after and not slanted))
    strong = ridge & (size[1:-1, 1:-1] > high)
    return ndimage.binary_propagation(strong, ways, mask=ridge)


SOBEL = np.array([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]])


@pytest.mark.parametrize("kind", ["drops", "random", "steps"])
def test_edges_are_cannys(kind):
    rng = np.random.default_rng(1)
    made = {
        "drops": drops(40),
        "random": torch.from_numpy(rng.integers(0, 60, (30, 33), dtype=np.uint8)),
        "steps": torch.from_numpy(np.kron(rng.integers(0, 3, (6, 7)), np.ones((5, 5))).astype(np.uint8) * 30),
    }[kind]
    found = canny(torch.stack([made, made.flip(0)]), 50, 150).numpy()
    assert found.any() and (found[0] == canny_by_loops(made.numpy(), 50, 150)).all()
    assert (found[1] == canny_by_loops(made.flip(0).numpy(), 50, 150)).all()


@pytest.mark.parametrize("share", [0.0, 0.001, 0.05, 1.0])
def test_distances_are_those_of_the_shortest_path_of_steps_and_knights_moves(share):
    edges = np.random.default_rng(2).random((2, 40, 45)) < share
    found = distances(torch.from_numpy(edges), 20).numpy() / 2**POINT
    grid = np.argwhere(np.ones(edges.shape[1:], bool))

    def length(a, b):
        near, far = sorted(abs(a - b))
        return near * 2.1969 + far - 2 * near if far >= 2 * near else (far - near) * 2.1969 + (2 * near - far) * 1.4

    for plane, ours in zip(edges, found, strict=True):
        sources = np.argwhere(plane)[:60]
        if plane.sum() > 60:  # too many to write out: not farther than by Euclid's distance and 3 percent
            euclid = np.minimum(ndimage.distance_transform_edt(~plane), 20)
            assert (ours >= 0.97 * euclid).all() and (ours <= 1.03 * euclid + 1e-3).all()
        elif len(sources):
            expected = np.minimum(cdist(grid, sources, length).min(axis=1), 20).reshape(plane.shape)
            assert np.abs(ours - expected).max() < 2e-4
        else:
            assert (ours == 20).all()


def test_spread_levels_follow_the_distribution_and_one_level_stays():
    planes = torch.stack([drops(30) // 20, torch.full((30, 30), 7, dtype=torch.uint8)])
    ours = spread(planes)
    plane = planes[0].numpy()
    below = np.array([(plane <= v).sum() for v in range(256)])
    lowest = (plane == plane.min()).sum()
    expected = np.round((below - lowest) / (plane.size - lowest) * 255)[plane]
    assert np.abs(ours[0].numpy() - expected).max() <= 1 and ours[0].max() == 255 and ours[0].min() == 0
    assert torch.equal(ours[1], planes[1])


def test_noise_is_normal():
    dots = noise(keys(4), 100, 101).double() / UNIT
    assert dots.shape == (4, 100, 101) and abs(dots.mean()) < 0.02 and abs(dots.std() - 1) < 0.01
    assert abs((dots.abs() > 1.96).double().mean() - 0.05) < 0.006
    assert abs((dots[:, 1:] * dots[:, :-1]).mean()) < 0.02


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("severity", [4, 5])
def test_mud_is_brown_where_it_covers_and_nothing_where_it_does_not(table, severity):
    white = torch.full((1, 3, 96, 96), 255, dtype=torch.uint8)
    muddy = corrupt(white, "spatter", severity, table=table)[0].double()
    cover = (255 - muddy) / (255 - torch.tensor([63.0, 42, 20]).view(3, 1, 1))  # the same in every channel
    assert (cover - cover.mean(dim=0)).abs().max() < 0.006
    covered = cover[0] > 0
    assert 0.01 < covered.double().mean() < 0.4
    assert cover[:, covered].min() >= 0.8 and 0.97 < cover.max() < 1.006


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("severity", [1, 2, 3])
def test_water_only_adds_light_of_one_colour(table, severity):
    black = torch.zeros(1, 3, 96, 96, dtype=torch.uint8)
    wet = corrupt(black, "spatter", severity, table=table).float()
    brightness = CORRUPTIONS["spatter"].levels[table][severity - 1][4]
    for image in wet:
        assert abs(image[1].max() - brightness * 238) <= 1 and torch.equal(image[1], image[2])
    assert (wet[:, 0] - wet[:, 1] * 175 / 238).abs().max() <= 1


def test_a_dry_image_stays_as_it_is():
    dots = torch.full((2, 32, 32), -50 << 8, dtype=torch.int32)
    images = clean("cifar-c_32")
    assert not gleam(torch.zeros(2, 32, 32, dtype=torch.uint8)).isnan().any()
    for level in CORRUPTIONS["spatter"].levels["cifar-c"]:
        assert torch.equal(spattered(images, dots, level), images)


def test_drops_are_the_smoothed_noise_of_the_image():
    images, level = clean("cifar-c_32"), CORRUPTIONS["spatter"].levels["cifar-c"][2]
    made = CORRUPTIONS["spatter"].apply(images, level, keys(2))
    assert torch.equal(made, spattered(images, smoothed(noise(keys(2), 32, 32), level[2]), level))


# Frost ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", SETS)
def test_frost_has_the_light_contrast_and_damage_of_the_peers(kind):
    """Means and deviations of the channels, PSNR and how alike neighbours are; each photograph as often as its pane."""
    reference, entry = np.load(FOLDER / "frost_statistics.npz")[kind], CORRUPTIONS["frost"]
    images, draws = clean(kind), pane_of(keys(500))
    n = 40 if images.shape[-1] == 32 else 6
    balanced = keys(500)[torch.cat([(draws == pane).nonzero()[:n, 0] for pane in range(len(PANES))])]
    for severity in (1, 3, 5):
        level, rows = entry.levels[kind.split("_")[0]][severity - 1], reference[severity - 1]
        for image, theirs in zip(images, rows, strict=True):
            runs = entry.apply(image.expand(len(balanced), -1, -1, -1).contiguous(), level, balanced).double()
            change = (runs - image).mean(dim=1).numpy()
            alike = [np.corrcoef(c[:, 1:].ravel(), c[:, :-1].ravel())[0, 1] for c in change]
            mean, deviation = runs.mean(dim=(0, 2, 3)).numpy(), runs.std(dim=(0, 2, 3)).numpy()
            damage = 10 * np.log10(255**2 / (runs - image).pow(2).mean(dim=(1, 2, 3)).numpy()).mean()
            assert np.abs(mean - theirs[:3]).max() < 5
            assert np.abs(deviation / theirs[3:6] - 1).max() < 0.15
            assert abs(damage - theirs[6]) < 0.7
            assert abs(np.median(alike) - theirs[7]) < 0.15


@pytest.mark.parametrize(("side", "distance"), [(32, 2), (256, 10)])
def test_crystals_have_mean_0_and_sd_1(side, distance):
    ice = crystals(keys(40), side, distance)
    assert abs(ice.mean()) < 0.1 and abs(ice.std() - 1) < 0.12 and ice.abs().max() < 5


def test_every_pane_is_drawn_as_often():
    numbers = pane_of(keys(2000)).bincount(minlength=len(PANES))
    assert stats.chisquare(numbers.numpy()).pvalue > 1e-4
    seen = panes(keys(30), 32, 32, 32, 2.0)
    for image, number in zip(seen, pane_of(keys(30)).tolist(), strict=True):
        colour, sd = PANES[number]
        assert (image.mean(dim=(1, 2)) - torch.tensor(colour)).abs().max() < 0.6 * sd


def test_frost_moves_with_the_image_and_the_seed_alone():
    images = clean("cifar-c_32")
    assert torch.equal(corrupt(images, "frost", 3, seed=4), corrupt(images.flip(0), "frost", 3, seed=4).flip(0))
    assert not torch.equal(corrupt(images, "frost", 3, seed=4), corrupt(images, "frost", 3, seed=5))


def test_frost_says_when_a_map_is_too_large():
    with pytest.raises(EdgelibError, match=r"frost on images of 20,000 x 16 pixels needs a map of 32,768 x 32,768"):
        corrupt(torch.zeros(1, 3, 16, 20_000, dtype=torch.uint8), "frost", 1)
