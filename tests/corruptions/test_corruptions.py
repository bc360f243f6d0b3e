"""Corruptions: the peers' outputs, laws of the noises, and randomness that follows the image.

The stochastic corruptions are compared with 20 runs of the peer by a prediction test: we draw GROUPS groups of 20 runs
and ask whether the peer is one more group, by the prediction interval of a normal sample (Student's t). Each average
per channel (of means, of deviations, of squared edges in the mean map) is compared itself; each map and histogram by
the logarithm of its squared distance from the mean of all groups. Bonferroni over all comparisons; the same test must
tell severity 1 from 3 and 5.
"""

from __future__ import annotations

import io
import multiprocessing

import numpy as np
import pytest
import torch
from helpers import REFERENCE
from PIL import Image
from scipy import stats

from edgelib.corruptions import CORRUPTIONS, FAMILIES, TABLES, corrupt, digital, table_for
from edgelib.corruptions.blur import _shared_taps, disk_kernel, motion_blurred, motion_taps
from edgelib.corruptions.digital import _coded_by_pillow, _coded_by_torchvision
from edgelib.corruptions.jpeg import jpeg_round_trip
from edgelib.corruptions.noise import gaussian_quantiles, poisson_tables
from edgelib.corruptions.weather.fog import hazed, plasma
from edgelib.errors import EdgelibError
from edgelib.ground.randomness import address, keys_for

FOLDER = REFERENCE / "corruptions"
SETS = {"imagenet-c_32": "cifar", "cifar-c_32": "cifar", "imagenet-c_224": "natural"}
GROUPS, RUNS = 32, 20
ALPHA = 1e-3 / 400  # about as many comparisons are made below


def tensor(array):
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(array, -1, -3)))


def stored(what, kind, name):
    """The file that holds the peer's outputs of a corruption; None where there is none."""
    for path in FOLDER.glob(f"*{what}_{kind}.npz"):
        found = np.load(path)
        if any(key.partition("__")[0] == name for key in found.files):
            return found
    return None


# Published so that it is an affine map first, and a gentler one at every severity: nothing grows.
GENTLER = ("elastic_transform", "cifar-c")
DETERMINISTIC = [name for name in CORRUPTIONS if stored("deterministic", "imagenet-c_32", name)]
STOCHASTIC = [name for name in CORRUPTIONS if stored("stochastic", "imagenet-c_32", name)]


def clean(kind):
    return tensor(np.load(FOLDER / "clean.npz")[kind])


def random_images(n, height, width, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (n, 3, height, width), dtype=torch.uint8, generator=generator)


def levels_apart(ours, theirs):
    return int((ours.int() - theirs.int()).abs().max())


# Against the peers ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", DETERMINISTIC)
@pytest.mark.parametrize("kind", SETS)
def test_deterministic_ones_are_within_one_grey_level_of_the_peer(kind, name):
    reference = stored("deterministic", kind, name)
    images, table = clean(SETS[kind]), kind.split("_")[0]
    for severity, theirs in zip(reference["severities"], reference[name], strict=True):
        ours = corrupt(images, name, int(severity), table=table)
        assert levels_apart(ours, tensor(theirs)) <= 1
        assert (ours != tensor(theirs)).float().mean() < 0.1


