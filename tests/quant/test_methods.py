"""The table of methods: every entry works on every format, and the README's example of a new one runs as printed."""

from __future__ import annotations

import re

import pytest
import torch
from layers import random_layer
from networks import Block, inputs

from edgelib.formats.table import FORMATS, decode
from edgelib.quant.methods import METHODS, Method
from edgelib.quant.methods.loss import output_error, output_power
from edgelib.quant.quantize import quantize
from edgelib.quant.report import quantization_report
from edgelib.quant.scheme import scheme

ROUNDING = [name for name in METHODS if name != "cast"]
NUMBERS = ["w8a8", "w4a16", "w3a8", "fp8", "mxfp8", "mxfp4", "nvfp4", "nvfp4-w4a8"]


@pytest.mark.parametrize("numbers", NUMBERS)
@pytest.mark.parametrize("method", ROUNDING)
def test_every_method_rounds_every_format(method, numbers):
    spec = f"{numbers}-{method}" + ("-channel" if numbers == "w4a16" else "")
    layer = random_layer(spec, width=40)  # a last block of mx and nvfp4 that is not full
    encoded, notes = METHODS[method].round_weight(layer)
    assert encoded.codes.shape == layer.weight.shape and encoded.codes.dtype == layer.scheme.weight_format.storage
    # 2.5 bits of signal at least: a scale or group mixed up gives far less
    assert output_error(layer, decode(encoded)).sum() < 0.1 * output_power(layer).sum()
    assert all(isinstance(value, int | float | str) for value in notes.values())


@pytest.mark.parametrize("method", [name for name in ROUNDING if METHODS[name].migrate])
def test_every_migration_is_positive_and_finite(method):
    layer = random_layer(f"w4a8-{method}")
    scales = METHODS[method].migrate([layer]).scales
    assert scales.shape == (32,) and torch.isfinite(scales).all() and (scales > 0).all()
    assert scales[5] == 1, "a channel that calibration never saw active stays"


@pytest.mark.parametrize("method", ROUNDING)
def test_precision_grows_into_identity(method):
    errors = []
    for numbers in ("w3a32", "w4a32", "w8a32"):
        layer = random_layer(f"{numbers}-{method}" + ("" if numbers == "w8a32" else "-channel"))
        rounded = decode(METHODS[method].round_weight(layer).encoded)
        errors.append(float(output_error(layer, rounded).sum() / output_power(layer).sum()))
    assert errors == sorted(errors, reverse=True) and errors[-1] < 1e-3


def test_names_of_methods_fit_the_grammar():
    assert all(re.fullmatch(r"[a-z]+", name) and method.label for name, method in METHODS.items())


def test_the_readme_s_new_method_works_as_printed(root, monkeypatch):
    section = (root / "README.md").read_text(encoding="utf-8").partition("### A method, step by step")[2]
    file, line = re.findall(r"```python\n(.*?)```", section, re.DOTALL)[:2]
    made = {"Method": Method}
    exec(compile(file, "sigma.py", "exec"), made)
    ((name, method),) = eval("{" + line + "}", made).items()
    monkeypatch.setitem(METHODS, name, method)
    named = re.findall(r"`([\w-]+-sigma[\w-]*)`", section)
    assert len(named) >= 3
    for spec in named:
        assert scheme(scheme(spec).name) == scheme(spec) and "three-sigma ranges" in scheme(spec).label
    torch.manual_seed(0)
    block = Block().eval()
    report = quantization_report(quantize(block, "w4a8-sigma"))
    assert (report["method"] == "sigma").all() and report["clip_share"].between(0, 1).all()
    layer = random_layer("w4a8-sigma", width=400)
    layer.weight[0, 0] = 100.0
    layer.weight[1] = 0
    encoded, notes = method.round_weight(layer)
    assert torch.isfinite(decode(encoded)).all() and 0 < notes["clip_share"] <= 1
    reach = 3 * layer.weight.std(dim=1)
    assert decode(encoded)[0].abs().max() == pytest.approx(float(reach[0]), rel=1e-5)
    assert encoded.format == FORMATS["int4"] and torch.isfinite(quantize(block, "w4a8-sigma")(inputs())).all()
