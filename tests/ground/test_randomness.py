"""Laws of the counter-based generator: uniform, independent, addressed, the same for ever."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from edgelib.errors import EdgelibError
from edgelib.ground.randomness import address, bits, content_keys, keys_for, normal, uniform

KEYS = keys_for(address("tests", 0), torch.arange(64))
ALPHA = 1e-6  # per test; the draws are fixed, so a pass is a pass for ever


def test_addresses_are_stable_and_tell_types_and_nesting_apart():
    assert address("corruption", "fog", 0) == -962602567712780461
    names = [("a", 1), ("a", "1"), ("a1",), (("a", 1),), ("a", 1, 0), ("a", -1), ()]
    assert len({address(*name) for name in names}) == len(names)


@pytest.mark.parametrize(
    "numpy_key", [np.int64(1), np.uint8(1), np.float64(0.5), np.float32(0.5), np.str_("a"), np.bool_(True)], ids=repr
)
def test_a_numpy_number_has_the_address_of_its_value(numpy_key):
    assert address("x", numpy_key) == address("x", numpy_key.item())
    assert address("x", (0, (numpy_key,))) == address("x", (0, (numpy_key.item(),)))


@pytest.mark.parametrize("seed", [10**30, -(10**30), 2**64, 10**5000], ids=["long", "negative", "one more", "endless"])
def test_a_seed_of_more_than_64_bits_is_named(seed):
    with pytest.raises(EdgelibError, match="seed is a whole number of at most 64 bits, got"):
        address("x", (0, seed))


def test_bits_are_stable():
    golden = [[2082515211, -1620651370, -1841845257], [1332506293, 530649509, 409037268]]
    assert bits(keys_for(1, torch.arange(2)), 3).tolist() == golden


def test_a_row_depends_on_its_own_key_only():
    whole = bits(KEYS, 100)
    for i in (0, 1, 33, 63):
        assert torch.equal(bits(KEYS[i : i + 1], 100)[0], whole[i])


def test_a_longer_stream_starts_with_the_shorter_one():
    assert torch.equal(bits(KEYS, 1000)[:, :77], bits(KEYS, 77))
    assert torch.equal(uniform(KEYS, 1000)[:, :77], uniform(KEYS, 77))


def test_drawing_leaves_earlier_results_and_keys_alone():
    keys, first = KEYS.clone(), bits(KEYS, 50)
    kept = first.clone()
    bits(KEYS + 1, 50)
    assert torch.equal(first, kept) and torch.equal(keys, KEYS)


def test_every_bit_is_fair():
    words = bits(KEYS, 4096).flatten().numpy().view(np.uint32)
    ones = np.array([int(((words >> b) & 1).sum()) for b in range(32)])
    z = (ones - len(words) / 2) / np.sqrt(len(words) / 4)
    assert np.abs(z).max() < stats.norm.isf(ALPHA / 64)


@pytest.mark.parametrize("half", [0, 1], ids=["low half", "high half"])
def test_16_bit_halves_are_uniform(half):
    halves = bits(KEYS, 16384).view(torch.int16)[:, half::2].flatten().numpy().view(np.uint16)
    counts = np.bincount(halves >> 6, minlength=1024)
    assert stats.chisquare(counts).pvalue > ALPHA


def test_uniform_is_uniform_inside_the_open_interval():
    u = uniform(KEYS, 8192).flatten().double().numpy()
    assert 0 < u.min() and u.max() < 1
    assert stats.kstest(u, "uniform").pvalue > ALPHA


def test_the_extremes_of_the_grid_stay_inside_the_open_interval():
    u = uniform(KEYS, 1 << 17)
    assert float(u.min()) >= 2.0**-24 and float(u.max()) <= 1 - 2.0**-24


def test_normal_has_the_law_of_a_standard_normal():
    z = normal(KEYS, 8191).flatten().double().numpy()
    assert stats.kstest(z, "norm").pvalue > ALPHA
    assert abs(z.mean()) < 5 / np.sqrt(len(z)) and abs(z.std() - 1) < 5 / np.sqrt(2 * len(z))
    assert abs(stats.skew(z)) < 5 * np.sqrt(6 / len(z)) and abs(stats.kurtosis(z)) < 5 * np.sqrt(24 / len(z))


@pytest.mark.parametrize("lag", [1, 2, 32, 48, 224])
def test_neighbours_in_a_stream_are_uncorrelated(lag):
    u = uniform(KEYS, 8192).double().numpy() - 0.5
    products = (u[:, lag:] * u[:, :-lag]).ravel() * 12
    assert abs(products.mean()) < 5 / np.sqrt(len(products))


@pytest.mark.parametrize("lag", [1, 2, 16])
def test_neighbouring_keys_are_uncorrelated(lag):
    u = uniform(KEYS, 8192).double().numpy() - 0.5
    products = (u[lag:] * u[:-lag]).ravel() * 12
    assert abs(products.mean()) < 5 / np.sqrt(len(products))


def test_one_changed_bit_of_the_index_changes_half_of_the_bits():
    index = torch.arange(4096)
    changed = (keys_for(5, index) ^ keys_for(5, index ^ 1)).numpy().view(np.uint64)
    share = np.unpackbits(changed.view(np.uint8)).mean()
    assert abs(share - 0.5) < 5 * 0.5 / np.sqrt(64 * 2048)  # pairs repeat once


def test_keys_do_not_collide():
    assert len(torch.unique(keys_for(7, torch.arange(100_000)))) == 100_000


@pytest.mark.parametrize("shape", [(3, 5, 7), (3, 8, 8), (1,), (3, 17, 23)], ids=str)
def test_content_keys_follow_the_image(shape):
    images = torch.randint(0, 256, (9, *shape), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    keys, order = content_keys(3, images), torch.randperm(9)
    assert torch.equal(content_keys(3, images[order]), keys[order])
    assert torch.equal(content_keys(3, images[4:5]), keys[4:5])
    assert not (content_keys(4, images) == keys).any()


def test_content_keys_ignore_the_memory_layout():
    images = torch.randint(0, 256, (4, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(content_keys(0, images.contiguous(memory_format=torch.channels_last)), content_keys(0, images))


def test_one_changed_value_anywhere_changes_the_key():
    image = torch.zeros(1, 3, 6, 6, dtype=torch.uint8)
    variants = image.repeat(109, 1, 1, 1).flatten(1)
    variants[torch.arange(108), torch.arange(108)] = 1
    assert len(torch.unique(content_keys(0, variants))) == 109