@pytest.mark.parametrize("table", TABLES)
def test_motion_blur_along_a_given_angle_is_within_one_grey_level(table):
    reference = np.load(FOLDER / "motion_blur_fixed_angle.npz")
    images = clean("cifar")
    for angle, outputs in zip(reference["angles"], reference[table], strict=True):
        for level, theirs in zip(CORRUPTIONS["motion_blur"].levels[table], outputs, strict=True):
            assert levels_apart(motion_blurred(images, level, [float(angle)] * len(images)), tensor(theirs)) <= 1


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("severity", range(1, 6))
def test_fog_with_the_peers_own_map_is_within_one_grey_level(severity, table):
    reference = np.load(FOLDER / "fog_and_disks.npz")
    amount, _ = CORRUPTIONS["fog"].levels[table][severity - 1]
    ours = hazed(clean("cifar"), amount, torch.from_numpy(reference[f"{table}_map_{severity}"])[None])
    assert levels_apart(ours, tensor(reference[f"{table}_fog"][severity - 1])) <= 1


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("severity", range(1, 6))
def test_defocus_kernels_equal_the_peers(severity, table):
    theirs = np.load(FOLDER / "fog_and_disks.npz")[f"{table}_disk_{severity}"]
    ours = disk_kernel(*CORRUPTIONS["defocus_blur"].levels[table][severity - 1])
    assert np.allclose(np.pad(ours, (len(theirs) - len(ours)) // 2), theirs, atol=1e-6)


def histogram(runs):
    """Return the shares of the 256 values, [.., 3, 256], of uint8 runs [.., RUNS, 3, H, W]."""
    planes = np.moveaxis(runs, -4, -3).reshape(-1, np.prod(runs.shape[-2:]) * runs.shape[-4])
    places = planes + 256 * np.arange(len(planes), dtype=np.int32)[:, None]
    counts = np.bincount(places.ravel(), minlength=256 * len(planes))
    return counts.reshape(*runs.shape[:-4], 3, 256) / planes.shape[1]


def compared(mean, sd, hist):
    """Return the compared arrays: [.., 3, h, w] maps, their averages per channel, the edges left in the mean map."""
    edges = [(np.diff(mean, axis=axis) ** 2).mean(axis=(-2, -1)) for axis in (-1, -2)]
    return {
        "mean map": mean,
        "deviation map": sd,
        "histogram": hist,
        "channel means": mean.mean(axis=(-2, -1)),
        "channel deviations": sd.mean(axis=(-2, -1)),
        "edges": np.stack(edges, axis=-1),
    }


def our_summaries(runs, blocks):
    maps = runs.astype(np.float32)
    if blocks:
        *lead, height, width = maps.shape
        maps = maps.reshape(*lead, height // 8, 8, width // 8, 8).mean(axis=(-3, -1))
    return compared(maps.mean(axis=-4), maps.std(axis=-4), histogram(runs))


def peer_summaries(reference, name, row, image):
    mean, sd = (np.moveaxis(reference[f"{name}__{what}_x256"][row, image], -1, 0) / 256 for what in ("mean", "std"))
    counts = reference[f"{name}__hist256"][row, image].astype(float)
    return compared(mean, sd, counts / counts.sum(axis=-1, keepdims=True))


def prediction_p(groups, peer):
    """Return the p-value that `peer` is one more of `groups`, [G, ..]; few numbers are compared one by one."""
    n, centre = len(groups), groups.mean(axis=0)
    widen = np.sqrt(1 + 1 / n)
    if peer.size <= 6:
        t = (peer - centre) / (groups.std(axis=0, ddof=1) * widen)
        return min(1.0, 2 * peer.size * stats.t.sf(np.abs(t).max(), df=n - 1))
    inner = np.log(((groups - centre) ** 2).reshape(n, -1).mean(axis=1) / (1 - 1 / n) + 1e-12)
    outer = np.log(((peer - centre) ** 2).mean() / (1 + 1 / n) + 1e-12)
    return stats.t.sf((outer - inner.mean()) / (inner.std(ddof=1) * widen), df=n - 1)


def our_groups(name, table, severity, image, n_groups=GROUPS):
    entry = CORRUPTIONS[name]
    keys = keys_for(address("prediction test", name, severity), torch.arange(n_groups * RUNS))
    images = image.expand(len(keys), -1, -1, -1).contiguous()
    runs = entry.apply(images, entry.levels[table][severity - 1], keys)
    return runs.view(n_groups, RUNS, *image.shape).numpy()


def p_values(kind, name, row, image, our_severity):
    reference = stored("stochastic", kind, name)
    large = kind.endswith("224")
    runs = our_groups(name, kind.split("_")[0], our_severity, clean(SETS[kind])[image], 8 if large else GROUPS)
    ours, theirs = our_summaries(runs, large), peer_summaries(reference, name, row, image)
    return {what: prediction_p(ours[what], theirs[what]) for what in ours}


@pytest.mark.parametrize("name", STOCHASTIC)
@pytest.mark.parametrize("row", range(3), ids=["severity 1", "severity 3", "severity 5"])
@pytest.mark.parametrize("kind", ["imagenet-c_32", "cifar-c_32"])
def test_stochastic_ones_have_the_peers_means_deviations_and_histograms(kind, row, name):
    for image in (0, 1):
        found = p_values(kind, name, row, image, 2 * row + 1)
        assert min(found.values()) > ALPHA, found


@pytest.mark.parametrize("name", [name for name in STOCHASTIC if stored("stochastic", "imagenet-c_224", name)])
def test_stochastic_ones_have_the_peers_law_at_224_pixels(name):
    found = p_values("imagenet-c_224", name, 0, 0, 3)
    assert min(found.values()) > ALPHA, found


@pytest.mark.parametrize("name", STOCHASTIC)
@pytest.mark.parametrize("row", [1, 2], ids=["severity 3", "severity 5"])
@pytest.mark.parametrize("kind", ["imagenet-c_32", "cifar-c_32"])
def test_the_prediction_test_tells_severity_1_from_others(kind, row, name):
    if (name, kind.partition("_")[0]) != GENTLER:
        assert min(p_values(kind, name, row, 0, 1).values()) < ALPHA


# Laws -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sd", [0.04, 0.38])
def test_gaussian_quantiles_hold_the_normal_distribution_function(sd):
    quantiles, at = gaussian_quantiles(sd), np.arange(-300, 301)
    share = np.searchsorted(quantiles, at, side="left") / len(quantiles)  # P(floor(x) < a) = P(x < a)
    assert np.abs(share - stats.norm.cdf(at / (255 * sd))).max() <= 2.0**-16


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("severity", [1, 5])
def test_impulse_noise_hits_the_asked_share_half_and_half(severity, table):
    grey = torch.full((1, 3, 300, 300), 120, dtype=torch.uint8)
    noisy, amount = corrupt(grey, "impulse_noise", severity, table=table), CORRUPTIONS["impulse_noise"].levels[table]
    for value in (0, 255):
        found = stats.binomtest(int((noisy == value).sum()), grey.numel(), amount[severity - 1] / 2)
        assert found.pvalue > 1e-6
    assert set(noisy.unique().tolist()) == {0, 120, 255}


@pytest.mark.parametrize("photons", [500, 250, 100, 75, 60, 50, 25, 12, 5, 3])
def test_poisson_tables_hold_the_poisson_distribution_function(photons):
    rows, cells = poisson_tables(photons)
    rank = np.arange(1 << 16) - (1 << 15)
    for value in (0, 1, 7, 100, 254, 255):
        cell = cells[rows // 256, value]
        grey = np.where(rank <= cell >> 16, cell, cell >> 8) & 255
        assert (np.diff(grey) >= 0).all()
        shown = np.trunc(255 * (np.arange(photons + 1) / photons))
        counts = np.flatnonzero(np.diff(shown))  # where the next count shows as another grey level
        share = np.searchsorted(grey, shown[counts], side="right") / len(grey)
        assert np.abs(share - stats.poisson.cdf(counts, value * photons / 255)).max() <= 2.0**-16


@pytest.mark.parametrize("name", ["gaussian_noise", "shot_noise", "impulse_noise"])
def test_noise_of_neighbouring_pixels_and_channels_is_uncorrelated(name):
    grey = torch.full((1, 3, 128, 128), 120, dtype=torch.uint8)
    noise = corrupt(grey, name, 3).double()[0]
    noise = (noise - noise.mean()) / noise.std()
    for a, b in ((noise[:, 1:], noise[:, :-1]), (noise[..., 1:], noise[..., :-1]), (noise[1:], noise[:-1])):
        assert abs((a * b).mean()) < 5 / np.sqrt(a.numel())


def test_motion_angles_are_uniform():
    from edgelib.ground.randomness import uniform

    angles = uniform(keys_for(address("angles"), torch.arange(4000)), 1)[:, 0].double().numpy() * 90 - 45
    assert stats.kstest(angles, stats.uniform(-45, 90).cdf).pvalue > 1e-6


def test_a_moving_camera_that_outruns_the_image_loses_light():
    grey = torch.full((1, 3, 32, 32), 200, dtype=torch.uint8)
    assert set(motion_blurred(grey, (20, 15), [0.0]).unique().tolist()) == {194}
    assert (motion_taps(20, 15, [0.0], 32, 32)[2] > 0).sum() == 32


def test_cifar_motion_blur_is_equal_at_severities_3_and_4():
    images = random_images(3, 32, 32)
    assert levels_apart(corrupt(images, "motion_blur", 3), corrupt(images, "motion_blur", 4)) == 0


@pytest.mark.parametrize("size", [2, 32, 64])
def test_plasma_maps_fill_the_unit_interval(size):
    maps = plasma(keys_for(0, torch.arange(5)), size, 2.0).flatten(1)
    assert maps.shape == (5, size * size)
    assert (maps.amin(dim=1) == 0).all() and (maps.amax(dim=1) == 1).all()


@pytest.mark.parametrize(
    "name",
    [
        "defocus_blur",
        "motion_blur",
        "contrast",
        "pixelate",
        "gaussian_blur",
        "glass_blur",
        "zoom_blur",
        "elastic_transform",
        "upsample",
        "alias",
    ],
)
@pytest.mark.parametrize("value", [0, 1, 77, 254, 255])
def test_blurs_and_resampling_keep_a_constant_image(name, value):
    images = torch.full((1, 3, 48, 64), value, dtype=torch.uint8)
    for severity in range(1, 6):
        assert levels_apart(corrupt(images, name, severity), images) <= 1


@pytest.mark.parametrize("table", TABLES)
def test_brightness_adds_to_grey_images(table):
    grey = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).repeat(1, 3, 1, 1)
    for severity, shift in enumerate(CORRUPTIONS["brightness"].levels[table], start=1):
        expected = (grey.double() + 255 * shift).clamp(max=255)
        assert (corrupt(grey, "brightness", severity, table=table).double() - expected).abs().max() <= 1


@pytest.mark.parametrize("name", CORRUPTIONS)
@pytest.mark.parametrize("table", TABLES)
def test_damage_grows_with_severity(name, table):
    images = clean("natural")[:, :, ::2, ::2].contiguous()
    damage = [(corrupt(images, name, s, table=table).float() - images).pow(2).mean().item() for s in range(6)]
    assert damage[0] == 0 < damage[1]
    assert damage[1] < damage[5] or (name, table) == GENTLER


@pytest.mark.parametrize("size", [(48, 48), (33, 47), (100, 130), (190, 200)], ids=str)
@pytest.mark.parametrize("table", TABLES)
def test_pixelate_and_jpeg_equal_pillow(size, table):
    images = random_images(2, *size)
    for severity in range(1, 6):
        factor, quality = (CORRUPTIONS[n].levels[table][severity - 1] for n in ("pixelate", "jpeg_compression"))
        for image, small, coded in zip(
            images,
            corrupt(images, "pixelate", severity, table=table),
            corrupt(images, "jpeg_compression", severity, table=table),
            strict=True,
        ):
            pixels = Image.fromarray(image.permute(1, 2, 0).numpy())
            fewer = pixels.resize((int(size[1] * factor), int(size[0] * factor)), Image.Resampling.BOX)
            assert torch.equal(tensor(np.array(fewer.resize(pixels.size, Image.Resampling.NEAREST))), small)
            pixels.save(stream := io.BytesIO(), "JPEG", quality=quality)
            assert levels_apart(tensor(np.array(Image.open(stream))), coded) == 0


@pytest.mark.parametrize("size", [(16, 16), (17, 23), (31, 18), (50, 49), (96, 112)], ids=str)
@pytest.mark.parametrize("kind", ["random", "smooth", "black and white"])
def test_jpeg_by_arithmetic_equals_pillow(kind, size):
    images = random_images(3, *size)
    if kind == "smooth":
        images = torch.nn.functional.interpolate(random_images(3, 4, 4).float(), size, mode="bilinear").to(torch.uint8)
    elif kind == "black and white":  # the largest coefficients
        images = (images > 127).to(torch.uint8) * 255
    for quality in (1, 7, 25, 49, 50, 80, 95, 100):
        expected = _coded_by_pillow(images, quality)
        assert torch.equal(jpeg_round_trip(images, quality), expected)
        assert not digital._torchvision_agrees() or torch.equal(_coded_by_torchvision(images, quality), expected)


def test_large_pictures_are_coded_alike_without_torchvisions_codec(monkeypatch):
    images = random_images(2, 140, 130)
    expected = corrupt(images, "jpeg_compression", 3)

    def missing(images, quality):
        raise RuntimeError("encode_jpeg: torchvision not compiled with libjpeg support")

    monkeypatch.setattr(digital, "_coded_by_torchvision", missing)
    digital._torchvision_agrees.cache_clear()
    try:
        assert not digital._torchvision_agrees()
        assert torch.equal(corrupt(images, "jpeg_compression", 3), expected)
    finally:
        digital._torchvision_agrees.cache_clear()


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("severity", range(1, 6))
def test_defocus_is_the_convolution_with_its_kernel(severity, table):
    images = random_images(2, 24, 37)
    kernel = torch.from_numpy(disk_kernel(*CORRUPTIONS["defocus_blur"].levels[table][severity - 1]))
    half = len(kernel) // 2
    padded = torch.nn.functional.pad(images.double(), [half] * 4, mode="reflect").flatten(0, 1)[:, None]
    exact = torch.nn.functional.conv2d(padded, kernel[None, None]).view(images.shape).clamp(max=255)
    below = exact - corrupt(images, "defocus_blur", severity, table=table).double()
    assert below.min() > -0.05 and below.max() < 1.05


@pytest.mark.parametrize("table", TABLES)
def test_contrast_is_exact(table):
    images = random_images(2, 17, 23)
    pixels = 17 * 23
    for severity, factor in enumerate(CORRUPTIONS["contrast"].levels[table], start=1):
        percent, sums = round(100 * factor), images.long().sum(dim=(2, 3), keepdim=True)
        expected = (percent * images.long() * pixels + (100 - percent) * sums) // (100 * pixels)
        assert torch.equal(corrupt(images, "contrast", severity, table=table).long(), expected)


def test_motion_taps_are_shared_by_images_in_order_of_their_angles():
    angles = np.sort(np.random.default_rng(0).uniform(-45, 45, 50))
    taps = motion_taps(15, 8, angles, 24, 24)
    spread = np.zeros((50, 49, 49))
    for start, stop, row, column, weight in _shared_taps(*taps):
        spread[start:stop, 24 + row, 24 + column] += weight
    for image, (rows, columns, weights) in zip(spread, zip(*taps, strict=True), strict=True):
        alone = np.zeros((49, 49))
        np.add.at(alone, (24 + rows, 24 + columns), weights)
        assert np.array_equal(image, alone)
    assert len(list(_shared_taps(*taps))) < (taps[2] > 0).sum() / 2


# Randomness follows the image -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(17, 23), (32, 32), (47, 33), (48, 48)], ids=str)
@pytest.mark.parametrize("name", CORRUPTIONS)
def test_an_image_is_corrupted_the_same_in_any_batch(name, size):
    images = random_images(150, *size)
    for table, severity in (("imagenet-c", 2), ("imagenet-c", 5), ("cifar-c", 3)):
        whole = corrupt(images, name, severity, table=table)
        order = torch.randperm(150, generator=torch.Generator().manual_seed(1))
        assert torch.equal(corrupt(images[order], name, severity, table=table), whole[order])
        for i in (0, 61, 149):
            assert torch.equal(corrupt(images[i : i + 1], name, severity, table=table)[0], whole[i])


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_the_number_of_threads_changes_nothing_and_is_left_alone(name):
    images, threads = random_images(3, 225, 231), torch.get_num_threads()
    several = corrupt(images, name, 4)
    assert torch.get_num_threads() == threads
    try:
        torch.set_num_threads(1)
        assert torch.equal(corrupt(images, name, 4), several)
    finally:
        torch.set_num_threads(threads)


def corrupted_bytes(images):
    return corrupt(torch.from_numpy(images), "contrast", 3).numpy().tobytes()


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_a_forked_process_starts_threads_of_its_own():
    images, threads = random_images(4, 160, 160).numpy(), torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        expected = corrupted_bytes(images)
        with multiprocessing.get_context("fork").Pool(1) as pool:
            assert pool.apply_async(corrupted_bytes, (images,)).get(timeout=1200) == expected  # a hang, on any machine
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("name", STOCHASTIC)
def test_seeds_differ_and_repeat(name):
    images = random_images(2, 32, 32)
    assert torch.equal(corrupt(images, name, 3, seed=1), corrupt(images, name, 3, seed=1))
    assert not torch.equal(corrupt(images, name, 3, seed=1), corrupt(images, name, 3, seed=2))


def test_numpy_integers_are_numbers_like_others():
    images = random_images(2, 32, 32)
    expected = corrupt(images, "gaussian_noise", 3, seed=1)
    for whole in (np.int64, np.int32, np.uint8):
        assert torch.equal(corrupt(images, "gaussian_noise", whole(3), seed=whole(1)), expected)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32], ids=str)
@pytest.mark.parametrize("name", CORRUPTIONS)
def test_inference_mode_changes_nothing(name, dtype):
    images, threads = random_images(4, 160, 160), torch.get_num_threads()
    images = images if dtype == torch.uint8 else images / 255
    try:
        torch.set_num_threads(2)
        with torch.inference_mode():
            inferred = corrupt(images, name, 3)
            again = corrupt(images.clone(), name, 3)
        assert torch.equal(inferred, again) and torch.equal(inferred, corrupt(images, name, 3))
        assert torch.equal(corrupt(inferred, name, 0), inferred)
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("name", ["gaussian_noise", "shot_noise", "impulse_noise"])
def test_the_same_noise_pattern_grows_with_severity(name):
    images = torch.full((1, 3, 64, 64), 128, dtype=torch.uint8)
    mild, strong = (corrupt(images, name, s, table="cifar-c").flatten().double().numpy() for s in (2, 5))
    assert np.corrcoef(mild, strong)[0, 1] > (0.5 if name == "impulse_noise" else 0.98)


@pytest.mark.parametrize("layout", ["channels last", "strided", "expanded"])
@pytest.mark.parametrize("name", CORRUPTIONS)
def test_memory_layout_does_not_matter_and_the_argument_survives(name, layout):
    images = random_images(2, 34, 40)
    odd = {
        "channels last": images.contiguous(memory_format=torch.channels_last),
        "strided": torch.stack([images, images], dim=-1)[..., 0],
        "expanded": images[:1].expand(2, -1, -1, -1),
    }[layout]
    kept = odd.clone()
    assert torch.equal(corrupt(odd, name, 2), corrupt(kept.contiguous(), name, 2))
    assert torch.equal(odd, kept)


# Contract -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_entries_are_complete(name):
    entry = CORRUPTIONS[name]
    assert entry.name == name and entry.family in FAMILIES and entry.source and entry.parameter and entry.notes
    assert set(entry.levels) == set(TABLES) and all(len(levels) == 5 for levels in entry.levels.values())


def test_the_ten_are_there():
    assert {
        "gaussian_noise",
        "shot_noise",
        "impulse_noise",
        "defocus_blur",
        "motion_blur",
        "fog",
        "brightness",
        "contrast",
        "jpeg_compression",
        "pixelate",
    } <= set(CORRUPTIONS)


@pytest.mark.parametrize(
    "size, table",
    [((32, 32), "cifar-c"), ((64, 200), "cifar-c"), ((65, 65), "imagenet-c"), ((224, 224), "imagenet-c")],
    ids=str,
)
def test_the_table_follows_the_shorter_side(size, table):
    assert table_for(*size) == table
    images = random_images(1, *size)
    assert torch.equal(corrupt(images, "contrast", 1), corrupt(images, "contrast", 1, table=table))


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_severity_0_is_a_copy(name):
    images = random_images(2, 32, 32)
    copy = corrupt(images, name, 0)
    assert torch.equal(copy, images) and copy.data_ptr() != images.data_ptr()


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_an_empty_batch_stays_empty(name):
    assert corrupt(torch.empty(0, 3, 32, 32, dtype=torch.uint8), name, 3).shape == (0, 3, 32, 32)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16], ids=str)
