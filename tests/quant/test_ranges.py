"""Weight ranges by search: brute force over the grid, and the range search of GPTQ's authors."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from layers import PEERS, PTQ, layer_of, random_layer

from edgelib.formats.table import FORMATS, decode, encode
from edgelib.quant.methods import ranges as module
from edgelib.quant.methods.ranges import IMATRIX_SHRINKS, MSE_SHRINKS, RANGES, best_shrink, clip_share, round_in
from edgelib.quant.methods.rtn import granularity_of, nearest, round_to_nearest

CASES = {
    "int4 rows": ("int4", None),
    "int3 groups": ("int3", 8),
    "fp8 rows": ("fp8_e4m3", None),
    "mxfp4": ("mxfp4", None),
    "nvfp4": ("nvfp4", None),
}
TENSORS = ["W_64x128", "ties_8x64", "decades_16x64"]


def brute_force(weight, format, group_size, shrinks, power, importance):
    """Errors [shrinks, out, groups] of rounding the whole weight at each factor."""
    size = format.block or group_size or weight.shape[1]
    errors = []
    for shrink in shrinks:
        rounded = decode(encode(weight, format, granularity_of(format, group_size), shrink))
        error = importance * (rounded - weight).abs() ** power
        errors.append(error.unflatten(1, (-1, size)).sum(-1))
    return torch.stack(errors)


@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
@pytest.mark.parametrize("case", CASES)
def test_the_chosen_range_is_the_best_of_the_grid(case, weighted, monkeypatch):
    monkeypatch.setattr(module, "_CHUNK", 100)  # rows are searched in several parts
    format, group_size = FORMATS[CASES[case][0]], CASES[case][1]
    layer = random_layer("w4a8-imatrix")
    importance = layer.seen.square_mean if weighted else torch.ones(32)
    errors = brute_force(layer.weight, format, group_size, MSE_SHRINKS, 2.4, importance)
    chosen = best_shrink(layer.weight, format, group_size, importance=importance if weighted else None)
    index = (torch.tensor(MSE_SHRINKS) - chosen).abs().argmin(-1)
    assert torch.allclose(errors.gather(0, index[None])[0], errors.amin(0), rtol=1e-5)


@pytest.mark.parametrize("tensor", TENSORS)
def test_the_ranges_are_those_of_gptq_s_authors(tensor):
    weight = torch.from_numpy(np.load(PTQ / "integers.npz")[f"inputs/{tensor}"])
    theirs = torch.from_numpy(PEERS[f"gptq/{tensor}/int4_perchannel_sym0_mse1/fake_quant"])
    format = FORMATS["int4"].variant(symmetric=False)
    shrink = best_shrink(weight, format, None, [1 - i / 100 for i in range(80)])
    assert torch.allclose(nearest(weight, format, None, shrink), theirs, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", ["mse", "imatrix"])
def test_ties_keep_the_whole_range(name):
    layer = layer_of(f"w4a8-{name}", torch.tensor([[0.0, 0, 0], [7, 7, -7]]), torch.ones(2, 3))
    assert torch.equal(RANGES[name].shrink(layer), torch.ones(2, 1, 1))
    assert torch.equal(round_in(name)(layer).encoded.codes, round_to_nearest(layer.weight, FORMATS["int4"]).codes)


def test_importance_decides_what_is_clipped():
    weight = torch.tensor([[1.0, 0.11, 0.12, -0.13, 0.09, 0.1]])
    loud, quiet = torch.full((1, 6), 10.0), torch.full((1, 6), 10.0)
    loud[0, 0], quiet[0, 0] = 1000, 0.01
    shrinks = [float(RANGES["imatrix"].shrink(layer_of("w3a8-imatrix", weight, rows))) for rows in (loud, quiet)]
    assert shrinks[0] > 0.8 and shrinks[1] < 0.3


def test_the_grids_are_those_of_llm_compressor():
    assert MSE_SHRINKS[0] == 1 and MSE_SHRINKS[-1] == pytest.approx(0.8) and len(MSE_SHRINKS) == 21
    assert IMATRIX_SHRINKS[0] == 1 and IMATRIX_SHRINKS[-1] == pytest.approx(0.05) and len(IMATRIX_SHRINKS) == 20


def test_the_share_of_clipped_groups():
    assert clip_share(1.0) == 0 and clip_share(torch.tensor([1, 1, 0.9, 0.5])) == 0.5
