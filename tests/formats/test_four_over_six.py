"""Four over six: each block of NVFP4 on the better of two scales, against a brute force, in schemes and files."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from edgelib import fake_quantize, packed_size, quantize
from edgelib.errors import EdgelibError
from edgelib.files.description import _format_fields, _read_format
from edgelib.formats.blocks import split
from edgelib.formats.table import FORMATS, codes_on_grid, decode, encode
from edgelib.quant.scheme import scheme

GRID = torch.tensor([0.0, 0.5, 1, 1.5, 2, 3, 4, 6])
RULE = FORMATS["nvfp4"].variant(scale_rule="fouroversix")


def weights(rows: int = 32, width: int = 64, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, width, generator=generator) * torch.rand(rows, 1, generator=generator).exp()


def errors(x: torch.Tensor, rounded: torch.Tensor) -> torch.Tensor:
    return (split(rounded, 16) - split(x, 16)).square().sum(-1)


def test_no_block_is_worse_off_and_many_are_better():
    x = weights()
    six, both = (errors(x, fake_quantize(x, "nvfp4", scale_rule=rule)) for rule in (None, "fouroversix"))
    assert (both <= six).all()
    assert (both < six).float().mean() > 0.2
    assert both.sum() < 0.95 * six.sum()


def test_each_block_has_the_better_of_the_two_scales():
    x = weights(8, 32)
    outer = x.abs().max() / (6 * 448)
    expected = []
    for block in split(x, 16).flatten(0, 1):
        found = []
        for top in (6, 4):
            scale = (block.abs().max() / (top * outer)).clamp(max=448).to(torch.float8_e4m3fn).float() * outer
            nearest = GRID[((block.abs() / scale)[:, None] - GRID).abs().argmin(1)] * block.sign() * scale
            found.append((float((nearest - block).square().sum()), top))
        expected.append(min(found)[0])
    assert torch.allclose(errors(x, fake_quantize(x, RULE)).flatten(), torch.tensor(expected), rtol=1e-4)


def test_a_block_of_values_near_its_largest_takes_four():
    x = torch.full((1, 16), 4.9)
    x[0, 0] = 6.0
    x = torch.cat([x, torch.full((1, 16), 60.0)])
    assert errors(x, fake_quantize(x, RULE))[0] < 0.5 * errors(x, fake_quantize(x, "nvfp4"))[0]


def test_codes_come_back_from_values_and_from_a_description():
    x = weights()
    encoded = encode(x, RULE)
    assert torch.equal(codes_on_grid(decode(encoded), RULE, encoded.scale).view(torch.uint8), encoded.codes)
    assert _read_format(_format_fields(RULE), "here") == RULE
    assert _format_fields(FORMATS["nvfp4"]) == {"name": "nvfp4"}


def test_schemes_take_the_rule_for_weights_and_inputs():
    torch.manual_seed(0)
    layer = nn.Sequential(nn.Linear(64, 32))
    x = weights(4)
    for name in ("nvfp4-fouroversix", "nvfp4-w4a16-fouroversix", "nvfp4-gptq-fouroversix", "nvfp4-static-fouroversix"):
        chosen = scheme(name)
        assert scheme(chosen.name) == chosen and "fouroversix" in chosen.name and "fouroversix" in chosen.label
        quantized = quantize(layer, chosen, [x])
        assert quantized[0].format == RULE
        assert packed_size(layer, chosen) == packed_size(layer, "nvfp4-w4a16") or "static" in name
    rows = quantize(layer, "nvfp4-fouroversix")[0].round_input(x)
    assert torch.equal(rows, fake_quantize(x, RULE, granularity="token"))
    assert torch.equal(rows[:1], quantize(layer, "nvfp4-fouroversix")[0].round_input(x[:1]))  # no batch matters


def test_rules_of_other_formats_are_refused():
    with pytest.raises(EdgelibError, match="'rceil' belongs to the mx formats; nvfp4 takes fouroversix or none"):
        scheme("nvfp4-rceil")
    with pytest.raises(EdgelibError, match="unknown scale rule 'fouroversix'"):
        scheme("mxfp4-fouroversix")