def test_unit_floats_are_the_levels_divided_by_255(dtype):
    images = random_images(2, 32, 32)
    floats = corrupt((images.to(dtype) / 255), "fog", 3)
    assert floats.dtype == dtype
    assert torch.equal((floats * 255).round().to(torch.uint8), corrupt(images, "fog", 3))


GOOD = random_images(1, 32, 32)
WRONG = {
    "unknown name": ((GOOD, "gausian_noise", 1), {}, "did you mean 'gaussian_noise'"),
    "unknown table": ((GOOD, "fog", 1), {"table": "imagenet"}, "did you mean 'imagenet-c'"),
    "severity 6": ((GOOD, "fog", 6), {}, "from 0"),
    "severity -1": ((GOOD, "fog", -1), {}, "from 0"),
    "severity 1.0": ((GOOD, "fog", 1.0), {}, "from 0 .* must be a whole number, got 1.0"),
    "severity True": ((GOOD, "fog", True), {}, "must be a whole number, got True"),
    "seed 1.0": ((GOOD, "fog", 1), {"seed": 1.0}, "seed must be a whole number, got 1.0"),
    "seed '1'": ((GOOD, "fog", 1), {"seed": "1"}, "seed must be a whole number, got '1'"),
    "seed True": ((GOOD, "fog", 1), {"seed": True}, "seed must be a whole number, got True"),
    "seed None": ((GOOD, "fog", 0), {"seed": None}, "seed must be a whole number, got None"),
    "array": ((GOOD.numpy(), "fog", 1), {}, "torch.as_tensor"),
    "int64": ((GOOD.long(), "fog", 1), {}, "torch.uint8"),
    "three axes": ((GOOD[0], "fog", 1), {}, r"images\[None\]"),
    "grey": ((GOOD[:, :1], "fog", 1), {}, "expand"),
    "channels last": ((GOOD.permute(0, 2, 3, 1), "fog", 1), {}, "permute"),
    "too small": ((GOOD[..., :15], "fog", 1), {}, "at least 16"),
    "0..255 floats": ((GOOD.float(), "fog", 1), {}, "divide"),
    "NaN": ((torch.full((1, 3, 32, 32), torch.nan), "fog", 1), {}, "NaN"),
}


@pytest.mark.parametrize("case", WRONG)
def test_mistakes_are_named_with_their_fix(case):
    arguments, options, text = WRONG[case]
    with pytest.raises(EdgelibError, match=text):
        corrupt(*arguments, **options)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("name", CORRUPTIONS)
def test_a_gpu_gives_the_same_image_within_one_grey_level(name):
    images = random_images(5, 48, 48)
    assert levels_apart(corrupt(images.cuda(), name, 3).cpu(), corrupt(images, name, 3)) <= 1
